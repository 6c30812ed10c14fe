//! Trusted signers, in the format of OpenSSH's `allowed_signers` (ssh-keygen(1), ALLOWED SIGNERS).
//!
//! They come from the control plane's own configuration and never from the repository that they vouch for. Narrower
//! than OpenSSH on purpose: a principal is one e-mail address without wildcards, certificate authorities are refused,
//! and a time without `Z` is UTC too, so that it means the same on every machine.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, Fingerprint, HashAlg, PublicKey, SshSig};
use thiserror::Error;

use crate::refusal::Cause;

/// The namespace that Git signs commits in.
const GIT: &str = "git";

#[derive(Debug, Error)]
pub enum SignersError {
    #[error("cannot read the trusted signers in `{}`: {source}; check `trusted_signers` in the configuration", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {why}; a line is `EMAIL[,EMAIL] [OPTIONS] KEYTYPE KEY`, as in OpenSSH's allowed_signers", .path.display())]
    Line { path: PathBuf, line: usize, why: String },
}

/// Who may sign policy commits.
#[derive(Clone, Debug, Default)]
pub struct TrustedSigners(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    principals: Vec<String>,
    key: KeyData,
    /// `None` allows every namespace.
    namespaces: Option<Vec<String>>,
    /// Unix seconds.
    valid_after: Option<i64>,
    valid_before: Option<i64>,
}

/// What a signature has to fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) signature: &'a [u8],
    pub(crate) signed: &'a [u8],
    pub(crate) author: &'a str,
    pub(crate) committer: &'a str,
    /// Unix seconds at which the key has to be valid.
    pub(crate) times: &'a [i64],
}

impl TrustedSigners {
    pub fn load(path: impl AsRef<Path>) -> Result<Self, SignersError> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| SignersError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, why)| SignersError::Line { path: path.to_owned(), line, why })
    }

    /// Parses the file's text; an error gives its line, from 1.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut entries = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                entries.push(parse_line(line).map_err(|why| (number, why))?);
            }
        }
        Ok(Self(entries))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The principal that signed, or why the signature does not count.
    pub(crate) fn verify(&self, claim: &Claim<'_>) -> Result<String, Cause> {
        let Claim { author, committer, .. } = claim;
        let (fingerprint, known) = self.key_of(GIT, claim.signed, claim.signature)?;
        let named =
            |email: &str| known.iter().filter(|e| e.principals.iter().any(|p| p == email)).copied().collect::<Vec<_>>();
        let of_author = named(author);
        if of_author.is_empty() {
            let message =
                format!("the author is <{author}>, but the key {fingerprint} is trusted for <{}>", principals(&known));
            return Err(Cause::new("signer_not_author", message));
        }
        if named(committer).is_empty() {
            let message = format!(
                "the committer is <{committer}>, but the key {fingerprint} is trusted for <{}>",
                principals(&known)
            );
            return Err(Cause::new("signer_not_committer", message));
        }
        let mut cause = None;
        for entry in of_author {
            match entry.admits(GIT, claim.times) {
                Ok(()) => return Ok((*author).to_owned()),
                Err((code, why)) => {
                    cause = Some(Cause::new(code, format!("the key {fingerprint} of <{author}> {why}")))
                }
            }
        }
        Err(cause.unwrap_or_else(|| Cause::new("untrusted_signer", "no trusted signer fits")))
    }

    /// Everybody whose key made this signature over `signed` in `namespace`, valid at `now` (Unix seconds); never empty.
    /// They count as one person: a key is held by one.
    pub(crate) fn holders(
        &self,
        namespace: &str,
        signed: &[u8],
        signature: &[u8],
        now: i64,
    ) -> Result<Vec<String>, Cause> {
        let (fingerprint, known) = self.key_of(namespace, signed, signature)?;
        let (mut holders, mut cause) = (Vec::new(), None);
        for entry in known {
            match entry.admits(namespace, &[now]) {
                Ok(()) => holders.extend(entry.principals.iter().cloned()),
                Err((code, why)) => cause = Some(Cause::new(code, format!("the key {fingerprint} {why}"))),
            }
        }
        match cause.filter(|_| holders.is_empty()) {
            Some(cause) => Err(cause),
            None => Ok(holders),
        }
    }

    /// The fingerprint of the key that made an SSH signature, and its entries; never none.
    fn key_of(&self, namespace: &str, signed: &[u8], signature: &[u8]) -> Result<(Fingerprint, Vec<&Entry>), Cause> {
        if !signature.starts_with(b"-----BEGIN SSH SIGNATURE-----") {
            let message = "the signature is not an SSH signature; sign with `git config gpg.format ssh`";
            return Err(Cause::new("unsupported_signature", message));
        }
        let bad = |why: String| Cause::new("bad_signature", why);
        let signature = SshSig::from_pem(signature).map_err(|e| bad(format!("the signature is malformed: {e}")))?;
        if matches!(signature.signature().algorithm(), Algorithm::Rsa { hash: None }) {
            return Err(bad("the signature is RSA with SHA-1".to_owned()));
        }
        let key = PublicKey::from(signature.public_key().clone());
        key.verify(namespace, signed, &signature)
            .map_err(|_| bad("the signature does not fit what it is to sign".to_owned()))?;
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        let known: Vec<&Entry> = self.0.iter().filter(|e| e.key == *signature.public_key()).collect();
        if known.is_empty() {
            let message = format!("the key {fingerprint} is not among the trusted signers");
            return Err(Cause::new("untrusted_signer", message));
        }
        Ok((fingerprint, known))
    }
}

