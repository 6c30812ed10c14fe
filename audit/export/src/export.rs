//! An export: every record of some stretches of the logs that matches, once, with a manifest.
//!
//! INVARIANT: the cursor is (log, leaf index) below a signed size, so that an export neither skips nor repeats under
//! concurrent writes, and the next one begins exactly where this one ended. A leaf that has no row is named in the
//! manifest: nothing is left out in silence.

use std::io::{self, Write};

use signet_audit::query::{self, Filter, QueryError, StoredRecord, Stretch, TailCursor};
use sqlx::PgPool;

use crate::Format;
use crate::row::Row;

mod check;
mod manifest;
mod sink;

pub use check::{Checked, Problem, check};
pub use manifest::{Access, Chunk, Covered, Manifest, Missing, VERSION};
use sink::Sink;

/// Leaves read at once.
const LEAVES: u64 = 5_000;
/// Records of a chunk of the manifest: how closely a change in the file is located.
const CHUNK: usize = 500;

/// What to export.
#[derive(Debug, Clone)]
pub struct Request {
    /// What must match.
    pub filter: Filter,
    /// Kinds of records (`decision`, `refusal`, `event`, `gap`); none means all.
    pub kinds: Vec<String>,
    /// How to write.
    pub format: Format,
    /// Name of the file in the manifest.
    pub file: String,
    /// Who exports.
    pub by: String,
    /// The records of this export in the logs, by log.
    pub accesses: Vec<Access>,
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Leaves read.
    pub read: u64,
    /// Leaves to read.
    pub of: u64,
    /// Records written.
    pub records: u64,
}

/// Why there is no whole export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store did not answer, or a record does not decode.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The export could not be written.
    #[error("cannot write the export")]
    Write(#[from] io::Error),
}

/// Writes the records of `stretches` that match to `out`, and gives the manifest of it.
///
/// # Errors
/// When the store does not answer, a record does not decode, or `out` fails. What was written then is no export.
pub async fn run<W: Write + Send>(
    pool: &PgPool,
    request: &Request,
    stretches: &[Stretch],
    out: W,
    mut progress: impl FnMut(Progress),
) -> Result<Manifest, ExportError> {
    let sink = Sink::new(out);
    let mut encoder = request.format.encoder(sink.clone())?;
    let mut done =
        Progress { read: 0, of: stretches.iter().map(|stretch| stretch.to - stretch.from).sum(), records: 0 };
    let mut logs = Vec::new();
    let mut next = TailCursor::start();
    for stretch in stretches {
        let mut covered = Covered { stretch: stretch.clone(), records: 0, missing: Vec::new() };
        let mut from = stretch.from;
        while from < stretch.to {
            let to = stretch.to.min(from + LEAVES);
            let records = query::records(pool, &request.filter, &request.kinds, &stretch.log, from, to).await?;
            let missing = query::missing(pool, &stretch.log, from, to).await?;
            covered.missing.extend(missing.into_iter().map(|(from, to)| Missing { from, to }));
            for part in records.chunks(CHUNK) {
                write(&mut encoder, &sink, &stretch.log, part)?;
            }
            covered.records += records.len() as u64;
            done.records += records.len() as u64;
            done.read += to - from;
            from = to;
            progress(done);
        }
        next.set(&stretch.log, stretch.to);
        logs.push(covered);
    }
    encoder.finish()?;
    let written = sink.finish()?;
    Ok(Manifest {
        version: VERSION.to_owned(),
        made_at: jiff::Timestamp::now().to_string(),
        by: request.by.clone(),
        file: request.file.clone(),
        format: request.format,
        bytes: written.bytes,
        sha256: written.sha256,
        records: done.records,
        filter: request.filter.clone(),
        kinds: request.kinds.clone(),
        logs,
        accesses: request.accesses.clone(),
        next: next.to_string(),
        chunks: written.chunks,
    })
}

fn write<W: Write + Send>(
    encoder: &mut crate::format::Encoder<Sink<W>>,
    sink: &Sink<W>,
    log: &str,
    records: &[StoredRecord],
) -> io::Result<()> {
    let rows: Vec<Row<'_>> = records.iter().map(|stored| Row { log, stored }).collect();
    let settled = encoder.rows(&rows)?;
    if let (Some(first), Some(last)) = (records.first(), records.last()) {
        sink.note(log, first.leaf_index, last.leaf_index, records.len() as u64);
    }
    if settled {
        sink.end_chunk();
    }
    Ok(())
}
