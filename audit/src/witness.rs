//! A witness of other logs (C2SP tlog-witness): remembers the latest tree that it cosigned of each, and cosigns only what
//! continues it. So a log cannot show one history to its auditors and another to the witness.
//!
//! INVARIANT: a tree is remembered durably before its cosignature leaves; whatever crashes, no two cosignatures of one
//! witness contradict each other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use crate::merkle::{Hash, empty_root, verify_consistency};
use crate::note::{Checkpoint, CosignerKey, NoteError, VerifierKey, split_note, write_whole};

mod asked;
mod served;

pub(crate) use asked::{Contradiction, Witnesses};
pub(crate) use served::router;

/// The most hashes of a consistency proof: a tree has at most 2^63 leaves.
const MAX_PROOF: usize = 63;

/// Why a witness cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WitnessError {
    /// What was cosigned last cannot be read.
    #[error(
        "the checkpoint that was cosigned last, `{}`, cannot be used; restore the file rather than delete it: a witness that \
         forgets can be shown another history", file.display()
    )]
    State {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// A log is named twice.
    #[error("log `{0}` has two keys under `witness.logs`; name each log once")]
    Twice(String),
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request is not one.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// A log that this witness does not watch.
    #[error("this witness does not watch that log")]
    UnknownLog,
    /// The log's signature is missing or wrong.
    #[error("the checkpoint is not signed by its log's key")]
    Unsigned,
    /// The proof begins elsewhere than at the latest cosigned tree, whose size this is.
    #[error("the latest tree that this witness cosigned has {0} leaves")]
    Conflict(u64),
    /// The tree does not continue the latest one.
    #[error("the checkpoint does not continue the tree that this witness cosigned")]
    Inconsistent,
    /// The tree could not be remembered.
    #[error("the tree could not be remembered, so it is not cosigned")]
    State(#[source] NoteError),
}

/// A log that is watched.
#[derive(Debug)]
struct Watched {
    key: VerifierKey,
    file: PathBuf,
    last: Mutex<Option<(Checkpoint, String)>>,
}

/// The witness, over the logs that it watches.
#[derive(Debug)]
pub(crate) struct Witness {
    key: CosignerKey,
    logs: HashMap<String, Watched>,
}

impl Witness {
    /// Reads what was cosigned before from `directory`.
    ///
    /// # Errors
    /// When a remembered checkpoint cannot be used, or a log is named twice.
    pub(crate) fn open(key: CosignerKey, directory: &Path, logs: Vec<VerifierKey>) -> Result<Self, WitnessError> {
        let mut watched = HashMap::new();
        for key in logs {
            let name = key.name().to_owned();
            let file = directory.join(format!("{}.checkpoint", name_digest(&name)));
            let failed = |source| WitnessError::State { file: file.clone(), source };
            let last = match std::fs::read_to_string(&file) {
                Ok(note) => Some((key.open_checkpoint(&note).map_err(failed)?, note)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(source) => return Err(failed(NoteError::File { action: "read", path: file.clone(), source })),
            };
            let log = Watched { key, file, last: Mutex::new(last) };
            if watched.insert(name.clone(), log).is_some() {
                return Err(WitnessError::Twice(name));
            }
        }
        Ok(Self { key, logs: watched })
    }

    /// Answers the body of an `add-checkpoint` request with a cosignature, as a line of a note. Blocks on the disk.
    ///
    /// # Errors
    /// When the request is malformed, or the checkpoint does not continue what was cosigned last.
    pub(crate) fn add(&self, request: &str, now: u64) -> Result<String, Refusal> {
        let (old, proof, note) = parse(request)?;
        let (text, _) = split_note(note).ok_or(Refusal::Unsigned)?;
        let origin = text.lines().next().unwrap_or_default();
        let log = self.logs.get(origin).ok_or(Refusal::UnknownLog)?;
        let checkpoint = log.key.open_checkpoint(note).map_err(|error| match error {
            NoteError::Checkpoint(why) => Refusal::Malformed(why),
            _ => Refusal::Unsigned,
        })?;
        if old > checkpoint.size {
            return Err(Refusal::Malformed("the old size is larger than the checkpoint's"));
        }
        let mut last = log.last.lock();
        let (size, root) = last.as_ref().map_or((0, empty_root()), |(last, _)| (last.size, last.root));
        if old != size {
            return Err(Refusal::Conflict(size));
        }
        if checkpoint.size == size && checkpoint.root != root {
            tracing::error!(origin, size, "a log showed two trees of one size; it is not cosigned");
            return Err(Refusal::Conflict(size));
        }
        if verify_consistency(size, &root, checkpoint.size, &checkpoint.root, &proof).is_err() {
            tracing::error!(
                origin,
                size,
                new = checkpoint.size,
                "a log did not prove that its tree grew; it is not cosigned"
            );
            return Err(Refusal::Inconsistent);
        }
        if last.as_ref().is_none_or(|(last, _)| *last != checkpoint) {
            write_whole(&log.file, note.as_bytes(), 0o644).map_err(Refusal::State)?;
            *last = Some((checkpoint, note.to_owned()));
        }
        Ok(self.key.cosign(text, now))
    }

    /// The checkpoint that was cosigned last of the log whose name has this digest, as the log signed it.
    pub(crate) fn last(&self, digest: &str) -> Option<String> {
        let log = self.logs.values().find(|log| name_digest(log.key.name()) == digest)?;
        log.last.lock().as_ref().map(|(_, note)| note.clone())
    }
}

/// SHA-256 of a log's name, in hexadecimal: names have slashes.
fn name_digest(name: &str) -> String {
    hex::encode(digest(&SHA256, name.as_bytes()))
}

/// `old <size>`, hashes of the proof, an empty line, the checkpoint.
fn parse(request: &str) -> Result<(u64, Vec<Hash>, &str), Refusal> {
    let (head, note) = request.split_once("\n\n").ok_or(Refusal::Malformed("there is no empty line"))?;
    let mut lines = head.lines();
    let old = lines
        .next()
        .and_then(|line| line.strip_prefix("old "))
        .filter(|size| *size == "0" || !size.starts_with(['0', '+']))
        .and_then(|size| size.parse().ok())
        .ok_or(Refusal::Malformed("the first line is not `old` and a size"))?;
    let proof: Vec<Hash> = lines
        .map(|line| STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok()))
        .collect::<Option<_>>()
        .ok_or(Refusal::Malformed("a line of the proof is not a hash"))?;
    if proof.len() > MAX_PROOF {
        return Err(Refusal::Malformed("the proof is too long"));
    }
    Ok((old, proof, note))
}

#[cfg(test)]
mod tests;
