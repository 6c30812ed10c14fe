//! The load, as work that a process of its own does: in the caller's network namespace, on the caller's CPU.
//!
//! `make bench` starts its own program again with a [`Work`] as JSON, and reads a [`Done`] from it.

mod calls;
mod handshakes;
mod open;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

pub use handshakes::bare_tls;

/// What is asked for, and of whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    pub address: SocketAddr,
    /// Sent as `Host`; a mesh finds the service by it.
    pub host: String,
    pub path: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// As many requests as `connections` make, each one after the other.
    Closed { target: Target, connections: usize, time: Duration },
    /// `rate` requests per second, evenly spaced, over `connections`.
    Open { target: Target, connections: usize, rate: u32, time: Duration },
    /// One request for each connection, `workers` at a time.
    Fresh { target: Target, workers: usize, time: Duration },
    /// One large answer after the other on one connection.
    Stream { target: Target, time: Duration },
    /// Opens `connections`, makes one request on each, says so on standard output, and holds them until standard input ends.
    Hold { target: Target, connections: usize },
    /// Full mutual handshakes, `workers` at a time, with the SVID that `workload_api` gives.
    Handshakes { address: SocketAddr, workload_api: String, workers: usize, time: Duration },
    /// Waits until the spool of the sidecar with this admin listener has nothing left to ship.
    Drained { admin: SocketAddr },
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Done {
    pub count: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Done {
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }
}

/// Does it.
///
/// # Errors
/// When a connection cannot be opened, or an answer is not 200.
pub async fn perform(work: Work) -> anyhow::Result<Done> {
    raise_descriptors()?;
    match work {
        Work::Closed { target, connections, time } => calls::closed(&target, connections, time).await,
        Work::Open { target, connections, rate, time } => open::open(&target, connections, rate, time).await,
        Work::Fresh { target, workers, time } => calls::fresh(&target, workers, time).await,
        Work::Stream { target, time } => calls::stream(&target, time).await,
        Work::Hold { target, connections } => calls::hold(&target, connections).await,
        Work::Handshakes { address, workload_api, workers, time } => {
            handshakes::handshakes(address, &workload_api, workers, time).await
        }
        Work::Drained { admin } => drained(admin).await,
    }
}

/// As many descriptors as the process may have.
fn raise_descriptors() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("the limit of open files cannot be raised to its maximum")
}

async fn drained(admin: SocketAddr) -> anyhow::Result<Done> {
    let waited = crate::wait::until("the spool to be shipped", Duration::from_secs(120), || async {
        let text = crate::calls::get(&admin.to_string(), "/metrics", &[]).await?.text();
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("_total ")?.trim().parse::<f64>().ok())
        };
        let appended = value("signet_spool_appended").context("no signet_spool_appended in /metrics")?;
        Ok((value("signet_spool_acked").unwrap_or_default() >= appended).then_some(appended))
    });
    Ok(Done { count: waited.await? as u64, ..Done::default() })
}

fn request(target: &Target, close: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("GET {} HTTP/1.1\r\nHost: {}\r\n{close}\r\n", target.path, target.host).into_bytes()
}

/// The length of an answer's head and of its body, once the head is there; only 200 with a content length counts.
fn lengths(answer: &[u8]) -> anyhow::Result<Option<(usize, u64)>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = answer.get(..end).unwrap_or_default();
    anyhow::ensure!(
        head.starts_with(b"HTTP/1.1 200"),
        "answered `{}`",
        String::from_utf8_lossy(head).lines().next().unwrap_or_default()
    );
    let length = head.split(|byte| *byte == b'\n').find_map(|line| {
        let name = line.get(..15).filter(|name| name.eq_ignore_ascii_case(b"content-length:"))?;
        std::str::from_utf8(line.get(name.len()..)?).ok()?.trim().parse::<u64>().ok()
    });
    Ok(Some((end + 4, length.context("the answer has no content-length")?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_whole_heads_of_200_with_a_length_count() {
        assert_eq!(lengths(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        let answer = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 1024\r\n\r\nabc";
        assert_eq!(lengths(answer).unwrap(), Some((answer.len() - 3, 1024)));
        assert!(lengths(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(lengths(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
