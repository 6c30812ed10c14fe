//! C2SP signed notes and checkpoints with Ed25519, and the log's key on disk.
//!
//! The key file holds `PRIVATE+KEY+<name>+<key id>+<base64>`, the form of Go's `sumdb/note`; the verifier key
//! `<name>+<key id>+<base64>` lies beside it as `<file>.pub`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::merkle::Hash;

mod cosignature;

pub use cosignature::{CosignerKey, CosignerVerifier, split_note};

/// Signature type of Ed25519 in a signed note.
const ED25519_TYPE: u8 = 1;

/// Why a key or a note is refused.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// read, write, ..
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key file is not one, or of another log.
    #[error("`{}` is not a key of log `{name}`: {why}; restore the right file, for a new key makes a new log", path.display())]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// The log's origin.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A verifier key is malformed.
    #[error("`{0}` is not a verifier key; it looks like NAME+8 HEX DIGITS+BASE64")]
    VerifierKey(String),
    /// The note's signature is missing or wrong.
    #[error("the note is not signed by `{0}`")]
    Signature(String),
    /// The note is not a checkpoint.
    #[error("the note is not a checkpoint: {0}")]
    Checkpoint(&'static str),
    /// The note says something else than what lies beside it.
    #[error("the signed statement is of another manifest")]
    Statement,
    /// The random generator or the signer failed.
    #[error("the cryptographic library failed to {0}")]
    Crypto(&'static str),
}

/// The log's signing key.
pub struct LogKey {
    name: String,
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogKey").field(&self.name).finish_non_exhaustive()
    }
}

impl LogKey {
    /// Reads the key of log `name`, or makes one (mode 0600) when the file is absent. Writes the verifier key beside it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds another log's key.
    pub fn load_or_create(path: &Path, name: &str) -> Result<Self, NoteError> {
        let key = Self::read_or_create(path, name)?;
        write_public(path, &key.verifier_key())?;
        Ok(key)
    }

    fn read_or_create(path: &Path, name: &str) -> Result<Self, NoteError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, name, text.trim()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(path, name),
            Err(source) => Err(NoteError::File { action: "read", path: path.to_owned(), source }),
        }
    }

    fn create(path: &Path, name: &str) -> Result<Self, NoteError> {
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| NoteError::Crypto("make a key"))?;
        let key = Self::from_seed(name, &seed)?;
        let mut secret = vec![ED25519_TYPE];
        secret.extend_from_slice(&seed);
        let text = format!("PRIVATE+KEY+{name}+{}+{}\n", hex::encode(key.id()), STANDARD.encode(&secret));
        write_whole(path, text.as_bytes(), 0o600)?;
        Ok(key)
    }

    fn parse(path: &Path, name: &str, text: &str) -> Result<Self, NoteError> {
        let bad = |why| NoteError::KeyFile { path: path.to_owned(), name: name.to_owned(), why };
        let mode = fs::metadata(path)
            .map_err(|source| NoteError::File { action: "read", path: path.to_owned(), source })?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(bad("others may read it; chmod 600"));
        }
        let rest = text.strip_prefix("PRIVATE+KEY+").ok_or_else(|| bad("it does not begin with PRIVATE+KEY+"))?;
        let mut parts = rest.splitn(3, '+');
        let (Some(owner), Some(id), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad("it has too few parts"));
        };
        if owner != name {
            return Err(bad("it names another log"));
        }
        let secret = STANDARD.decode(secret).map_err(|_| bad("the key is not base64"))?;
        let Some((&ED25519_TYPE, seed)) = secret.split_first() else {
            return Err(bad("the key is not Ed25519"));
        };
        let seed: [u8; 32] = seed.try_into().map_err(|_| bad("the key has the wrong length"))?;
        let key = Self::from_seed(name, &seed)?;
        if hex::encode(key.id()) != id {
            return Err(bad("its key id does not fit the key"));
        }
        Ok(key)
    }

    /// The key that a seed makes.
    ///
    /// # Errors
    /// When the library refuses the seed.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::Crypto("read a key"))?;
        Ok(Self { name: name.to_owned(), pair })
    }

    /// The log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn public(&self) -> Vec<u8> {
        let mut public = vec![ED25519_TYPE];
        public.extend_from_slice(self.pair.public_key().as_ref());
        public
    }

    fn id(&self) -> [u8; 4] {
        key_id(&self.name, &self.public())
    }

    /// `<name>+<key id>+<base64>`, what a verifier needs.
    #[must_use]
    pub fn verifier_key(&self) -> String {
        format!("{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(self.public()))
    }

    /// Signs a checkpoint of the log: a note of origin, size and root.
    #[must_use]
    pub fn sign_checkpoint(&self, size: u64, root: &Hash) -> String {
        self.sign(&format!("{}\n{size}\n{}\n", self.name, STANDARD.encode(root)))
    }

    /// Signs a statement: a note that no reader of checkpoints takes for one.
    #[must_use]
    pub fn sign_statement(&self, statement: &Statement) -> String {
        self.sign(&statement.text())
    }

    fn sign(&self, text: &str) -> String {
        let mut signature = self.id().to_vec();
        signature.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n\u{2014} {} {}\n", self.name, STANDARD.encode(&signature))
    }
}

