//! Rates, errors and durations (RED) of flows: one series for each source, destination and route that a proxy sees.
//!
//! A connection looks its flow up once, and once more for each route that its calls take; from then on counting is a few
//! atomic additions, without a lock or an allocation.
//!
//! INVARIANT: labels are verified SPIFFE IDs and names that snapshot and bundle declare, never what a caller sent, and
//! there are at most [`LIMIT`] of them: whoever comes later is counted together as `other`.

mod collect;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode};

pub use table::Flows;

use crate::metrics::Direction;
use crate::tap::Tapped;
use crate::upstream::grpc_failed;

/// Flows that have series of their own.
pub const LIMIT: usize = 500;
/// What is called where the snapshot knows no such service.
pub const UNKNOWN: &str = "unknown";
/// Who calls without having proved an identity.
pub const UNAUTHENTICATED: &str = "unauthenticated";
/// All that found no place.
const OTHER: &str = "other";

/// Upper bounds of a duration's buckets, in microseconds; longer ones are in the last bucket, which has none. From 25 us to
/// 10 s: the mesh's own cost lies at the low end, the app's at the high end.
pub const BOUNDS_US: [u64; 17] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];
const BUCKETS: usize = BOUNDS_US.len() + 1;
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What this proxy decided about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    Allow,
    Deny,
    /// Another proxy decides, or the call was refused before there was anything to decide.
    Elsewhere,
}

impl Decided {
    const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Elsewhere];

    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Elsewhere => "none",
        }
    }
}

impl From<bool> for Decided {
    fn from(allow: bool) -> Self {
        if allow { Self::Allow } else { Self::Deny }
    }
}

/// Who calls what, as one of the proxies on the way sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<'k> {
    pub direction: Direction,
    /// SPIFFE ID; empty: none was proved.
    pub source: &'k str,
    /// `<td>/<ns>/<name>` of a service, the name of a declared host outside of the mesh, or [`UNKNOWN`].
    pub destination: &'k str,
    /// Inbound the path template or gRPC method that `signet.yaml` declares, outbound the rule of an HTTPRoute or
    /// GRPCRoute; empty: none.
    pub route: &'k str,
}

impl<'k> FlowKey<'k> {
    /// As labels say it.
    fn named(self) -> Self {
        let source: &'k str = if self.source.is_empty() { UNAUTHENTICATED } else { self.source };
        Self { source, ..self }
    }
}

/// The series of one flow.
#[derive(Debug)]
pub struct Flow {
    direction: Direction,
    source: String,
    destination: String,
    route: String,
    /// By decision, then by class of status.
    answered: [[AtomicU64; CLASSES.len()]; Decided::ALL.len()],
    failed: AtomicU64,
    durations: [AtomicU64; BUCKETS],
    duration_us: AtomicU64,
    connections: [AtomicU64; Decided::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

/// A call that is being answered: whose series it counts in, and what was decided.
pub struct Seen {
    pub(crate) flow: Arc<Flow>,
    pub(crate) decided: Decided,
    tapped: Option<Box<Tapped>>,
}

impl Seen {
    pub(crate) fn new(flow: Arc<Flow>, decided: impl Into<Decided>) -> Self {
        Self { flow, decided: decided.into(), tapped: None }
    }

    /// Shows the call to whoever watches, once it is answered.
    pub(crate) fn tapped(self, tapped: Option<Box<Tapped>>) -> Self {
        Self { tapped, ..self }
    }

    /// `took` is the time from the call's arrival to the answer's head.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        self.flow.answered(self.decided, status, took);
        if let Some(tapped) = &self.tapped {
            tapped.answered(self.decided, status, took);
        }
    }

    /// As [`Seen::answered`], by a head in which gRPC may say that the call failed.
    pub(crate) fn answered_by(&self, status: StatusCode, head: &HeaderMap, took: Duration) {
        self.answered(status.as_u16(), took);
        if self.decided != Decided::Deny && grpc_failed(head) {
            self.flow.failed();
        }
    }

    /// A TCP connection was asked for.
    pub fn connected(&self, took: Duration) {
        self.flow.connected(self.decided);
        if let Some(tapped) = &self.tapped {
            tapped.answered(self.decided, 0, took);
        }
    }
}

/// What a flow has counted, all since the proxy started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls answered, by [`Decided`] (allow, deny, none), then by class of status (1xx to 5xx).
    pub answered: [[u64; CLASSES.len()]; Decided::ALL.len()],
    /// Calls that the destination failed (5xx, or a gRPC status that says so), and connections that were allowed and could
    /// not be made.
    pub failed: u64,
    /// Calls by the time from their arrival to their answer's head, by [`BOUNDS_US`].
    pub durations: [u64; BUCKETS],
    /// The sum of these times, in microseconds.
    pub duration_us: u64,
    /// TCP connections, or tunnels of a gateway, by [`Decided`].
    pub connections: [u64; Decided::ALL.len()],
    /// Bytes from the source: bodies of calls, all that TCP connections carry.
    pub received: u64,
    /// Bytes to the source.
    pub sent: u64,
}

