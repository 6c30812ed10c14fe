//! Secrets in files: short, printable, and readable by their owner alone.

use std::io::Read as _;
use std::path::{Path, PathBuf};

const LENGTH: std::ops::RangeInclusive<usize> = 16..=1_024;

/// A secret; never shown.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Why a file is no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadSecret {
    /// It cannot be read.
    #[error("cannot read secret file `{path}`; make it with 32 random bytes in hex and mode 0600")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("secret file `{path}` can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else.
    #[error("secret file `{path}` must hold one line of 16 to 1024 printable characters")]
    Unfit {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// Reads a secret, without the end of its line.
    ///
    /// # Errors
    /// When the file cannot be read, can be read by others, or holds something else.
    pub(crate) fn read(path: &Path) -> Result<Self, BadSecret> {
        use std::os::unix::fs::PermissionsExt as _;
        let unreadable = |source| BadSecret::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(BadSecret::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(*LENGTH.end() as u64 + 2).read_to_string(&mut text).map_err(unreadable)?;
        let secret = text.trim_end();
        if !LENGTH.contains(&secret.len()) || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadSecret::Unfit { path: path.to_owned() });
        }
        Ok(Self(secret.to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_a_secret_of_its_owner_is_taken_and_it_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        let write = |content: &str, mode| {
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            Secret::read(&file)
        };
        let secret = write("0123456789abcdef\n", 0o600).unwrap();
        assert_eq!((secret.expose(), format!("{secret:?}").as_str()), ("0123456789abcdef", "Secret"));
        assert!(matches!(write("0123456789abcdef", 0o640), Err(BadSecret::Exposed { mode: 0o640, .. })));
        for unfit in ["", "short", "0123456789 abcdef", "0123456789\nabcdef0"] {
            assert!(matches!(write(unfit, 0o600), Err(BadSecret::Unfit { .. })), "{unfit}");
        }
    }
}
