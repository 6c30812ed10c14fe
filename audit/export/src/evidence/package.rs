//! What a package says of itself: `package.json`, signed for in `package.note`.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Component, Path};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use signet_audit::query::{Filter, StoredBundle};
use signet_spool::{Kind, Record};

use crate::controls::{Control, RecordKind};
use crate::export::{Access, Covered};

/// Version of the package.
pub const VERSION: &str = "signet.evidence/v1";

/// `package.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// [`VERSION`].
    pub version: String,
    /// RFC 3339.
    pub made_at: String,
    /// SPIFFE ID of who asked.
    pub by: String,
    /// What it is for.
    pub control: Option<Control>,
    /// What had to match.
    pub filter: Filter,
    /// Which kinds of records; none means all.
    pub kinds: Vec<RecordKind>,
    /// What there is of each log.
    pub logs: Vec<Evidence>,
    /// What the records say together.
    pub facts: Facts,
    /// Who fed the logs, and what is missing of it.
    pub producers: Vec<Producer>,
    /// Bundles that decided and whose text the store does not have.
    pub unknown_bundles: Vec<String>,
    /// The records of this access in the logs.
    pub accesses: Vec<Access>,
    /// Where the next package begins.
    pub next: String,
    /// Every other file of the package.
    pub files: Vec<Listed>,
}

/// What a package has of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Where: `records.jsonl`, `entries.jsonl` and `checkpoint` lie in it.
    pub directory: String,
    /// Leaves and checkpoint.
    #[serde(flatten)]
    pub covered: Covered,
    /// That it continues an earlier package.
    pub previous: Option<Previous>,
}

/// An earlier checkpoint, and the proof that the log continues it (RFC 6962, 2.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// The signed note.
    pub checkpoint: String,
    /// Hashes, hex.
    pub proof: Vec<String>,
}

/// What the records of a package say together; whoever checks counts again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Records by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Decisions that permitted.
    pub allowed: u64,
    /// Decisions that denied.
    pub denied: u64,
    /// Decisions by TLS version, key exchange and cipher; `none` is plaintext.
    pub tls: BTreeMap<String, u64>,
    /// Decisions by commit of the policies.
    pub commits: BTreeMap<String, u64>,
    /// Decisions by policy; `(none)` where no policy spoke.
    pub policies: BTreeMap<String, u64>,
    /// Time of the earliest record, Unix microseconds.
    pub first_us: Option<i64>,
    /// Time of the latest record.
    pub last_us: Option<i64>,
}

impl Facts {
    pub(super) fn add(&mut self, record: &Record) {
        *self.kinds.entry(record.kind.as_str().to_owned()).or_default() += 1;
        self.first_us = Some(self.first_us.map_or(record.time_us, |first| first.min(record.time_us)));
        self.last_us = Some(self.last_us.map_or(record.time_us, |last| last.max(record.time_us)));
        if record.kind != Kind::Decision {
            return;
        }
        *(if record.allow { &mut self.allowed } else { &mut self.denied }) += 1;
        *self.tls.entry(record.tls.clone()).or_default() += 1;
        *self.commits.entry(record.policy_commit.clone()).or_default() += 1;
        if record.policy_ids.is_empty() {
            *self.policies.entry("(none)".to_owned()).or_default() += 1;
        }
        for policy in &record.policy_ids {
            *self.policies.entry(policy.to_string()).or_default() += 1;
        }
    }
}

/// A spool that fed a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Producer {
    /// Origin of the log.
    pub log: String,
    /// SPIFFE ID.
    pub producer: String,
    /// The spool's opening.
    pub epoch: String,
    /// Sequences begin with 1; this one is the last that was committed.
    pub last_sequence: i64,
    /// Sequences in between that never came.
    pub missing: i64,
    /// Whether the producer said that nothing follows.
    pub closed: bool,
    /// Its clock minus the audit service's.
    pub clock_offset_us: Option<i64>,
    /// When the last of it came, of a producer that stopped without closing its spool and has not come back; Unix
    /// microseconds. How much it still held is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since_us: Option<i64>,
}

/// A file of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Below the package's directory, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Hex.
    pub sha256: String,
}

/// `policies/<digest>.json`: the text that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) digest: String,
    /// The commits that had this text, and who signed each.
    pub(super) commits: Vec<(String, String)>,
    pub(super) files: BTreeMap<String, String>,
}

impl Policy {
    pub(super) fn path(&self) -> String {
        let hex: String = self.digest.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("policies/{hex}.json")
    }

    /// Whether the files make the digest that records name.
    pub(super) fn holds(&self) -> bool {
        let bundle =
            StoredBundle { digest: self.digest.clone(), commits: self.commits.clone(), files: self.files.clone() };
        bundle.source("").digest() == self.digest
    }
}

impl Package {
    /// As `package.json` holds it.
    ///
    /// # Errors
    /// Never: a package is JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Records in it.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.logs.iter().map(|log| log.covered.records).sum()
    }
}

/// Every file below `directory` but the package's own two, with length and hash, by path.
pub(super) fn listed(directory: &Path) -> io::Result<Vec<Listed>> {
    let list = |path: String| {
        let (bytes, sha256) = hashed(&directory.join(&path))?;
        Ok(Listed { path, bytes, sha256 })
    };
    paths(directory)?.into_iter().map(list).collect()
}

/// The path of everything below `directory` that is no directory, but the package's own two.
pub(super) fn paths(directory: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(below) = waiting.pop() {
        for entry in std::fs::read_dir(directory.join(&below))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.file_type()?.is_dir() {
                waiting.push(path);
            } else if path != super::PACKAGE && path != super::NOTE {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a path stays below the directory that it is joined to.
pub(super) fn is_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Length and SHA-256 (hex) of a file; links and devices are none.
pub(super) fn hashed(path: &Path) -> io::Result<(u64, String)> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    let mut file = std::fs::File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex::encode(context.finish())));
        }
        context.update(buffer.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}
