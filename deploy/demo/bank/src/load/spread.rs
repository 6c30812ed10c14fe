//! Calls from several network namespaces: a process of our own in each, as a workload's app would be there, and their counts
//! put together.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use super::table::TABLE;
use super::{Arguments, LAST_CALLS, Stats};

/// Trace ids of one process start this far from the next one's.
const CALLS_APART: u64 = 1 << 48;

struct Caller {
    source: String,
    process: Child,
    stats: PathBuf,
}

/// Calls until SIGINT or SIGTERM; fails when a caller ends by itself.
pub(super) async fn run(arguments: &Arguments, trace_prefix: &str) -> anyhow::Result<()> {
    let mut callers = Vec::new();
    for (source, namespace) in &arguments.namespaces {
        let rows = TABLE.iter().filter(|row| row.source == source).count();
        if rows > 0 {
            let rate = arguments.rate * rows as f64 / TABLE.len() as f64;
            let first_call = 1 + CALLS_APART * callers.len() as u64;
            callers.push(start(arguments, source, namespace, rate, trace_prefix, first_call)?);
        }
    }
    ensure!(!callers.is_empty(), "no namespace was given for a workload that makes calls");
    let stopped = crate::serve::stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            () = tokio::time::sleep(super::STATS_EVERY) => {
                for caller in &mut callers {
                    if let Some(status) = caller.process.try_wait()? {
                        bail!("the caller in the namespace of `{}` ended ({status})", caller.source);
                    }
                }
            }
        }
    }
    let mut all: Option<Stats> = None;
    for caller in &mut callers {
        // Their standard input ends, and with it their calls.
        drop(caller.process.stdin.take());
    }
    for caller in &mut callers {
        let ended = tokio::time::timeout(LAST_CALLS + super::STATS_EVERY, caller.process.wait()).await;
        let finished = matches!(&ended, Ok(Ok(status)) if status.success());
        let mut stats = read(&caller.stats)?;
        stats.finished &= finished;
        match &mut all {
            None => all = Some(stats),
            Some(all) => {
                all.waited += stats.waited;
                all.finished &= stats.finished;
                all.rows.extend(stats.rows);
            }
        }
    }
    super::write(&arguments.stats, &all.context("nobody called")?)
}

fn start(
    arguments: &Arguments,
    source: &str,
    namespace: &str,
    rate: f64,
    trace_prefix: &str,
    first_call: u64,
) -> anyhow::Result<Caller> {
    let stats = arguments.stats.with_extension(format!("{}.json", source.replace('/', "-")));
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .arg(std::env::current_exe()?)
        .args(["load", "--from", source, "--rate", &rate.to_string()])
        .args(["--trace-prefix", trace_prefix, "--first-call", &first_call.to_string(), "--stats"])
        .arg(&stats)
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    let process = command.spawn().with_context(|| format!("cannot start a caller in the namespace `{namespace}`"))?;
    Ok(Caller { source: source.to_owned(), process, stats })
}

fn read(path: &Path) -> anyhow::Result<Stats> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not a caller's counts", path.display()))
}

/// Resolves when standard input ends: whoever started us is done, or gone.
pub(super) async fn stdin_ends() {
    let (sender, ended) = tokio::sync::oneshot::channel();
    // A thread of its own: reading standard input cannot be cancelled, and the process ends with its calls anyway.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = ended.await;
}
