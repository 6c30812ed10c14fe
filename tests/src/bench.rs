//! Measuring pairs of proxies side by side: the same app, the same load generator, the same two hosts.
//!
//! The hosts are network namespaces with one CPU each, joined by a wire. The load generator and the callers' sides live on
//! one, the called sides and the app on the other. Rounds are interleaved and each starts with another target, so that what
//! the machine does meanwhile meets all alike; the report gives medians over rounds and ratios within one run. Figures of
//! different runs are not comparable.

pub mod load;
mod measure;
pub mod pair;
mod peers;
mod process;
mod report;
mod space;
pub mod stop;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use self::load::Work;
pub use self::measure::Measurement;
use self::measure::{Bench, Idle};
use self::peers::Contender;
pub use self::report::report;
use self::space::Wire;

/// Keep-alive connections of the throughput measurement, and workers of those of connections and handshakes.
pub const CONNECTIONS: usize = 32;
/// Requests per second of the latency measurement, and its connections.
pub const RATE: u32 = 1_000;
pub const RATE_CONNECTIONS: usize = 16;
/// Idle connections that are held while memory and others' latency are measured.
pub const HELD: [usize; 2] = [1_000, 10_000];

pub struct Plan {
    pub rounds: usize,
    /// For each measurement.
    pub seconds: u64,
    pub json: Option<PathBuf>,
    /// The contenders' names, all when empty.
    pub only: Vec<String>,
    /// Another build of the sidecar, as one more contender.
    pub against: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { rounds: 5, seconds: 3, json: None, only: Vec::new(), against: None }
    }
}

/// All that was measured.
#[derive(Debug, serde::Serialize)]
pub struct Results {
    pub rounds: Vec<Measurement>,
    pub idle: Vec<Idle>,
}

/// Starts all, measures all, ends all.
///
/// # Errors
/// When something cannot be started, or answers something else than 200.
pub fn run(plan: &Plan) -> anyhow::Result<Results> {
    let wanted = |name: &str| plan.only.is_empty() || plan.only.iter().any(|only| only == name);
    let dir = tempfile::Builder::new().prefix("signet-bench-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    eprintln!("starting the app, the pairs, and what they need ..");
    let wire = Wire::new()?;
    peers::certificates(dir.path())?;
    let _app = peers::app(&wire, dir.path())?;
    let mut contenders: Vec<Contender> = vec![peers::direct(&wire)];
    if wanted("nginx") {
        contenders.push(peers::nginx(&wire, dir.path())?);
    }
    if wanted("haproxy") {
        contenders.push(peers::haproxy(&wire, dir.path())?);
    }
    for (number, name, program) in [(3, "signet", "signet-proxy"), (4, "signet, off", "signet-proxy-unenforced")] {
        if wanted(name) {
            contenders.push(peers::signet(&wire, dir.path(), number, name, &pair::shipped(program)?)?);
        }
    }
    if let Some(program) = &plan.against {
        contenders.push(peers::signet(&wire, dir.path(), 5, "signet, other", program)?);
    }
    // Before anything else has happened to them.
    let mut idle: Vec<Idle> = contenders.iter().map(measure::at_rest).collect::<anyhow::Result<_>>()?;

    let mesh = contenders.iter().find(|contender| contender.tls.is_some());
    let workload_api =
        mesh.and_then(|mesh| mesh.sidecars.iter().map(|(_, facts)| facts.workload_api.clone()).next_back());
    let bare = workload_api.map(|api| peers::bare(&wire, dir.path(), &api)).transpose()?;
    let bench = Bench { wire: &wire, time: Duration::from_secs(plan.seconds) };
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        for place in 0..contenders.len() {
            let contender = contenders.get((place + round) % contenders.len()).context("no contender")?;
            let measured = bench.measure(contender, round).with_context(|| format!("measuring {}", contender.name))?;
            eprintln!("round {}: {measured}", round + 1);
            rounds.push(measured);
        }
        if let (Some(mesh), Some((server, address))) =
            (contenders.iter().find(|contender| contender.name == "signet"), &bare)
        {
            let measured = bench.handshakes(mesh, (server.pid()?, *address), round)?;
            eprintln!("round {}: {measured}", round + 1);
            rounds.extend(measured.both());
        }
    }
    for contender in &contenders {
        let Some(idle) = idle.iter_mut().find(|idle| idle.name == contender.name) else { continue };
        bench.holding(contender, idle).with_context(|| format!("holding connections of {}", contender.name))?;
    }
    Ok(Results { rounds, idle })
}

/// Does one piece of work in this process; what `make bench` starts itself for.
///
/// # Errors
/// See [`load::perform`].
pub fn work(text: &str) -> anyhow::Result<()> {
    let work: Work = serde_json::from_str(text).context("no work")?;
    let done = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(load::perform(work))?;
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}
