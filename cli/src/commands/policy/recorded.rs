//! Where recorded traffic comes from: an export in a file, or the audit store of a running mesh.
//!
//! The store is read as an export reads it: the audit services record the access first, or nothing is read; what is read
//! ends where a checkpoint covers it, and each record is decoded from the bytes that were signed for.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use signet_audit::query::{self, Filter, TailCursor};
use signet_policy::Effect;
use signet_policy_analysis::{self as analysis, JsonLines, Recorded, RecordsError};
use signet_spool::Record;
use tokio::sync::mpsc;

use crate::arguments::Global;
use crate::commands::audit::access::{Accesses, Counts};
use crate::commands::audit::failure;
use crate::context::Context;
use crate::failure::{Failure, ResultExt};

const DAY_US: i64 = 86_400_000_000;
/// Leaves of a log that are read at once.
const LEAVES: u64 = 5_000;
/// Reads that wait to be decided again.
const READ_AHEAD: usize = 2;

/// Records and the repository that they are held against.
#[derive(clap::Args)]
pub(crate) struct Records {
    /// Records as JSON Lines, as an export of the audit log has them; `-` is standard input.
    #[arg(value_name = "RECORDS", required_unless_present = "days", conflicts_with = "days")]
    file: Option<PathBuf>,
    #[command(flatten)]
    stored: Stored,
    /// The policy repository's root.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(super) repository: PathBuf,
}

/// Records that the mesh of the context keeps.
#[derive(clap::Args)]
pub(crate) struct Stored {
    /// Take the decisions of the last DAYS days from the mesh that the context names; that they are read is recorded.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(super) days: Option<u16>,
    /// Of this cluster's log alone.
    #[arg(long, value_name = "CLUSTER", requires = "days")]
    pub(super) cluster: Option<String>,
}

impl Records {
    /// What was named; clap has seen to it that something was.
    pub(super) fn source(&self, global: &Global) -> Result<Source, Failure> {
        match (&self.file, self.stored.source(global)?) {
            (_, Some(stored)) => Ok(stored),
            (Some(file), None) => Source::file(file),
            (None, None) => Err(Failure::usage("no records are named").next("give a file, or --days DAYS")),
        }
    }
}

impl Stored {
    /// The mesh's decisions; nothing when `--days` was not given.
    pub(super) fn source(&self, global: &Global) -> Result<Option<Source>, Failure> {
        let Some(days) = self.days else { return Ok(None) };
        let context = Box::new(Context::load(global.context.as_deref())?);
        Ok(Some(Source::Store { context, cluster: self.cluster.clone(), days }))
    }
}

/// Recorded traffic, about to be read.
pub(super) enum Source {
    /// An export in JSON Lines, with its name.
    File(String, Box<dyn BufRead + Send>),
    Store {
        context: Box<Context>,
        cluster: Option<String>,
        days: u16,
    },
}

impl Source {
    /// An export in JSON Lines; `-` is standard input.
    pub(super) fn file(path: &Path) -> Result<Self, Failure> {
        const BUFFER: usize = 1 << 20;
        let reader: Box<dyn BufRead + Send> = if path == Path::new("-") {
            Box::new(BufReader::with_capacity(BUFFER, io::stdin()))
        } else {
            let file = File::open(path).map_err(|error| {
                Failure::failed(format!("cannot open the records: {error}"))
                    .at(path.display())
                    .next("give a file that exists, or `-` for standard input")
            })?;
            Box::new(BufReader::with_capacity(BUFFER, file))
        };
        Ok(Self::File(path.display().to_string(), reader))
    }

    /// As people know it.
    pub(super) fn place(&self) -> String {
        match self {
            Self::File(path, _) => path.clone(),
            Self::Store { .. } => "the audit store".to_owned(),
        }
    }

