//! Checks an export offline: signatures over its manifest, checkpoints, and the bytes of the file, chunk by chunk.

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;
use signet_audit::note::{Statement, StatementKind, VerifierKey};

use super::{Manifest, VERSION};
use crate::sha256;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Records that the manifest claims.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Logs whose key signed for the manifest.
    pub signed_by: Vec<String>,
    /// What does not fit; empty when everything does.
    pub problems: Vec<Problem>,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// The manifest is not one.
    #[error("the manifest is not one of {VERSION}: {why}")]
    Manifest {
        /// What is wrong.
        why: String,
    },
    /// A log's key did not sign for the manifest.
    #[error("the manifest is not signed for by log `{log}`: {why}")]
    Unsigned {
        /// The log.
        log: String,
        /// What is wrong.
        why: String,
    },
    /// No key of this log was given.
    #[error("no trusted key of log `{log}` was given: --key")]
    NoKey {
        /// The log.
        log: String,
    },
    /// A checkpoint in the manifest is not what the key signed.
    #[error("the checkpoint of log `{log}` does not hold: {why}")]
    Checkpoint {
        /// The log.
        log: String,
        /// What is wrong.
        why: String,
    },
    /// A chunk of the file is another.
    #[error(
        "bytes {offset} to {end} of the file were changed: {records} records, from leaf {} of `{}` to leaf {} of `{}`",
        .first.1, .first.0, .last.1, .last.0
    )]
    Chunk {
        /// First byte.
        offset: u64,
        /// The byte after the last.
        end: u64,
        /// Records in it.
        records: u64,
        /// Log and leaf of the first.
        first: (String, u64),
        /// Log and leaf of the last.
        last: (String, u64),
    },
    /// The file has another length.
    #[error("the file has {found} bytes, the manifest says {expected}")]
    Length {
        /// In the manifest.
        expected: u64,
        /// Read.
        found: u64,
    },
    /// The file as a whole is another, though its chunks fit.
    #[error("the file's SHA-256 is not the manifest's")]
    File,
    /// The store had no row for these leaves when it was exported.
    #[error("leaves {from} to {to} of log `{log}` were not in the store when this was exported")]
    Missing {
        /// The log.
        log: String,
        /// First leaf.
        from: u64,
        /// The leaf after the last.
        to: u64,
    },
}

/// Checks an export with the keys that the reader trusts. `note` holds the signatures over the manifest.
///
/// # Errors
/// When the file cannot be read.
pub fn check(manifest_json: &str, note: &str, file: impl Read, keys: &[VerifierKey]) -> io::Result<Checked> {
    let mut checked = Checked { records: 0, bytes: 0, signed_by: Vec::new(), problems: Vec::new() };
    let manifest: Manifest = match serde_json::from_str::<Manifest>(manifest_json) {
        Ok(manifest) if manifest.version == VERSION => manifest,
        Ok(other) => {
            checked.problems.push(Problem::Manifest { why: format!("it is `{}`", other.version) });
            return Ok(checked);
        }
        Err(error) => {
            checked.problems.push(Problem::Manifest { why: error.to_string() });
            return Ok(checked);
        }
    };
    checked.records = manifest.records;
    signatures(&manifest, manifest_json, note, keys, &mut checked);
    bytes(&manifest, file, &mut checked)?;
    Ok(checked)
}

fn signatures(manifest: &Manifest, json: &str, note: &str, keys: &[VerifierKey], checked: &mut Checked) {
    let statement = Statement::new(StatementKind::Export, sha256(json.as_bytes()));
    if manifest.logs.is_empty() {
        checked.problems.push(Problem::Manifest { why: "it covers no log, so nobody signed for it".to_owned() });
    }
    for covered in &manifest.logs {
        let log = covered.stretch.log.clone();
        let Some(key) = keys.iter().find(|key| key.name() == log) else {
            checked.problems.push(Problem::NoKey { log });
            continue;
        };
        match key.check_statement(note, &statement) {
            Ok(()) => checked.signed_by.push(log.clone()),
            Err(error) => checked.problems.push(Problem::Unsigned { log: log.clone(), why: error.to_string() }),
        }
        if let Err(why) = covered.stretch.open(key, "the export") {
            checked.problems.push(Problem::Checkpoint { log: log.clone(), why });
        }
        let missing =
            covered.missing.iter().map(|range| Problem::Missing { log: log.clone(), from: range.from, to: range.to });
        checked.problems.extend(missing);
    }
}

fn bytes(manifest: &Manifest, mut file: impl Read, checked: &mut Checked) -> io::Result<()> {
    let mut whole = Context::new(&SHA256);
    let mut buffer = vec![0; 256 * 1024];
    let mut located = false;
    for chunk in &manifest.chunks {
        let mut part = Context::new(&SHA256);
        let mut left = chunk.bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let (room, _) = buffer.split_at_mut(most);
            let read = file.read(room)?;
            if read == 0 {
                break;
            }
            let (came, _) = room.split_at(read);
            part.update(came);
            whole.update(came);
            checked.bytes += read as u64;
            left -= read as u64;
        }
        // A file that ends here has no more chunks to compare.
        if left == chunk.bytes && chunk.bytes > 0 {
            break;
        }
        if hex::encode(part.finish()) != chunk.sha256 {
            located = true;
            let (offset, records) = (chunk.offset, chunk.records);
            let (first, last) = (chunk.first.clone(), chunk.last.clone());
            checked.problems.push(Problem::Chunk { offset, end: offset + chunk.bytes, records, first, last });
        }
    }
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        whole.update(buffer.get(..read).unwrap_or_default());
        checked.bytes += read as u64;
    }
    if checked.bytes != manifest.bytes {
        checked.problems.push(Problem::Length { expected: manifest.bytes, found: checked.bytes });
    } else if hex::encode(whole.finish()) != manifest.sha256 && !located {
        checked.problems.push(Problem::File);
    }
    Ok(())
}
