//! HTTP/1.1 connections in the hands of the relay: the transport itself, kept while idle, newest first.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::turn::Turn;
use super::{Target, Transport, Upstream, UpstreamError};
use crate::balance::{InFlight, Slot};
use crate::limits;

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    transport: Transport,
    born: Instant,
    since: Instant,
    generation: u64,
    slot: Option<Slot>,
}

impl Idle {
    fn usable(&mut self, now: Instant, generation: u64) -> bool {
        self.generation == generation
            && now.saturating_duration_since(self.since) < limits::POOL_IDLE
            && now.saturating_duration_since(self.born) < limits::POOL_LIFETIME
            && silent(&mut self.transport)
    }
}

/// Nothing has come and the other side has not ended it. Costs a system call only when something has happened.
fn silent(transport: &mut Transport) -> bool {
    let mut byte = [0; 1];
    let mut read = ReadBuf::new(&mut byte);
    Pin::new(transport).poll_read(&mut Context::from_waker(Waker::noop()), &mut read).is_pending()
}

impl Pool {
    fn take(&self, generation: u64) -> Option<Idle> {
        let now = Instant::now();
        loop {
            let mut next = self.idle.lock().pop()?;
            if next.usable(now, generation) {
                return Some(next);
            }
        }
    }

    fn put(&self, idle: Idle) {
        let mut pool = self.idle.lock();
        if pool.len() < limits::POOL_MAX_IDLE {
            pool.push(idle);
        }
    }

    pub(super) fn sweep(&self, generation: u64) {
        let now = Instant::now();
        self.idle.lock().retain_mut(|idle| idle.usable(now, generation));
    }

    pub(super) fn len(&self) -> usize {
        self.idle.lock().len()
    }
}

/// A connection that one call uses. Dropped, it is closed.
pub(crate) struct Wired {
    upstream: Arc<Upstream>,
    transport: Transport,
    born: Instant,
    generation: u64,
    in_flight: InFlight,
}

impl Wired {
    pub(crate) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// The app answers, not another sidecar.
    pub(crate) fn is_app(&self) -> bool {
        matches!(self.upstream.target, Target::App(_))
    }

    /// With the status of a final answer.
    pub(crate) fn answered(&self, status: u16, at: Instant) {
        self.in_flight.answered(at);
        self.upstream.reached();
        self.upstream.judge(status < 500);
    }

    /// `fresh`: no earlier call left it.
    pub(crate) fn failed(&self, fresh: bool) {
        self.in_flight.failed(Instant::now());
        self.upstream.shared.metrics.pool_failed.inc();
        // That a connection went away while it was idle says nothing of the endpoint.
        if fresh {
            self.upstream.judge(false);
        }
    }

    /// The call ended as it should, and nothing of it is left on the connection.
    pub(crate) fn give_back(self) {
        let Self { upstream, transport, born, generation, mut in_flight } = self;
        let slot = in_flight.take_slot();
        drop(in_flight);
        upstream.wired.put(Idle { transport, born, since: Instant::now(), generation, slot });
        upstream.freed();
    }
}

impl Upstream {
    /// A connection that an earlier call left.
    pub(crate) fn wired_idle(self: &Arc<Self>) -> Option<Wired> {
        let generation = self.generation();
        let idle = self.wired.take(generation)?;
        // Over its limit the call is refused where a new connection would be made.
        let in_flight = self.begin().ok()?;
        Some(self.take_over(idle, generation, in_flight))
    }

    fn take_over(self: &Arc<Self>, idle: Idle, generation: u64, in_flight: InFlight) -> Wired {
        self.shared.metrics.pool_reused.inc();
        let Idle { transport, born, slot, .. } = idle;
        let in_flight = match slot {
            Some(slot) => in_flight.on(slot),
            None => in_flight,
        };
        Wired { upstream: Arc::clone(self), transport, born, generation, in_flight }
    }

    /// A new connection, or one that became idle while this call waited.
    ///
    /// # Errors
    /// When none could be made.
    pub(crate) async fn wired_new(self: &Arc<Self>) -> Result<Wired, UpstreamError> {
        // Boxed: what governed services need must not make the future of every connection larger.
        if self.member.is_some() {
            return Box::pin(self.wired_governed()).await;
        }
        let in_flight = self.begin()?;
        self.wired_dial(in_flight, self.generation()).await
    }

    async fn wired_governed(self: &Arc<Self>) -> Result<Wired, UpstreamError> {
        let mut in_flight = self.begin()?;
        let generation = self.generation();
        let Turn { idle, slot, waiting } = self.turn(|| self.wired.take(generation)).await?;
        if let Some(idle) = idle {
            return Ok(self.take_over(idle, generation, in_flight));
        }
        if let Some(slot) = slot {
            in_flight = in_flight.on(slot);
        }
        let wired = self.wired_dial(in_flight, generation).await;
        drop(waiting);
        wired
    }

    /// `generation` is of the identity before dialling: a rotation meanwhile makes the connection one of the past.
    async fn wired_dial(self: &Arc<Self>, in_flight: InFlight, generation: u64) -> Result<Wired, UpstreamError> {
        match self.dial(&HeaderMap::new()).await {
            Ok(transport) => {
                let (upstream, born) = (Arc::clone(self), Instant::now());
                Ok(Wired { upstream, transport, born, generation, in_flight })
            }
            Err(error) => {
                self.failed(&error, &in_flight);
                Err(error)
            }
        }
    }

    /// For errors and logs.
    pub(crate) fn name(&self) -> String {
        self.address()
    }

    /// Behind a gateway: its connections carry the trace of the call that they are made for.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.target, Target::Remote { .. })
    }
}
