//! Checks a package offline, with the keys that the reader trusts: the signatures over it, each file, each record's bytes
//! and its path to the signed root, and that what is counted and shown is what the records say.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Lines};
use std::path::Path;

use serde::Serialize;
use signet_audit::merkle::{Hash, verify_consistency, verify_inclusion};
use signet_audit::note::{Checkpoint, Statement, StatementKind, VerifierKey};

use super::entry::Entry;
use super::package::{Evidence, Facts, Package, Policy, VERSION, hashed, is_below, paths};
use super::{NOTE, PACKAGE};
use crate::row::Row;
use crate::sha256;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Records that were proved to be in their log.
    pub records: u64,
    /// Logs whose key signed for the package.
    pub signed_by: Vec<String>,
    /// What does not fit; empty when everything does.
    pub problems: Vec<Problem>,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// A file is missing or cannot be read.
    #[error("`{path}` cannot be read: {why}")]
    Unreadable {
        /// Which file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The package's description is not one.
    #[error("`package.json` is not one of {VERSION}: {why}")]
    Package {
        /// What is wrong.
        why: String,
    },
    /// A log's key did not sign for the package.
    #[error("the package is not signed for by log `{log}`: {why}")]
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
    /// A file is not the one that was signed for.
    #[error("`{path}` was changed")]
    Changed {
        /// Which file.
        path: String,
    },
    /// A file that the package does not list.
    #[error("`{path}` does not belong to the package")]
    Unlisted {
        /// Which file.
        path: String,
    },
    /// A checkpoint does not hold.
    #[error("the checkpoint of log `{log}` does not hold: {why}")]
    Checkpoint {
        /// The log.
        log: String,
        /// What is wrong.
        why: String,
    },
    /// A record is not proved to be in its log.
    #[error("record in line {line} of `{path}` is not proved: {why}")]
    Record {
        /// Which file.
        path: String,
        /// From 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// What is shown of a record is not what its bytes say.
    #[error("line {line} of `{path}` is not what record {leaf_index} says")]
    Shown {
        /// Which file.
        path: String,
        /// From 1.
        line: u64,
        /// The record.
        leaf_index: u64,
    },
    /// There are more or fewer records than the package says.
    #[error("log `{log}` has {found} records in the package, which says {expected}")]
    Count {
        /// The log.
        log: String,
        /// What the package says.
        expected: u64,
        /// Records found.
        found: u64,
    },
    /// The package counts otherwise than its records.
    #[error("the facts that the package states are not those of its records")]
    Facts,
    /// The text of a bundle does not make its digest.
    #[error("`{path}` is not the bundle that its digest names")]
    Policy {
        /// Which file.
        path: String,
    },
    /// The log is not proved to continue an earlier checkpoint.
    #[error("log `{log}` is not proved to continue the earlier checkpoint: {why}")]
    Continuity {
        /// The log.
        log: String,
        /// What is wrong.
        why: String,
    },
}

/// Problems listed; more of them say nothing new.
const MAX_PROBLEMS: usize = 100;

/// Checks the package in `directory` with the keys that the reader trusts.
///
/// # Errors
/// When the directory itself cannot be listed. A file that is missing is a [`Problem`].
pub fn check(directory: &Path, keys: &[VerifierKey]) -> io::Result<Checked> {
    let mut checked = Checked::default();
    let read = |path: &str, problems: &mut Vec<Problem>| match std::fs::read_to_string(directory.join(path)) {
        Ok(text) => Some(text),
        Err(error) => {
            problems.push(Problem::Unreadable { path: path.to_owned(), why: error.to_string() });
            None
        }
    };
    let (json, note) = (read(PACKAGE, &mut checked.problems), read(NOTE, &mut checked.problems));
    let (Some(json), Some(note)) = (json, note) else { return Ok(checked) };
    let package = match serde_json::from_str::<Package>(&json) {
        Ok(package) if package.version == VERSION => package,
        Ok(other) => {
            checked.problems.push(Problem::Package { why: format!("it is `{}`", other.version) });
            return Ok(checked);
        }
        Err(error) => {
            checked.problems.push(Problem::Package { why: error.to_string() });
            return Ok(checked);
        }
    };
    if package.logs.is_empty() {
        checked.problems.push(Problem::Package { why: "it covers no log, so nobody signed for it".to_owned() });
    }
    let places = package.files.iter().map(|file| &file.path).chain(package.logs.iter().map(|log| &log.directory));
    if let Some(outside) = places.into_iter().find(|path| !is_below(path)) {
        checked.problems.push(Problem::Package { why: format!("`{outside}` leads out of it") });
        return Ok(checked);
    }
    files(directory, &package, &mut checked)?;
    let statement = Statement::new(StatementKind::Evidence, sha256(json.as_bytes()));
    let mut facts = Facts::default();
    for evidence in &package.logs {
        let log = &evidence.covered.stretch.log;
        let Some(key) = keys.iter().find(|key| key.name() == log) else {
            checked.problems.push(Problem::NoKey { log: log.clone() });
            continue;
        };
        match key.check_statement(&note, &statement) {
            Ok(()) => checked.signed_by.push(log.clone()),
            Err(error) => {
                checked.problems.push(Problem::Unsigned { log: log.clone(), why: error.to_string() });
            }
        }
        if let Some(checkpoint) = checkpoint(directory, evidence, key, &mut checked) {
            records(directory, evidence, &checkpoint, &mut facts, &mut checked);
        }
    }
    // Keys that are missing leave records uncounted; that is said already.
    if checked.problems.is_empty() && facts != package.facts {
        checked.problems.push(Problem::Facts);
    }
    policies(directory, &package, &mut checked);
    Ok(checked)
}

fn files(directory: &Path, package: &Package, checked: &mut Checked) -> io::Result<()> {
    for file in &package.files {
        match hashed(&directory.join(&file.path)) {
            Ok((bytes, sha256)) if bytes == file.bytes && sha256 == file.sha256 => {}
            Ok(_) => checked.problems.push(Problem::Changed { path: file.path.clone() }),
            Err(error) => {
                checked.problems.push(Problem::Unreadable { path: file.path.clone(), why: error.to_string() });
            }
        }
    }
    let known: BTreeSet<&str> = package.files.iter().map(|file| file.path.as_str()).collect();
    let strange = paths(directory)?.into_iter().filter(|path| !known.contains(path.as_str()));
    checked.problems.extend(strange.map(|path| Problem::Unlisted { path }));
    Ok(())
}

/// The checkpoint of a log, once it, the file with it and the earlier one hold.
fn checkpoint(directory: &Path, evidence: &Evidence, key: &VerifierKey, checked: &mut Checked) -> Option<Checkpoint> {
    let stretch = &evidence.covered.stretch;
    let log = &stretch.log;
    let checkpoint = match stretch.open(key, "the package") {
        Ok(checkpoint) => checkpoint,
        Err(why) => {
            checked.problems.push(Problem::Checkpoint { log: log.clone(), why });
            return None;
        }
    };
    let path = format!("{}/checkpoint", evidence.directory);
    if std::fs::read_to_string(directory.join(&path)).ok().as_deref() != Some(stretch.checkpoint.as_str()) {
        let why = format!("`{path}` is another one");
        checked.problems.push(Problem::Checkpoint { log: log.clone(), why });
    }
    if let Some(previous) = &evidence.previous {
        let proof: Option<Vec<Hash>> =
            previous.proof.iter().map(|text| hex::decode(text).ok()?.try_into().ok()).collect();
        let why = match (key.open_checkpoint(&previous.checkpoint), proof) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), None) => Some("a hash of the proof is not 32 bytes of hex".to_owned()),
            (Ok(old), Some(proof)) => {
                verify_consistency(old.size, &old.root, checkpoint.size, &checkpoint.root, &proof)
                    .err()
                    .map(|error| error.to_string())
            }
        };
        checked.problems.extend(why.map(|why| Problem::Continuity { log: log.clone(), why }));
    }
    Some(checkpoint)
}