/// The kinds of manifest that a log's key signs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// The manifest of an export.
    Export,
    /// The manifest of an evidence package.
    Evidence,
}

impl StatementKind {
    /// The kind that is called `name`, `export` or `evidence`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Export, Self::Evidence].into_iter().find(|kind| kind.name() == name)
    }

    /// As it stands in the note.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Evidence => "evidence",
        }
    }
}

/// What a log's key signs for beside checkpoints: the digest of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    kind: StatementKind,
    digest: Hash,
}

impl Statement {
    /// `digest` is the manifest's SHA-256.
    #[must_use]
    pub fn new(kind: StatementKind, digest: Hash) -> Self {
        Self { kind, digest }
    }

    /// `sha256:<hex>`.
    #[must_use]
    pub fn digest_text(&self) -> String {
        format!("sha256:{}", hex::encode(self.digest))
    }

    /// The text of the note. Its first line is no log's origin.
    fn text(&self) -> String {
        format!("signet.statement/v1\n{}\n{}\n", self.kind.name(), self.digest_text())
    }
}

/// First four bytes of `SHA-256(name || 0A || type || public key)`.
fn key_id(name: &str, typed_public: &[u8]) -> [u8; 4] {
    let mut input = name.as_bytes().to_vec();
    input.push(b'\n');
    input.extend_from_slice(typed_public);
    let mut id = [0; 4];
    for (to, from) in id.iter_mut().zip(digest(&SHA256, &input).as_ref()) {
        *to = *from;
    }
    id
}

/// What verifies a log's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    typed_public: Vec<u8>,
}

impl std::str::FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, typed_public) = parse_verifier(text, ED25519_TYPE)?;
        Ok(Self { name, typed_public })
    }
}

/// Name and typed public key of a verifier key of this signature type.
fn parse_verifier(text: &str, signature_type: u8) -> Result<(String, Vec<u8>), NoteError> {
    let bad = || NoteError::VerifierKey(text.to_owned());
    // The base64 may have `+` of its own, the name may not.
    let mut parts = text.trim().splitn(3, '+');
    let (Some(name), Some(id), Some(public)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad());
    };
    let typed_public = STANDARD.decode(public).map_err(|_| bad())?;
    let fits = typed_public.first() == Some(&signature_type)
        && typed_public.len() == 33
        && hex::encode(key_id(name, &typed_public)) == id;
    if !fits {
        return Err(bad());
    }
    Ok((name.to_owned(), typed_public))
}

/// Writes a verifier key beside the key file, as `<file>.pub`.
fn write_public(path: &Path, verifier_key: &str) -> Result<(), NoteError> {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    write_whole(&PathBuf::from(public), format!("{verifier_key}\n").as_bytes(), 0o644)
}

/// A signed tree head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

