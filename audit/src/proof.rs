//! C2SP tlog-proof files: one record with what proves that it is in its log, checked offline with public keys alone.
//!
//! The record's canonical bytes are the file's `extra` data, so that nothing else is needed. Pure.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signet_spool::Record;

use crate::merkle::{Hash, ProofError, leaf_hash, verify_inclusion};
use crate::note::{Checkpoint, NoteError, VerifierKey};

/// The first line of such a file.
pub const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// The longest that a file of ours can be: a record is at most 65,535 bytes, a path 63 hashes.
pub const MAX_BYTES: u64 = 256 * 1024;

/// One record, its path to the root and the checkpoint that signs the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Place in the log.
    pub index: u64,
    /// Canonical bytes of the record.
    pub canonical: Vec<u8>,
    /// Sibling hashes from the leaf to the root (RFC 6962, 2.1.1).
    pub hashes: Vec<Hash>,
    /// The signed note, with the cosignatures of witnesses.
    pub checkpoint: String,
}

/// Why a file proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum BadProof {
    /// It is no tlog-proof file.
    #[error("it is not a tlog-proof file of a record: {0}")]
    Form(&'static str),
    /// The checkpoint is of a log whose key is not trusted.
    #[error("no trusted key of log `{0}` was given")]
    Key(String),
    /// The checkpoint is not signed.
    #[error("the checkpoint does not hold")]
    Checkpoint(#[from] NoteError),
    /// The path does not lead to the signed root.
    #[error("the record is not in the signed tree")]
    Path(#[from] ProofError),
    /// What is in the tree is no record.
    #[error("what is in the tree is no record: {0}")]
    Record(String),
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nextra {}\nindex {}", STANDARD.encode(&self.canonical), self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Proof {
    type Err = BadProof;

    fn from_str(text: &str) -> Result<Self, BadProof> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or(BadProof::Form("it has no checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(BadProof::Form("its first line is another"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let canonical = extra
            .and_then(|extra| STANDARD.decode(extra).ok())
            .ok_or(BadProof::Form("its second line holds no record"))?;
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .filter(|index| *index == "0" || !index.starts_with(['0', '+']))
            .and_then(|index| index.parse().ok())
            .ok_or(BadProof::Form("its third line is not an index"))?;
        let hash = |line: &str| STANDARD.decode(line).ok()?.try_into().ok();
        let hashes = lines.map(hash).collect::<Option<_>>().ok_or(BadProof::Form("a line is not a hash"))?;
        Ok(Self { index, canonical, hashes, checkpoint: checkpoint.to_owned() })
    }
}

impl Proof {
    /// The record that is proved to be in the log, and the checkpoint that says so. Personal values are commitments in it.
    ///
    /// # Errors
    /// When it proves nothing under these keys.
    pub fn check(&self, keys: &[VerifierKey]) -> Result<(Record, Checkpoint), BadProof> {
        let origin = self.checkpoint.lines().next().unwrap_or_default();
        let key = keys.iter().find(|key| key.name() == origin).ok_or_else(|| BadProof::Key(origin.to_owned()))?;
        let checkpoint = key.open_checkpoint(&self.checkpoint)?;
        verify_inclusion(&leaf_hash(&self.canonical), self.index, checkpoint.size, &self.hashes, &checkpoint.root)?;
        let record = Record::decode(&self.canonical, &[]).map_err(|error| BadProof::Record(error.to_string()))?;
        Ok((record, checkpoint))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use signet_spool::Salts;

    use super::*;
    use crate::merkle::{node_hash, root_of};
    use crate::note::LogKey;

    fn proof() -> (Proof, VerifierKey) {
        let canonical = |producer: &str| {
            let record = Record { producer: producer.to_owned(), ..Record::default() };
            record.encode(&mut Salts::new()).unwrap().canonical
        };
        let records = ["a", "b", "c"].map(canonical);
        let leaves = records.each_ref().map(|bytes| leaf_hash(bytes));
        let key = LogKey::from_seed("east.bank.example/signet-log", &[7; 32]).unwrap();
        let checkpoint = key.sign_checkpoint(3, &root_of(&leaves));
        let hashes = vec![node_hash(&leaves[0], &leaves[1])];
        let proof = Proof { index: 2, canonical: records[2].clone(), hashes, checkpoint };
        (proof, key.verifier_key().parse().unwrap())
    }

    #[test]
    fn a_proof_survives_being_a_file_and_names_its_record() {
        let (proof, key) = proof();
        let read: Proof = proof.to_string().parse().unwrap();
        assert_eq!(read, proof);
        let (record, checkpoint) = read.check(&[key]).unwrap();
        assert_eq!((record.producer.as_str(), checkpoint.size), ("c", 3));
    }

    #[test]
    fn one_bit_of_a_file_or_another_key_proves_nothing() {
        let (proof, key) = proof();
        let text = proof.to_string().into_bytes();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            let Ok(changed) = String::from_utf8(changed) else { continue };
            let checked = changed.parse::<Proof>().and_then(|proof| proof.check(std::slice::from_ref(&key)));
            assert!(checked.is_err(), "byte {at} of {changed}");
        }
        let other = LogKey::from_seed("east.bank.example/signet-log", &[8; 32]).unwrap();
        let other: VerifierKey = other.verifier_key().parse().unwrap();
        assert!(matches!(proof.check(&[other]), Err(BadProof::Checkpoint(_))));
        assert!(matches!(proof.check(&[]), Err(BadProof::Key(_))));
        let moved = Proof { index: 1, ..proof };
        assert!(matches!(moved.check(&[key]), Err(BadProof::Path(_))));
    }
}