fn principals(entries: &[&Entry]) -> String {
    entries.iter().flat_map(|e| e.principals.iter().map(String::as_str)).collect::<Vec<_>>().join(">, <")
}

impl Entry {
    fn admits(&self, namespace: &str, times: &[i64]) -> Result<(), (&'static str, &'static str)> {
        if self.namespaces.as_ref().is_some_and(|n| !n.iter().any(|n| n == namespace)) {
            return Err(("untrusted_signer", "is not trusted for this namespace (`namespaces`)"));
        }
        for time in times {
            if self.valid_after.is_some_and(|after| *time < after) {
                return Err(("signer_not_yet_valid", "was not yet valid (`valid-after`)"));
            }
            if self.valid_before.is_some_and(|before| *time >= before) {
                return Err(("signer_expired", "is no longer valid (`valid-before`)"));
            }
        }
        Ok(())
    }
}

fn parse_line(line: &str) -> Result<Entry, String> {
    let (names, rest) = split_word(line);
    let principals: Vec<String> = names.trim_matches('"').split(',').map(str::to_owned).collect();
    if let Some(bad) = principals.iter().find(|p| p.is_empty() || p.contains(['*', '?', '!'])) {
        return Err(format!("`{bad}` is not one e-mail address (wildcards are not accepted)"));
    }
    let is_key_type = |word: &str| ["ssh-", "ecdsa-", "sk-"].iter().any(|p| word.starts_with(p));
    let (first, after) = split_word(rest);
    let (options, key) = if is_key_type(first) { ("", rest) } else { (first, after) };
    let key = PublicKey::from_openssh(key.trim()).map_err(|e| format!("the key is malformed: {e}"))?;
    let mut entry =
        Entry { principals, key: key.key_data().clone(), namespaces: None, valid_after: None, valid_before: None };
    for option in split_outside_quotes(options, ',').filter(|o| !o.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = value.trim_matches('"');
        match name.to_ascii_lowercase().as_str() {
            "namespaces" => entry.namespaces = Some(value.split(',').map(|n| n.trim().to_owned()).collect()),
            "valid-after" => entry.valid_after = Some(parse_time(value)?),
            "valid-before" => entry.valid_before = Some(parse_time(value)?),
            "cert-authority" => return Err("`cert-authority` is not accepted; list each key".to_owned()),
            _ => return Err(format!("`{name}` is not an option")),
        }
    }
    Ok(entry)
}

/// `YYYYMMDD[HHMM[SS]][Z]`, in UTC either way, as Unix seconds.
fn parse_time(text: &str) -> Result<i64, String> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let bad = || format!("`{text}` is not `YYYYMMDD[HHMM[SS]]Z`");
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 8 | 12 | 14) {
        return Err(bad());
    }
    let part = |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), |d| d.parse::<i8>().map_err(|_| bad()));
    let year = digits.get(..4).and_then(|d| d.parse::<i16>().ok()).ok_or_else(bad)?;
    let time = DateTime::new(year, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?, 0)
        .and_then(|time| time.to_zoned(TimeZone::UTC))
        .map_err(|_| bad())?;
    Ok(time.timestamp().as_second())
}

/// The first word, quotes respected, and the rest.
fn split_word(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let end = text.find(|c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    });
    match end {
        Some(end) => (text.get(..end).unwrap_or(text), text.get(end..).unwrap_or("").trim_start()),
        None => (text, ""),
    }
}

fn split_outside_quotes(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == at && !quoted
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJQr5kfL+HMz9bDwj9zaT8G0VAWVMK5/mdDXQldc0lsL";

    #[test]
    fn lines_of_allowed_signers_are_read() {
        let text = format!(
            "# people\n\na@b.c,d@e.f {KEY} comment\n\
             a@b.c namespaces=\"git,file\",valid-after=\"20240102\",valid-before=\"20250102030405Z\" {KEY}\n"
        );
        let signers = TrustedSigners::parse(&text).unwrap();
        assert_eq!(signers.len(), 2);
        assert_eq!(signers.0[0].principals, ["a@b.c", "d@e.f"]);
        let second = &signers.0[1];
        assert_eq!(second.namespaces.as_deref(), Some(&["git".to_owned(), "file".to_owned()][..]));
        assert_eq!((second.valid_after, second.valid_before), (Some(1_704_153_600), Some(1_735_787_045)));
        assert!(second.admits(GIT, &[1_704_153_600]).is_ok());
        assert_eq!(second.admits(GIT, &[1_704_153_599]).unwrap_err().0, "signer_not_yet_valid");
        assert_eq!(second.admits(GIT, &[1_704_153_600, 1_735_787_045]).unwrap_err().0, "signer_expired");
    }

    #[test]
    fn lines_that_mean_more_than_one_person_are_refused() {
        let table = [
            (format!("*@b.c {KEY}"), "wildcards"),
            (format!("a@b.c cert-authority {KEY}"), "cert-authority"),
            (format!("a@b.c friendly {KEY}"), "`friendly` is not an option"),
            (format!("a@b.c valid-before=\"soon\" {KEY}"), "YYYYMMDD"),
            ("a@b.c ssh-ed25519 AAAA".to_owned(), "malformed"),
            ("a@b.c".to_owned(), "malformed"),
        ];
        for (line, word) in table {
            let (number, why) = TrustedSigners::parse(&format!("\n{line}")).unwrap_err();
            assert_eq!(number, 2);
            assert!(why.contains(word), "{line}: {why}");
        }
    }
}
