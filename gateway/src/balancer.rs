//! Connecting to an endpoint of an exported service: power of two choices, another endpoint when one is down.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signet_proxy::balance::{self, InFlight, Load};
use signet_proxy::snapshot::Snapshot;
use tokio::net::TcpStream;

const CONNECT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 3;

/// The load of every endpoint that the snapshot exports.
#[derive(Default)]
pub(crate) struct Balancer {
    loads: Mutex<HashMap<SocketAddr, Arc<Load>>>,
}

impl Balancer {
    /// Forgets endpoints that are gone.
    pub(crate) fn apply(&self, snapshot: &Snapshot) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.retain(|address, _| snapshot.exported.iter().any(|exported| exported.endpoints.contains(address)));
    }

    /// A connection to one of `endpoints`, counted in its load for as long as the second value lives.
    pub(crate) async fn connect(&self, endpoints: &[SocketAddr]) -> io::Result<(TcpStream, InFlight)> {
        let candidates: Vec<(SocketAddr, Arc<Load>)> = {
            let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.iter().map(|address| (*address, Arc::clone(loads.entry(*address).or_default()))).collect()
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the service has no endpoints");
        let mut failed = None;
        for _ in 0..ATTEMPTS.min(candidates.len()) {
            let now = Instant::now();
            let picked = balance::pick(&candidates, |(_, load)| load.as_ref(), now, failed);
            let Some((index, (address, load))) = picked.and_then(|i| candidates.get(i).map(|c| (i, c))) else { break };
            let in_flight = InFlight::start(load, now);
            match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    in_flight.answered(Instant::now());
                    stream.set_nodelay(true)?;
                    return Ok((stream, in_flight));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            tracing::debug!(%address, error = %last, "an endpoint could not be connected");
            in_flight.failed(Instant::now());
            failed = Some(index);
        }
        Err(last)
    }
}
