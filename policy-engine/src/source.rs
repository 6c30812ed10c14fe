//! A bundle's source text and its digest.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::schema::SCHEMA_VERSION;

/// The files of one verified commit that make up a policy bundle.
///
/// `files` maps a path from the repository's root, with `/`, to its text: `signet.yaml`, `policies/**/*.cedar`,
/// `tests/**/*.yaml` and `invariants/**/*.cedar`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleSource {
    /// 40 hex digits, or a word such as `working-tree` where there is no commit.
    pub commit: String,
    /// Who signed the commit: the principal of the trusted signer.
    pub signer: String,
    pub files: BTreeMap<String, String>,
}

impl BundleSource {
    /// The bundle digest: what every record names, equal on every machine for equal files.
    ///
    /// Format, frozen: `sha256:` and 64 lowercase hex digits of SHA-256 over these bytes, where `LF` is `0x0A` and `NUL`
    /// is `0x00`:
    ///
    /// ```text
    /// "signet-bundle-v1" LF
    /// "schema " SCHEMA_VERSION LF
    /// for each file, in ascending byte order of its path:
    ///     path NUL lowercase-hex(SHA-256(content)) LF
    /// ```
    ///
    /// The commit and the signer are not part of it: two commits with equal files are one bundle.
    pub fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        context.update(b"signet-bundle-v1\n");
        context.update(format!("schema {SCHEMA_VERSION}\n").as_bytes());
        for (path, text) in &self.files {
            context.update(path.as_bytes());
            context.update(b"\0");
            context.update(hex::encode(digest(&SHA256, text.as_bytes())).as_bytes());
            context.update(b"\n");
        }
        format!("sha256:{}", hex::encode(context.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: &[(&str, &str)]) -> BundleSource {
        BundleSource {
            commit: "c".into(),
            signer: "s".into(),
            files: files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect(),
        }
    }

    #[test]
    fn digest_is_fixed_by_its_documented_format() {
        // sha256("signet-bundle-v1\nschema 1\n"), and with one empty file.
        let empty = digest(&SHA256, b"signet-bundle-v1\nschema 1\n");
        assert_eq!(source(&[]).digest(), format!("sha256:{}", hex::encode(empty)));
        let line = "signet-bundle-v1\nschema 1\nsignet.yaml\0e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";
        assert_eq!(
            source(&[("signet.yaml", "")]).digest(),
            format!("sha256:{}", hex::encode(digest(&SHA256, line.as_bytes())))
        );
    }

    #[test]
    fn digest_sees_paths_and_contents_but_not_commit() {
        let a = source(&[("a", "x"), ("b", "y")]);
        assert_ne!(a.digest(), source(&[("a", "y"), ("b", "x")]).digest());
        assert_ne!(a.digest(), source(&[("a", "x")]).digest());
        let other = BundleSource { commit: "d".into(), ..a.clone() };
        assert_eq!(a.digest(), other.digest());
    }
}
