//! C2SP tlog-cosignature: what a witness signs over another log's checkpoint, and its keys.
//!
//! A cosignature is a line of the checkpoint's note. It signs `cosignature/v1`, the time and the note's text, so that it
//! says: at this time this checkpoint was the latest that the witness had seen of the log, and it continues all before.

use std::path::Path;

use aws_lc_rs::signature::{ED25519, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{LogKey, NoteError, key_id, parse_verifier, write_public};

/// Signature type of a timestamped Ed25519 cosignature in a signed note.
const COSIGNATURE_TYPE: u8 = 4;

/// The key with which a witness cosigns. Its file has the form of a log's key file.
#[derive(Debug)]
pub struct CosignerKey(LogKey);

impl CosignerKey {
    /// Reads the key of the witness `name`, or makes one (mode 0600) when the file is absent. Writes the verifier key
    /// beside it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds another's key.
    pub fn load_or_create(path: &Path, name: &str) -> Result<Self, NoteError> {
        let key = Self(LogKey::read_or_create(path, name)?);
        write_public(path, &key.verifier_key())?;
        Ok(key)
    }

    /// The key that a seed makes.
    ///
    /// # Errors
    /// When the library refuses the seed.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        LogKey::from_seed(name, seed).map(Self)
    }

    fn typed_public(&self) -> Vec<u8> {
        let mut public = vec![COSIGNATURE_TYPE];
        public.extend_from_slice(self.0.pair.public_key().as_ref());
        public
    }

    /// `<name>+<key id>+<base64>`, what a verifier of cosignatures needs.
    #[must_use]
    pub fn verifier_key(&self) -> String {
        let public = self.typed_public();
        format!("{}+{}+{}", self.0.name, hex::encode(key_id(&self.0.name, &public)), STANDARD.encode(public))
    }

    /// Cosigns the text of a checkpoint at a time in Unix seconds: a line, with its end, to append to the note.
    #[must_use]
    pub fn cosign(&self, text: &str, time: u64) -> String {
        let mut bytes = key_id(&self.0.name, &self.typed_public()).to_vec();
        bytes.extend_from_slice(&time.to_be_bytes());
        bytes.extend_from_slice(self.0.pair.sign(message(text, time).as_bytes()).as_ref());
        format!("\u{2014} {} {}\n", self.0.name, STANDARD.encode(bytes))
    }
}

fn message(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// What verifies the cosignatures of a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignerVerifier {
    name: String,
    typed_public: Vec<u8>,
}

impl std::str::FromStr for CosignerVerifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, typed_public) = parse_verifier(text, COSIGNATURE_TYPE)?;
        Ok(Self { name, typed_public })
    }
}

impl CosignerVerifier {
    /// The witness's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This witness's cosignature of `text` among the lines of signatures: the line, with its end, and when it was made
    /// (Unix seconds). The latest, when there are several.
    #[must_use]
    pub fn find(&self, text: &str, signatures: &str) -> Option<(String, u64)> {
        let prefix = format!("\u{2014} {} ", self.name);
        let of_ours = signatures.lines().filter_map(|line| Some((line, line.strip_prefix(&prefix)?)));
        of_ours
            .filter_map(|(line, encoded)| Some((format!("{line}\n"), self.verified(text, encoded)?)))
            .max_by_key(|(_, time)| *time)
    }

    fn verified(&self, text: &str, encoded: &str) -> Option<u64> {
        let bytes = STANDARD.decode(encoded).ok()?;
        let (id, rest) = bytes.split_first_chunk::<4>()?;
        let (time, signature) = rest.split_first_chunk::<8>()?;
        let time = u64::from_be_bytes(*time);
        let (_, public) = self.typed_public.split_first()?;
        let holds = UnparsedPublicKey::new(&ED25519, public).verify(message(text, time).as_bytes(), signature);
        (*id == key_id(&self.name, &self.typed_public) && holds.is_ok()).then_some(time)
    }
}

/// The text of a note with its last line's end, and its lines of signatures.
#[must_use]
pub fn split_note(note: &str) -> Option<(&str, &str)> {
    let at = note.find("\n\n")?;
    Some((note.get(..=at)?, note.get(at + 2..)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::note::VerifierKey;

    #[test]
    fn a_cosignature_holds_for_its_text_its_time_and_its_witness_alone() {
        let log = LogKey::from_seed("east.bank.example/signet-log", &[7; 32]).unwrap();
        let note = log.sign_checkpoint(42, &[9; 32]);
        let (text, own) = split_note(&note).unwrap();
        assert!(text.ends_with("=\n") && own.starts_with('\u{2014}'), "{text}{own}");
        let key = CosignerKey::from_seed("west.bank.example/signet-witness", &[1; 32]).unwrap();
        let verifier: CosignerVerifier = key.verifier_key().parse().unwrap();
        let line = key.cosign(text, 1_700_000_000);
        let cosigned = format!("{note}{line}");
        let (_, signatures) = split_note(&cosigned).unwrap();
        assert_eq!(verifier.find(text, signatures), Some((line.clone(), 1_700_000_000)));
        let later = key.cosign(text, 1_700_000_001);
        assert_eq!(verifier.find(text, &format!("{later}{line}")), Some((later, 1_700_000_001)));
        // The log's own signature still opens the note.
        let opener: VerifierKey = log.verifier_key().parse().unwrap();
        assert_eq!(opener.open_checkpoint(&cosigned).unwrap().size, 42);

        assert_eq!(verifier.find(&text.replace("\n42\n", "\n43\n"), signatures), None);
        assert_eq!(verifier.find(text, own), None, "the log's signature is no cosignature");
        let other = CosignerKey::from_seed("west.bank.example/signet-witness", &[2; 32]).unwrap();
        assert_eq!(other.verifier_key().parse::<CosignerVerifier>().unwrap().find(text, signatures), None);
        // A byte of the time, of the signature.
        let encoded = line.trim_end().rsplit(' ').next().unwrap();
        let bytes = STANDARD.decode(encoded).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let line = format!("\u{2014} west.bank.example/signet-witness {}\n", STANDARD.encode(changed));
            assert_eq!(verifier.find(text, &line), None, "byte {at}");
        }
        // Kinds of keys are not taken for each other.
        assert!(key.verifier_key().parse::<VerifierKey>().is_err());
        assert!(log.verifier_key().parse::<CosignerVerifier>().is_err());
    }
}
