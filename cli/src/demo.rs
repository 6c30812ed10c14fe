//! `signet demo`: two federated clusters with a bank, as real processes on loopback.
//!
//! The demo is a supervisor: it writes every component's configuration, starts the processes in the order in which they
//! need each other, starts again what dies, and ends all that it started and nothing else.

mod directory;
mod endpoints;
mod files;
mod link;
mod netns;
mod plan;
mod policy_repository;
mod ports;
mod postgres;
mod process;
mod ready;
mod start;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use self::postgres::binaries as postgres_binaries;
pub(crate) use self::ready::{fetch, probe};

use self::directory::Directory;
use self::start::Running;
use crate::failure::{Failure, ResultExt};

const DEFAULT_DIR: &str = "signet-demo";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where everything of this demo is kept; new or empty. Without it `signet-demo`, emptied of an earlier demo first.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Calls per second of the load generator, in total; 0 makes none.
    #[arg(long, default_value_t = 20.0, value_parser = parse_rate)]
    rate: f64,
    /// End by itself after this many seconds and compare the calls with their records.
    #[arg(long)]
    seconds: Option<u64>,
    /// Lifetime of SVIDs, seconds.
    #[arg(long, default_value_t = files::SVID_TTL, value_parser = clap::value_parser!(u32).range(5..=86_400))]
    svid_ttl: u32,
    /// Put each workload into a network namespace of its own, with the redirect rules of production; needs root.
    #[arg(long)]
    netns: bool,
    /// For the demo's own use: wait for the end of standard input, then remove that demo's network namespaces.
    #[arg(long, hide = true, value_name = "ID", exclusive = true)]
    remove_netns_of: Option<String>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.0..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("must be a number of calls per second between 0 and 100000".to_owned()),
    }
}

/// Runs until SIGINT, SIGTERM or `--seconds`.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if let Some(id) = &arguments.remove_netns_of {
        netns::wait_and_remove(id)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut signals = Signals::new()?;
    let dir = arguments.dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DIR));
    let mut directory = Directory::prepare(&dir, arguments.dir.is_some())?;
    eprintln!("Signet demo in {} (logs in {})", directory.path.display(), directory.path.join("logs").display());

    let mut running = Running::new(&directory, &arguments)?;
    let outcome = tokio::select! {
        started = running.start(&arguments) => match started {
            Ok(()) => watch(&mut running, &arguments, &mut signals).await,
            Err(failure) => Err(failure),
        },
        () = signals.any() => Ok(ExitCode::SUCCESS),
    };
    eprintln!("Stopping what the demo started ..");
    tokio::select! {
        () = running.stop() => {}
        () = signals.any() => running.kill().await,
    }
    directory.close();
    eprintln!("Stopped.");
    outcome
}

/// Runs on until the demo shall end; with `--seconds` the end is a comparison of calls and records.
async fn watch(running: &mut Running, arguments: &Arguments, signals: &mut Signals) -> Result<ExitCode, Failure> {
    running.print_addresses();
    let time = async {
        match arguments.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time => {}
        () = signals.any() => return Ok(ExitCode::SUCCESS),
        failure = running.keep_endpoints() => return Err(failure),
    }
    if arguments.rate == 0.0 {
        return Ok(ExitCode::SUCCESS);
    }
    let summary = running.summarise().await?;
    println!("{}", summary.text(arguments.seconds.unwrap_or_default()));
    if summary.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for problem in &summary.problems {
        eprintln!("does not add up: {problem}");
    }
    Err(Failure::failed("calls and records do not add up")
        .at(running.logs().display())
        .next("read the lines above, then the logs of the components they name"))
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let open = |kind| signal(kind).failed("cannot listen for signals", "report this as a bug");
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hang_up: open(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
