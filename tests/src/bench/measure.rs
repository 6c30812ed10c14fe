//! One contender in one round, and what it holds in memory.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::load::{Target, Work};
use super::peers::Contender;
use super::process::Usage;
use super::report::median;
use super::space::Wire;
use super::{CONNECTIONS, HELD, RATE, RATE_CONNECTIONS};

const WARM_UP: Duration = Duration::from_millis(500);
/// How often others' latency is measured without idle connections and with them, in turns.
const HOLDING_ROUNDS: usize = 5;

/// One target in one round; what was not measured is 0.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measurement {
    pub name: &'static str,
    pub round: usize,
    pub requests_per_second: f64,
    pub cpu_ms_per_1000: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub connections_per_second: f64,
    pub stream_mb_per_second: f64,
    pub handshakes_per_second: f64,
    /// Handshakes that one second of the server's CPU suffices for.
    pub handshakes_per_cpu_second: f64,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<11} {:>7.0} requests/s {:>6.1} CPU ms per 1,000  p50 {:>5.0} us  p99 {:>6.0} us  {:>6.0} connections/s  {:>5.0} MB/s",
            self.name,
            self.requests_per_second,
            self.cpu_ms_per_1000,
            self.p50_us,
            self.p99_us,
            self.connections_per_second,
            self.stream_mb_per_second
        )
    }
}

/// Memory of the larger of a pair's two sides, MiB, and others' latency while connections idle.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Idle {
    pub name: &'static str,
    pub at_rest_mib: f64,
    /// With the first count of [`HELD`].
    pub held_mib: f64,
    /// Of both sides, with the second.
    pub pair_mib: f64,
    /// Of requests on other connections, without and while the second count is held: medians of several times in turns.
    pub p99_us: [f64; 2],
}

pub(super) fn at_rest(contender: &Contender) -> anyhow::Result<Idle> {
    Ok(Idle { name: contender.name, at_rest_mib: larger(contender)?, ..Idle::default() })
}

fn larger(contender: &Contender) -> anyhow::Result<f64> {
    let sides = contender.sides.iter().map(|pid| Usage::of(&[*pid]).map(|usage| usage.resident_mib));
    sides.collect::<anyhow::Result<Vec<f64>>>().map(|sides| sides.into_iter().fold(0.0, f64::max))
}

/// Signet's accept loop and the bare one in one round.
pub(super) struct Handshakes {
    mesh: Measurement,
    bare: Measurement,
}

impl Handshakes {
    pub(super) fn both(self) -> [Measurement; 2] {
        [self.mesh, self.bare]
    }
}

impl fmt::Display for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handshakes/s (per CPU second of the server):")?;
        for one in [&self.mesh, &self.bare] {
            write!(f, "  {} {:.0} ({:.0})", one.name, one.handshakes_per_second, one.handshakes_per_cpu_second)?;
        }
        Ok(())
    }
}

pub(super) struct Bench<'a> {
    pub(super) wire: &'a Wire,
    pub(super) time: Duration,
}

impl Bench<'_> {
    fn target(contender: &Contender, path: &str) -> Target {
        Target { address: contender.address, host: contender.host.clone(), path: path.to_owned() }
    }

    /// Waits until the sidecars have shipped their records: their work is not over before, and would disturb others.
    fn settle(contender: &Contender) -> anyhow::Result<()> {
        for (host, facts) in &contender.sidecars {
            host.perform(&Work::Drained { admin: facts.admin })?;
        }
        Ok(())
    }

    pub(super) fn measure(&self, contender: &Contender, round: usize) -> anyhow::Result<Measurement> {
        let (client, time) = (&self.wire.client, self.time);
        let target = Self::target(contender, "/");
        let closed = |time| Work::Closed { target: target.clone(), connections: CONNECTIONS, time };
        client.perform(&closed(WARM_UP))?;
        Self::settle(contender)?;
        let before = Usage::of(&contender.sides)?;
        let requests = client.perform(&closed(time))?;
        Self::settle(contender)?;
        let used = Usage::of(&contender.sides)?.cpu_seconds - before.cpu_seconds;
        let open =
            client.perform(&Work::Open { target: target.clone(), connections: RATE_CONNECTIONS, rate: RATE, time })?;
        let fresh = client.perform(&Work::Fresh { target: target.clone(), workers: CONNECTIONS, time })?;
        let stream = client.perform(&Work::Stream { target: Self::target(contender, "/large"), time })?;
        Self::settle(contender)?;
        Ok(Measurement {
            name: contender.name,
            round,
            requests_per_second: requests.per_second(),
            cpu_ms_per_1000: used * 1e6 / requests.count.max(1) as f64,
            p50_us: open.p50_us,
            p99_us: open.p99_us,
            connections_per_second: fresh.per_second(),
            stream_mb_per_second: stream.bytes as f64 / 1e6 / stream.seconds,
            ..Measurement::default()
        })
    }

    /// `bare` is the bare loop's process and address.
    pub(super) fn handshakes(
        &self,
        mesh: &Contender,
        bare: (i32, SocketAddr),
        round: usize,
    ) -> anyhow::Result<Handshakes> {
        let (Some((_, caller)), Some(called), Some(address)) = (mesh.sidecars.first(), mesh.sides.last(), mesh.tls)
        else {
            anyhow::bail!("no mesh to shake hands with");
        };
        let one = |name, pid: i32, address| {
            let work =
                Work::Handshakes { address, workload_api: caller.workload_api.clone(), workers: 8, time: self.time };
            let before = Usage::of(&[pid])?;
            let done = self.wire.client.perform(&work)?;
            let used = Usage::of(&[pid])?.cpu_seconds - before.cpu_seconds;
            anyhow::Ok(Measurement {
                name,
                round,
                handshakes_per_second: done.per_second(),
                handshakes_per_cpu_second: done.count as f64 / used.max(0.01),
                ..Measurement::default()
            })
        };
        let mesh = || one("signet", *called, address);
        let bare = || one("bare rustls", bare.0, bare.1);
        // Rotated, like everything.
        if round.is_multiple_of(2) {
            Ok(Handshakes { mesh: mesh()?, bare: bare()? })
        } else {
            let bare = bare()?;
            Ok(Handshakes { mesh: mesh()?, bare })
        }
    }

    /// Memory, and others' latency, while many connections idle.
    pub(super) fn holding(&self, contender: &Contender, idle: &mut Idle) -> anyhow::Result<()> {
        if contender.sides.is_empty() {
            return Ok(());
        }
        let target = Self::target(contender, "/");
        let hold = |connections| Work::Hold { target: target.clone(), connections };
        let others = || {
            let work =
                Work::Open { target: target.clone(), connections: RATE_CONNECTIONS, rate: RATE, time: self.time };
            anyhow::Ok(self.wire.client.perform(&work)?.p99_us)
        };
        let [some, many] = HELD;
        idle.held_mib = self.wire.client.while_holding(&hold(some), || larger(contender))?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..HOLDING_ROUNDS {
            without.push(others()?);
            let (pair, during) = self.wire.client.while_holding(&hold(many), || {
                let during = others()?;
                Ok((Usage::of(&contender.sides)?.resident_mib, during))
            })?;
            with.push(during);
            idle.pair_mib = idle.pair_mib.max(pair);
        }
        idle.p99_us = [median(without), median(with)];
        eprintln!("{idle:?}");
        Ok(())
    }
}