    /// Does `what` with all records, on a thread of its own. What was found in a part of them is never given back.
    pub(super) async fn analyse<T: Send + 'static>(
        self,
        what: impl FnOnce(Reader) -> Result<T, RecordsError> + Send + 'static,
    ) -> Result<T, Failure> {
        let ended = |found: Result<_, tokio::task::JoinError>| found.failed("it ended early", "report this as a bug");
        match self {
            Self::File(path, reader) => {
                let found = ended(tokio::task::spawn_blocking(move || what(Reader::File(reader))).await)?;
                found.map_err(|error| {
                    let text = signet_observe::error_chain(&error);
                    Failure::failed(text).at(&path).next("give an export in JSON Lines, unaltered")
                })
            }
            Self::Store { context, cluster, days } => {
                let (sender, receiver) = mpsc::channel(READ_AHEAD);
                let deciding = tokio::task::spawn_blocking(move || what(Reader::Store(receiver)));
                let (read, found) = tokio::join!(read(&context, cluster.as_deref(), days, sender), deciding);
                read?;
                ended(found)?
                    .map_err(|error| Failure::failed(signet_observe::error_chain(&error)).at("the audit store"))
            }
        }
    }
}

/// Gives records one by one; blocks, so not for a task.
pub(super) enum Reader {
    File(Box<dyn BufRead + Send>),
    Store(mpsc::Receiver<Vec<Record>>),
}

impl analysis::Records for Reader {
    fn each(self, what: &mut dyn FnMut(&Recorded<'_>)) -> Result<(), RecordsError> {
        match self {
            Self::File(reader) => JsonLines(reader).each(what),
            Self::Store(mut batches) => {
                while let Some(batch) = batches.blocking_recv() {
                    batch.iter().for_each(|record| what(&recorded(record)));
                }
                Ok(())
            }
        }
    }
}

/// Sends the decisions of the last days of each log, or of that of `cluster`. That they are read is recorded first, and
/// how many they were afterwards.
async fn read(
    context: &Context,
    cluster: Option<&str>,
    days: u16,
    sender: mpsc::Sender<Vec<Record>>,
) -> Result<(), Failure> {
    let unread = |error| failure(&error);
    let pool = query::connect(&context.postgres).map_err(unread)?;
    let from_us = jiff::Timestamp::now().as_microsecond() - i64::from(days) * DAY_US;
    let accesses = Accesses::begin(context, cluster, "replay", &serde_json::json!({ "days": days })).await?;
    let filter = Filter { from_us: Some(from_us), ..Filter::default() };
    let kinds = ["decision".to_owned()];
    let mut counts = Counts::new();
    for stretch in accesses.stretches(&pool, &TailCursor::start()).await? {
        let first = query::first_since(&pool, &stretch.log, from_us).await.map_err(unread)?;
        let mut from = first.unwrap_or(stretch.to);
        while from < stretch.to {
            let to = stretch.to.min(from + LEAVES);
            let records = query::records(&pool, &filter, &kinds, &stretch.log, from, to).await.map_err(unread)?;
            *counts.entry(stretch.log.clone()).or_default() += records.len() as u64;
            let records = records.into_iter().map(|stored| stored.record).collect();
            if sender.send(records).await.is_err() {
                // Whoever decides has ended, and says why.
                break;
            }
            from = to;
        }
    }
    drop(sender);
    accesses.end(&counts).await
}

fn recorded(record: &Record) -> Recorded<'_> {
    let effect = |allow: bool| if allow { Effect::Allow } else { Effect::Deny };
    Recorded {
        kind: Cow::Borrowed(record.kind.as_str()),
        time_us: record.time_us,
        source_spiffe_id: record.source_spiffe_id.as_deref().map(Cow::Borrowed),
        destination_service: Cow::Borrowed(&record.destination_service),
        action: Cow::Borrowed(&record.action),
        path: record.path.as_deref().map(Cow::Borrowed),
        decision: effect(record.allow),
        reason: Cow::Borrowed(&record.reason),
        source_address: record.source_address.as_deref().map(Cow::Borrowed),
        count: record.count,
        context: record.context.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
        erased: record.erased_names().map(Cow::Borrowed).collect(),
        policy_ids: record.policy_ids.iter().map(|id| Cow::Borrowed(&**id)).collect(),
        shadow_decision: record.shadow.as_ref().map(|(allow, _)| effect(*allow)),
    }
}