impl Flow {
    fn is(&self, key: FlowKey<'_>) -> bool {
        self.key() == key.named()
    }

    fn new(key: FlowKey<'_>) -> Self {
        let key = key.named();
        Self {
            direction: key.direction,
            source: key.source.to_owned(),
            destination: key.destination.to_owned(),
            route: key.route.to_owned(),
            answered: Default::default(),
            failed: AtomicU64::default(),
            durations: Default::default(),
            duration_us: AtomicU64::default(),
            connections: Default::default(),
            received: AtomicU64::default(),
            sent: AtomicU64::default(),
        }
    }

    /// Whom it concerns, as its labels say it.
    #[must_use]
    pub fn key(&self) -> FlowKey<'_> {
        FlowKey { direction: self.direction, source: &self.source, destination: &self.destination, route: &self.route }
    }

    /// One call was answered; `took` is the time from its arrival to the answer's head.
    pub fn answered(&self, decided: Decided, status: u16, took: Duration) {
        let class = usize::from((status / 100).clamp(1, 5)) - 1;
        if let Some(count) = self.answered.get(decided as usize).and_then(|classes| classes.get(class)) {
            add(count, 1);
        }
        if status >= 500 {
            self.failed();
        }
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.durations.get(BOUNDS_US.partition_point(|bound| *bound < us)) {
            add(bucket, 1);
        }
        add(&self.duration_us, us);
    }

    /// The destination failed a call in a way that its status does not tell, or could not be connected.
    pub fn failed(&self) {
        add(&self.failed, 1);
    }

    /// A TCP connection or a tunnel was asked for.
    pub fn connected(&self, decided: Decided) {
        if let Some(count) = self.connections.get(decided as usize) {
            add(count, 1);
        }
    }

    /// So many bytes came from the source, and so many went to it.
    pub fn moved(&self, received: u64, sent: u64) {
        self.received(received);
        self.sent(sent);
    }

    /// So many bytes came from the source.
    pub fn received(&self, bytes: u64) {
        add(&self.received, bytes);
    }

    /// So many bytes went to the source.
    pub fn sent(&self, bytes: u64) {
        add(&self.sent, bytes);
    }

    /// What it has counted. Calls that are being counted meanwhile may show in one number and not yet in another.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            answered: std::array::from_fn(|decided| self.answered.get(decided).map(all).unwrap_or_default()),
            failed: get(&self.failed),
            durations: all(&self.durations),
            duration_us: get(&self.duration_us),
            connections: all(&self.connections),
            received: get(&self.received),
            sent: get(&self.sent),
        }
    }
}

impl Counts {
    /// Calls answered, whatever was decided.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.answered.iter().flatten().sum()
    }
}

fn add(to: &AtomicU64, by: u64) {
    to.fetch_add(by, Ordering::Relaxed);
}

fn get(of: &AtomicU64) -> u64 {
    of.load(Ordering::Relaxed)
}

fn all<const N: usize>(counts: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| counts.get(index).map(get).unwrap_or_default())
}

#[cfg(test)]
mod tests;