fn lines(directory: &Path, path: &str, checked: &mut Checked) -> Option<Lines<BufReader<File>>> {
    match File::open(directory.join(path)) {
        Ok(file) => Some(BufReader::new(file).lines()),
        Err(error) => {
            checked.problems.push(Problem::Unreadable { path: path.to_owned(), why: error.to_string() });
            None
        }
    }
}

fn records(directory: &Path, evidence: &Evidence, checkpoint: &Checkpoint, facts: &mut Facts, checked: &mut Checked) {
    let (path, shown_path) =
        (format!("{}/entries.jsonl", evidence.directory), format!("{}/records.jsonl", evidence.directory));
    let stretch = &evidence.covered.stretch;
    let (Some(entries), Some(mut shown)) = (lines(directory, &path, checked), lines(directory, &shown_path, checked))
    else {
        return;
    };
    let mut found = 0;
    let mut after = stretch.from;
    for (line, text) in (1..).zip(entries) {
        if checked.problems.len() >= MAX_PROBLEMS {
            return;
        }
        found += 1;
        let opened = text
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_str::<Entry>(&text).map_err(|error| error.to_string()))
            .and_then(|entry| entry.open());
        let shown = shown.next().and_then(Result::ok);
        let (stored, proof) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                checked.problems.push(Problem::Record { path: path.clone(), line, why });
                continue;
            }
        };
        let index = stored.leaf_index;
        let why = if index < after || index >= stretch.to {
            Some("its place is not within what the package covers, or comes twice".to_owned())
        } else {
            after = index + 1;
            verify_inclusion(&stored.leaf(), index, checkpoint.size, &proof, &checkpoint.root)
                .err()
                .map(|error| error.to_string())
        };
        match why {
            Some(why) => checked.problems.push(Problem::Record { path: path.clone(), line, why }),
            None => checked.records += 1,
        }
        facts.add(&stored.record);
        let expected = serde_json::to_string(&Row { log: &stretch.log, stored: &stored }).ok();
        if shown.is_none() || shown != expected {
            checked.problems.push(Problem::Shown { path: shown_path.clone(), line, leaf_index: index });
        }
    }
    if shown.next().is_some() {
        checked.problems.push(Problem::Shown { path: shown_path, line: found + 1, leaf_index: after });
    }
    if found != evidence.covered.records {
        let (log, expected) = (stretch.log.clone(), evidence.covered.records);
        checked.problems.push(Problem::Count { log, expected, found });
    }
}

