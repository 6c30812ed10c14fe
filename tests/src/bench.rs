//! Measuring pairs of proxies side by side: the same app, the same load generator, the same two CPUs.
//!
//! The load generator and the proxies of the caller's side share one CPU, the proxies of the called side and the app the
//! other. Rounds are interleaved and each starts with another target, so that what the machine does meanwhile meets all
//! alike; the report gives medians over rounds and ratios within one run. Figures of different runs are not comparable.

pub mod load;
pub mod pair;
mod peers;
mod process;
mod report;
mod signet;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use self::load::{Latencies, Target};
use self::process::Usage;
pub use self::report::report;

/// Keep-alive connections of the throughput measurement.
pub const CONNECTIONS: usize = 32;
/// Requests per second of the latency measurement, and its connections.
pub const RATE: u32 = 1_000;
pub const RATE_CONNECTIONS: usize = 16;
const WARM_UP: Duration = Duration::from_millis(700);

pub struct Plan {
    pub rounds: usize,
    /// For each measurement.
    pub seconds: u64,
    pub json: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { rounds: 5, seconds: 3, json: None }
    }
}

/// What is measured: an address that leads to the app, and the processes between.
pub struct Contender {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Sent as `Host`; a mesh finds the service by it.
    pub host: String,
    pub pids: Vec<i32>,
}

/// One target in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    pub name: &'static str,
    pub round: usize,
    pub requests_per_second: f64,
    pub cpu_seconds_per_1000: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub resident_mib: f64,
    pub failed: u64,
}

/// Starts all, measures all, ends all.
///
/// # Errors
/// When something cannot be started, or answers something else than 200.
pub async fn run(plan: &Plan) -> anyhow::Result<Vec<Measurement>> {
    eprintln!("starting the demo, nginx and HAProxy ..");
    let mesh = signet::Mesh::start().await?;
    let app = mesh.app();
    let peers = peers::Peers::start(app)?;
    let mut contenders = vec![Contender { name: "direct", address: app, host: "app".to_owned(), pids: Vec::new() }];
    contenders.extend(peers.contenders());
    contenders.push(mesh.contender()?);
    mesh.pin()?;

    let mut results = Vec::new();
    for round in 0..plan.rounds {
        for place in 0..contenders.len() {
            let contender = contenders.get((place + round) % contenders.len()).context("no contender")?;
            let measured = measure(contender, round, Duration::from_secs(plan.seconds))
                .await
                .with_context(|| format!("measuring {}", contender.name))?;
            eprintln!(
                "round {}: {:<8} {:>8.0} requests/s  p50 {:>6.0} us  p99 {:>6.0} us  {:>5.1} CPU ms per 1,000",
                round + 1,
                measured.name,
                measured.requests_per_second,
                measured.p50_us,
                measured.p99_us,
                measured.cpu_seconds_per_1000 * 1000.0
            );
            results.push(measured);
        }
    }
    Ok(results)
}

async fn measure(contender: &Contender, round: usize, time: Duration) -> anyhow::Result<Measurement> {
    let target = Target { address: contender.address, host: contender.host.clone(), path: "/".to_owned() };
    load::closed(&target, CONNECTIONS, WARM_UP).await?;
    let before = Usage::of(&contender.pids)?;
    let closed = load::closed(&target, CONNECTIONS, time).await?;
    let used = Usage::of(&contender.pids)?.cpu_seconds - before.cpu_seconds;
    let open: Latencies = load::open(&target, RATE_CONNECTIONS, RATE, time).await?;
    Ok(Measurement {
        name: contender.name,
        round,
        requests_per_second: closed.requests as f64 / time.as_secs_f64(),
        cpu_seconds_per_1000: used * 1000.0 / closed.requests.max(1) as f64,
        p50_us: open.percentile(50.0),
        p99_us: open.percentile(99.0),
        resident_mib: Usage::of(&contender.pids)?.resident_mib,
        failed: closed.failed + open.failed,
    })
}
