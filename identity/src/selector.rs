//! Selectors: what must hold of a workload for an entry to be its.

use std::{fmt, path::PathBuf, str::FromStr};

/// `unix:uid:N`, `unix:gid:N`, `unix:path:/bin/x`, `unix:sha256:HEX` or `unix:socket:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The caller's user.
    Uid(u32),
    /// The caller's primary group.
    Gid(u32),
    /// The caller's executable.
    Path(PathBuf),
    /// SHA-256 of the caller's executable, lower-case hexadecimal.
    Sha256(String),
    /// The Workload API socket that the caller was given.
    Socket(SocketName),
}

/// The name of a workload's own Workload API socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketName(String);

impl SocketName {
    /// The file in the agent's socket directory: `/` becomes `-`, `.sock` is added.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.sock", self.0.replace('/', "-"))
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a selector was not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectorError {
    /// Not one of the five kinds.
    #[error("not a selector; use unix:uid:N, unix:gid:N, unix:path:/FILE, unix:sha256:HEX or unix:socket:NAME")]
    Kind,
    /// Not a number.
    #[error("the user or group must be a number")]
    Number,
    /// Not absolute.
    #[error("the path must be absolute and without `..`")]
    Path,
    /// Not a digest.
    #[error("the SHA-256 must be 64 lower-case hexadecimal digits")]
    Digest,
    /// Not a socket name.
    #[error("a socket's name has 1 to 64 of `a-z A-Z 0-9 . _ - /` and starts with a letter or digit")]
    Socket,
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let rest = text.strip_prefix("unix:").ok_or(SelectorError::Kind)?;
        let (kind, value) = rest.split_once(':').ok_or(SelectorError::Kind)?;
        match kind {
            "uid" => value.parse().map(Self::Uid).map_err(|_| SelectorError::Number),
            "gid" => value.parse().map(Self::Gid).map_err(|_| SelectorError::Number),
            "path" if value.starts_with('/') && !value.split('/').any(|part| part == "..") => {
                Ok(Self::Path(PathBuf::from(value)))
            }
            "path" => Err(SelectorError::Path),
            "sha256" if value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Self::Sha256(value.to_owned()))
            }
            "sha256" => Err(SelectorError::Digest),
            "socket" => socket_name(value).map(Self::Socket).ok_or(SelectorError::Socket),
            _ => Err(SelectorError::Kind),
        }
    }
}

fn socket_name(value: &str) -> Option<SocketName> {
    let first = value.bytes().next()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    (value.len() <= 64 && first.is_ascii_alphanumeric() && value.bytes().all(allowed))
        .then(|| SocketName(value.to_owned()))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "unix:uid:{uid}"),
            Self::Gid(gid) => write!(f, "unix:gid:{gid}"),
            Self::Path(path) => write!(f, "unix:path:{}", path.display()),
            Self::Sha256(digest) => write!(f, "unix:sha256:{digest}"),
            Self::Socket(name) => write!(f, "unix:socket:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_every_kind() {
        let digest = format!("unix:sha256:{}", "0a".repeat(32));
        for text in ["unix:uid:0", "unix:gid:42", "unix:path:/usr/bin/x", digest.as_str(), "unix:socket:bank/web"] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_could_never_match_or_would_leave_its_directory() {
        let check = |text: &str, expected: SelectorError| assert_eq!(text.parse::<Selector>(), Err(expected), "{text}");
        check("uid:0", SelectorError::Kind);
        check("unix:user:me", SelectorError::Kind);
        check("unix:uid:-1", SelectorError::Number);
        check("unix:gid:", SelectorError::Number);
        check("unix:path:bin/x", SelectorError::Path);
        check("unix:path:/bin/../x", SelectorError::Path);
        check("unix:sha256:ABCD", SelectorError::Digest);
        check("unix:socket:", SelectorError::Socket);
        check("unix:socket:../x", SelectorError::Socket);
        check("unix:socket:/x", SelectorError::Socket);
        check("unix:socket:a b", SelectorError::Socket);
    }
}