fn policies(directory: &Path, package: &Package, checked: &mut Checked) {
    for file in package.files.iter().filter(|file| file.path.starts_with("policies/")) {
        let policy = std::fs::read_to_string(directory.join(&file.path))
            .ok()
            .and_then(|text| serde_json::from_str::<Policy>(&text).ok());
        if !policy.is_some_and(|policy| policy.holds() && policy.path() == file.path) {
            checked.problems.push(Problem::Policy { path: file.path.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::super::package::Listed;
    use super::{Problem, check};
    use crate::evidence::{Facts, NOTE, PACKAGE, Package, VERSION};

    fn naming(path: &str) -> Package {
        Package {
            version: VERSION.to_owned(),
            made_at: String::new(),
            by: String::new(),
            control: None,
            filter: signet_audit::query::Filter::default(),
            kinds: Vec::new(),
            logs: Vec::new(),
            facts: Facts::default(),
            producers: Vec::new(),
            unknown_bundles: Vec::new(),
            accesses: Vec::new(),
            next: String::new(),
            files: vec![Listed { path: path.to_owned(), bytes: 0, sha256: String::new() }],
        }
    }

    #[test]
    fn a_package_never_leads_its_reader_out_of_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(NOTE), "").unwrap();
        for path in ["../other", "/etc/passwd", "a/../../b", "", "./a"] {
            std::fs::write(directory.path().join(PACKAGE), naming(path).to_json().unwrap()).unwrap();
            let problems = check(directory.path(), &[]).unwrap().problems;
            let said = problems.iter().any(|problem| problem.to_string().contains("leads out of it"));
            assert!(said, "{path}: {problems:?}");
        }
        std::os::unix::fs::symlink("/dev/zero", directory.path().join("zero")).unwrap();
        std::fs::write(directory.path().join(PACKAGE), naming("zero").to_json().unwrap()).unwrap();
        let problems = check(directory.path(), &[]).unwrap().problems;
        assert!(matches!(&problems[1], Problem::Unreadable { path, .. } if path == "zero"), "{problems:?}");
    }

    #[test]
    fn a_package_that_nobody_signed_for_does_not_hold() {
        let directory = tempfile::tempdir().unwrap();
        let problems = check(directory.path(), &[]).unwrap().problems;
        assert!(matches!(&problems[..], [Problem::Unreadable { .. }, Problem::Unreadable { .. }]), "{problems:?}");
        std::fs::write(directory.path().join(NOTE), "").unwrap();
        for text in ["", "{}", "[]", "{\"version\":\"signet.evidence/v1\"}", "\u{0}"] {
            std::fs::write(directory.path().join(PACKAGE), text).unwrap();
            let problems = check(directory.path(), &[]).unwrap().problems;
            assert!(matches!(&problems[..], [Problem::Package { .. }]), "{text}: {problems:?}");
        }
    }
}
