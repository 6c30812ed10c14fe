//! The load generator: makes the calls of the demo's table in turn, at a steady rate whatever the answers take, and counts
//! which came out as the table says. Each HTTP and gRPC call carries a trace id that starts with the run's own number, so
//! that its records can be counted afterwards.

mod calls;
mod spread;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use self::calls::{Callers, Outcome};
use self::table::{Expect, Row, TABLE};
use crate::outbound::Way;

/// Calls under way at most; past that the generator waits, and counts that it did.
const IN_FLIGHT: usize = 512;
const STATS_EVERY: Duration = Duration::from_millis(500);
const LAST_CALLS: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A workload's outbound listener, as `east/bank/web=127.0.0.1:15001`; once for each.
    #[arg(long = "outbound", value_parser = parse_outbound)]
    outbounds: Vec<(String, SocketAddr)>,
    /// A workload's network namespace, as `east/bank/web=NAME`; its calls are then made from there, as if there were no mesh.
    #[arg(long = "namespace", value_parser = parse_namespace, conflicts_with_all = ["outbounds", "from"])]
    namespaces: Vec<(String, String)>,
    /// Make the calls of this workload alone, plainly, from the network namespace that this process is in; until standard
    /// input ends.
    #[arg(long, conflicts_with = "outbounds")]
    from: Option<String>,
    /// First half of the run's trace ids, 16 hex digits; made up when left out.
    #[arg(long)]
    trace_prefix: Option<String>,
    /// Number of the first call.
    #[arg(long, default_value_t = 1)]
    first_call: u64,
    /// Calls per second in total.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Where to keep the counts, as JSON.
    #[arg(long)]
    stats: PathBuf,
    /// End after this many calls.
    #[arg(long)]
    calls: Option<u64>,
}

fn parse_outbound(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=ADDRESS"))?;
    let address = address.parse().map_err(|error| format!("`{address}`: {error}"))?;
    Ok((name.to_owned(), address))
}

fn parse_namespace(text: &str) -> Result<(String, String), String> {
    let (name, namespace) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=NAMESPACE"))?;
    Ok((name.to_owned(), namespace.to_owned()))
}

/// What one line of the table came to.
#[derive(Default, Clone, Serialize, Deserialize)]
struct Count {
    source: String,
    destination: String,
    action: String,
    expect: String,
    cross_cluster: bool,
    traced: bool,
    /// Another row's call that each of these calls makes in its turn, under the same trace.
    makes: Option<String>,
    calls: u64,
    as_expected: u64,
    last_unexpected: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Stats {
    /// Trace ids of this run start with these 16 hex digits.
    trace_prefix: String,
    waited: u64,
    /// False while calls are still being made.
    finished: bool,
    rows: BTreeMap<String, Count>,
}

/// Calls until SIGINT, SIGTERM or `--calls`; ends calls under way within seconds and writes the final counts.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if !(arguments.rate.is_finite() && arguments.rate > 0.0 && arguments.rate <= 100_000.0) {
        bail!("--rate `{}` must be above 0 and at most 100000 calls a second", arguments.rate);
    }
    let trace_prefix = arguments.trace_prefix.clone().unwrap_or_else(|| format!("{:016x}", fastrand::u64(1..)));
    if !arguments.namespaces.is_empty() {
        return spread::run(&arguments, &trace_prefix).await;
    }
    let ways: HashMap<String, Way> = match &arguments.from {
        Some(source) => HashMap::from([(source.clone(), Way::Plain)]),
        None => arguments.outbounds.iter().map(|(name, proxy)| (name.clone(), Way::Through(*proxy))).collect(),
    };
    let own = |row: &&Row| arguments.from.as_deref().is_none_or(|source| source == row.source);
    let table: Vec<&'static Row> = TABLE.iter().filter(own).collect();
    let callers = Arc::new(Callers::new(ways));
    let stats = Arc::new(Mutex::new(Stats {
        trace_prefix: trace_prefix.clone(),
        waited: 0,
        finished: false,
        rows: table.iter().map(|row| (row.name.to_owned(), count_of(row))).collect(),
    }));

    let number = AtomicU64::new(arguments.first_call);
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut under_way = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / arguments.rate));
    let mut writes = tokio::time::interval(STATS_EVERY);
    writes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let stopped = async {
        match arguments.from {
            Some(_) => spread::stdin_ends().await,
            None => crate::serve::stopped().await,
        }
    };
    tokio::pin!(stopped);
    let mut rows = table.iter().copied().cycle();
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            _ = writes.tick() => write(&arguments.stats, &*stats.lock().await)?,
            Some(_) = under_way.join_next(), if !under_way.is_empty() => {}
            _ = ticks.tick() => {
                let n = number.fetch_add(1, Ordering::Relaxed);
                if arguments.calls.is_some_and(|calls| n >= arguments.first_call.saturating_add(calls)) {
                    break;
                }
                let Some(row) = rows.next() else { break };
                let slot = match Arc::clone(&slots).try_acquire_owned() {
                    Ok(slot) => slot,
                    Err(_) => {
                        stats.lock().await.waited += 1;
                        Arc::clone(&slots).acquire_owned().await.context("the load generator's slots closed")?
                    }
                };
                let (callers, stats) = (Arc::clone(&callers), Arc::clone(&stats));
                let trace_id = format!("{trace_prefix}{n:016x}");
                under_way.spawn(async move {
                    let outcome = callers.call(row, &trace_id).await;
                    note(&mut *stats.lock().await, row, &outcome);
                    drop(slot);
                });
            }
        }
    }
    let rest = async { while under_way.join_next().await.is_some() {} };
    let ended = tokio::time::timeout(LAST_CALLS, rest).await.is_ok();
    let mut stats = stats.lock().await;
    stats.finished = ended;
    write(&arguments.stats, &stats)
}

fn count_of(row: &Row) -> Count {
    Count {
        source: row.source.to_owned(),
        destination: row.destination.to_owned(),
        action: row.action().to_owned(),
        expect: match row.expect {
            Expect::Allow(_) => "allow",
            Expect::Deny => "deny",
        }
        .to_owned(),
        cross_cluster: row.cross_cluster,
        traced: row.traced(),
        makes: row.makes().map(str::to_owned),
        ..Count::default()
    }
}

fn note(stats: &mut Stats, row: &Row, outcome: &Outcome) {
    let Some(count) = stats.rows.get_mut(row.name) else { return };
    count.calls += 1;
    match row.verdict(outcome) {
        Ok(()) => count.as_expected += 1,
        Err(what) => {
            tracing::warn!(call = row.name, %what, "a call did not come out as the table says");
            count.last_unexpected = Some(what);
        }
    }
}

/// Whole or not at all: readers never see half a file.
fn write(path: &Path, stats: &Stats) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec_pretty(stats)?)
        .with_context(|| format!("cannot write `{}`", temporary.display()))?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot write `{}`", path.display()))
}