impl VerifierKey {
    /// The log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a checkpoint that this key signed.
    ///
    /// # Errors
    /// When the signature is missing or wrong, or the note is not a checkpoint of this log.
    pub fn open_checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let body = self.open(note)?;
        let mut lines = body.lines();
        if lines.next() != Some(self.name.as_str()) {
            return Err(NoteError::Checkpoint("it is of another log"));
        }
        let size = lines
            .next()
            .filter(|size| *size == "0" || !size.starts_with(['0', '+']))
            .and_then(|size| size.parse().ok())
            .ok_or(NoteError::Checkpoint("its second line is not a size"))?;
        let root = lines
            .next()
            .and_then(|root| STANDARD.decode(root).ok())
            .and_then(|root| root.try_into().ok())
            .ok_or(NoteError::Checkpoint("its third line is not a root"))?;
        Ok(Checkpoint { size, root })
    }

    /// Checks that this key signed `statement` in the note.
    ///
    /// # Errors
    /// When the signature is missing or wrong, or the note says something else.
    pub fn check_statement(&self, note: &str, statement: &Statement) -> Result<(), NoteError> {
        if self.open(note)? != statement.text() {
            return Err(NoteError::Statement);
        }
        Ok(())
    }

    /// The text of a note that this key signed.
    fn open(&self, note: &str) -> Result<String, NoteError> {
        let unsigned = || NoteError::Signature(self.name.clone());
        let (body, signatures) = note.split_once("\n\n").ok_or_else(unsigned)?;
        let body = format!("{body}\n");
        let id = key_id(&self.name, &self.typed_public);
        let (_, public) = self.typed_public.split_first().ok_or_else(unsigned)?;
        let prefix = format!("\u{2014} {} ", self.name);
        let signed = signatures.lines().filter_map(|line| line.strip_prefix(&prefix)).any(|encoded| {
            let Ok(bytes) = STANDARD.decode(encoded) else { return false };
            let Some((by, signature)) = bytes.split_at_checked(4) else { return false };
            by == id && UnparsedPublicKey::new(&ED25519, public).verify(body.as_bytes(), signature).is_ok()
        });
        if signed { Ok(body) } else { Err(unsigned()) }
    }
}

/// Writes a file whole: beside it, synced, then renamed.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), NoteError> {
    let failed = |action| move |source| NoteError::File { action, path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)
        .map_err(failed("write"))?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("protect"))?;
    file.write_all(content).map_err(failed("write"))?;
    file.sync_all().map_err(failed("sync"))?;
    fs::rename(&beside, path).map_err(failed("rename into"))?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync the directory of"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_checkpoint_opens_with_its_key_and_no_other() {
        let key = LogKey::from_seed("east.bank.example/signet-log", &[7; 32]).unwrap();
        let note = key.sign_checkpoint(42, &[9; 32]);
        let verifier: VerifierKey = key.verifier_key().parse().unwrap();
        assert_eq!(verifier.open_checkpoint(&note).unwrap(), Checkpoint { size: 42, root: [9; 32] });
        assert!(verifier.open_checkpoint(&note.replace("\n42\n", "\n43\n")).is_err());
        let other = LogKey::from_seed("east.bank.example/signet-log", &[8; 32]).unwrap();
        let other: VerifierKey = other.verifier_key().parse().unwrap();
        assert!(matches!(other.open_checkpoint(&note), Err(NoteError::Signature(_))));
        let renamed = key.verifier_key().replacen("east", "west", 1);
        assert!(renamed.parse::<VerifierKey>().is_err(), "the key id is bound to the name");
    }

    #[test]
    fn a_statement_is_no_checkpoint_and_speaks_of_one_manifest() {
        let key = LogKey::from_seed("east.bank.example/signet-log", &[7; 32]).unwrap();
        let verifier: VerifierKey = key.verifier_key().parse().unwrap();
        let statement = Statement::new(StatementKind::Export, [3; 32]);
        let note = key.sign_statement(&statement);
        verifier.check_statement(&note, &statement).unwrap();
        let other = Statement::new(StatementKind::Export, [4; 32]);
        assert!(matches!(verifier.check_statement(&note, &other), Err(NoteError::Statement)));
        let evidence = Statement::new(StatementKind::Evidence, [3; 32]);
        assert!(matches!(verifier.check_statement(&note, &evidence), Err(NoteError::Statement)));
        assert!(matches!(verifier.open_checkpoint(&note), Err(NoteError::Checkpoint(_))));
        assert!(verifier.check_statement(&key.sign_checkpoint(1, &[3; 32]), &statement).is_err());
        assert_eq!(StatementKind::named("checkpoint"), None);
    }

    #[test]
    fn a_key_file_is_made_once_private_and_bound_to_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/log.key");
        let made = LogKey::load_or_create(&path, "a/log").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = LogKey::load_or_create(&path, "a/log").unwrap();
        assert_eq!(made.verifier_key(), read.verifier_key());
        let public = fs::read_to_string(directory.path().join("keys/log.key.pub")).unwrap();
        assert_eq!(public.trim(), made.verifier_key());
        assert!(matches!(LogKey::load_or_create(&path, "b/log"), Err(NoteError::KeyFile { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(LogKey::load_or_create(&path, "a/log"), Err(NoteError::KeyFile { .. })));
    }
}
