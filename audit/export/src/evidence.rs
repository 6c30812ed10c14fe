//! An evidence package: a directory that shows, to someone who has only it and public keys, which records a control asks
//! for, that each is in the log under a signed checkpoint, and what it does not show.
//!
//! INVARIANT: what a package claims covers leaves below its checkpoints, and every leaf there that has no row is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use signet_audit::merkle::{MissingTile, consistency_proof, inclusion_proof};
use signet_audit::note::VerifierKey;
use signet_audit::query::{self, Filter, QueryError, Stretch, TailCursor};
use sqlx::PgPool;

use crate::controls::{Control, RecordKind};
use crate::export::{Access, Covered, Missing, Progress};
use crate::row::Row;

mod check;
mod entry;
mod package;
mod report;

pub use check::{Checked, Problem, check};
use entry::Entry;
use package::Policy;
pub use package::{Evidence, Facts, Listed, Package, Previous, Producer, VERSION};

/// Leaves read at once.
const LEAVES: u64 = 5_000;
/// What a package says of itself.
pub const PACKAGE: &str = "package.json";
/// The signatures over it.
pub const NOTE: &str = "package.note";

/// What to put into a package.
#[derive(Debug, Clone)]
pub struct Request {
    /// The control that it is for.
    pub control: Option<Control>,
    /// What must match.
    pub filter: Filter,
    /// Kinds of records; none means all.
    pub kinds: Vec<RecordKind>,
    /// Who asks.
    pub by: String,
    /// The records of this access in the logs.
    pub accesses: Vec<Access>,
    /// Checkpoints of an earlier package, as signed notes by log: the logs are proved to continue them.
    pub previous: BTreeMap<String, String>,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The store did not answer, or a record does not decode.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The package could not be written.
    #[error("cannot write the package")]
    Write(#[from] io::Error),
    /// The store has not the hashes that a proof needs.
    #[error("the store lacks hashes of log `{log}`, so nothing of it can be proved")]
    Tiles {
        /// The log.
        log: String,
        /// Which.
        source: MissingTile,
    },
    /// An earlier package's checkpoint is not of this log.
    #[error("the earlier checkpoint of log `{log}` is not one: {why}")]
    Previous {
        /// The log.
        log: String,
        /// What is wrong.
        why: String,
    },
}

/// Writes a package into the empty directory `to`: everything but the signatures over [`PACKAGE`].
///
/// # Errors
/// When the store does not answer, a proof cannot be made, or `to` cannot be written. What was written then is no package.
pub async fn build(
    pool: &PgPool,
    request: &Request,
    stretches: &[Stretch],
    to: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Package, EvidenceError> {
    let kinds: Vec<String> = request.kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
    let mut package = Package {
        version: VERSION.to_owned(),
        made_at: jiff::Timestamp::now().to_string(),
        by: request.by.clone(),
        control: request.control.clone(),
        filter: request.filter.clone(),
        kinds: request.kinds.clone(),
        logs: Vec::new(),
        facts: Facts::default(),
        producers: Vec::new(),
        unknown_bundles: Vec::new(),
        accesses: request.accesses.clone(),
        next: String::new(),
        files: Vec::new(),
    };
    let mut done =
        Progress { read: 0, of: stretches.iter().map(|stretch| stretch.to - stretch.from).sum(), records: 0 };
    let mut bundles = BTreeSet::new();
    let mut next = TailCursor::start();
    for (place, stretch) in stretches.iter().enumerate() {
        let directory = format!("logs/{place}");
        std::fs::create_dir_all(to.join(&directory))?;
        let mut rows = BufWriter::new(File::create(to.join(&directory).join("records.jsonl"))?);
        let mut entries = BufWriter::new(File::create(to.join(&directory).join("entries.jsonl"))?);
        let mut covered = Covered { stretch: stretch.clone(), records: 0, missing: Vec::new() };
        let mut from = stretch.from;
        while from < stretch.to {
            let until = stretch.to.min(from + LEAVES);
            let records = query::records(pool, &request.filter, &kinds, &stretch.log, from, until).await?;
            let missing = query::missing(pool, &stretch.log, from, until).await?;
            covered.missing.extend(missing.into_iter().map(|(from, to)| Missing { from, to }));
            if !records.is_empty() {
                let leaves = records.iter().map(|stored| stored.leaf_index);
                let tiles = query::tiles(pool, &stretch.log, leaves, &[stretch.size]).await?;
                for stored in &records {
                    let proof = inclusion_proof(&tiles, stored.leaf_index, stretch.size)
                        .map_err(|source| EvidenceError::Tiles { log: stretch.log.clone(), source })?;
                    line(&mut rows, &Row { log: &stretch.log, stored })?;
                    line(&mut entries, &Entry::new(stored, &proof))?;
                    package.facts.add(&stored.record);
                    bundles.insert(stored.record.bundle_digest.clone());
                }
            }
            covered.records += records.len() as u64;
            done.records += records.len() as u64;
            done.read += until - from;
            from = until;
            progress(done);
        }
        rows.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        entries.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::write(to.join(&directory).join("checkpoint"), &stretch.checkpoint)?;
        let previous = match request.previous.get(&stretch.log) {
            Some(note) => Some(continues(pool, stretch, note).await?),
            None => None,
        };
        next.set(&stretch.log, stretch.to);
        package.logs.push(Evidence { directory, covered, previous });
    }
    package.next = next.to_string();
    package.producers = producers(pool, stretches).await?;
    package.unknown_bundles = policies(pool, &bundles, to).await?;
    std::fs::write(to.join("report.html"), report::html(&package))?;
    std::fs::write(to.join("VERIFY.md"), report::how_to_verify(&package))?;
    package.files = package::listed(to)?;
    std::fs::write(to.join(PACKAGE), package.to_json().map_err(io::Error::other)?)?;
    Ok(package)
}

fn line(out: &mut impl io::Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Proves that the log continues what an earlier checkpoint signed. The reader checks the signatures.
async fn continues(pool: &PgPool, stretch: &Stretch, note: &str) -> Result<Previous, EvidenceError> {
    let wrong = |why: &str| EvidenceError::Previous { log: stretch.log.clone(), why: why.to_owned() };
    let key: VerifierKey = stretch.verifier_key.parse().map_err(|_| wrong("the store's key of it does not parse"))?;
    let old = key.open_checkpoint(note).map_err(|error| wrong(&error.to_string()))?;
    if old.size > stretch.size {
        return Err(wrong("it signs more records than the log has now: the log was cut"));
    }
    let tiles = query::tiles(pool, &stretch.log, [], &[old.size, stretch.size]).await?;
    let proof = consistency_proof(&tiles, old.size, stretch.size)
        .map_err(|source| EvidenceError::Tiles { log: stretch.log.clone(), source })?;
    Ok(Previous { checkpoint: note.to_owned(), proof: proof.iter().map(hex::encode).collect() })
}

/// The spools that fed the logs, with what is missing of each.
async fn producers(pool: &PgPool, stretches: &[Stretch]) -> Result<Vec<Producer>, EvidenceError> {
    let epochs = query::epochs(pool).await?;
    let ours = epochs.into_iter().filter(|epoch| stretches.iter().any(|stretch| stretch.log == epoch.log));
    Ok(ours
        .map(|epoch| Producer {
            log: epoch.log,
            producer: epoch.producer,
            epoch: epoch.epoch.to_string(),
            last_sequence: epoch.watermark,
            missing: epoch.missing,
            closed: epoch.closed,
            clock_offset_us: epoch.clock_offset_us,
            silent_since_us: epoch.silent_since_us,
        })
        .collect())
}

/// Writes the policy text of every bundle that decided; gives those that the store does not have.
async fn policies(pool: &PgPool, bundles: &BTreeSet<String>, to: &Path) -> Result<Vec<String>, EvidenceError> {
    let mut unknown = Vec::new();
    for name in bundles.iter().filter(|name| !name.is_empty()) {
        let Some(bundle) = query::bundle(pool, name).await? else {
            unknown.push(name.clone());
            continue;
        };
        std::fs::create_dir_all(to.join("policies"))?;
        let policy = Policy { digest: bundle.digest, commits: bundle.commits, files: bundle.files };
        let json = serde_json::to_string_pretty(&policy).map_err(io::Error::other)?;
        std::fs::write(to.join(policy.path()), json + "\n")?;
    }
    Ok(unknown)
}
