//! What TrafficPolicies say, as the control plane passes it on: to callers, and to the service's own sidecars.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use signet_api::control as wire;
use signet_mtls::SpiffeId;

use super::{SnapshotError, parse};

/// What each of some clients may ask of a service: calls (HTTP, gRPC) or connections (TCP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Empty: every client; those without an identity count together as one.
    pub clients: Vec<SpiffeId>,
    /// In `per`; above 0.
    pub requests: u32,
    pub per: Duration,
    /// What may come at once after a pause; above 0.
    pub burst: u32,
}

/// What a caller's sidecar does with calls of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// `TrafficPolicy/<ns>/<name>`.
    pub policy: Arc<str>,
    pub balancing: Balancing,
    /// `None`: endpoints that fail are only preferred less.
    pub outlier: Option<Outlier>,
    pub breaker: Breaker,
    pub faults: Option<Faults>,
}

impl Traffic {
    /// Whether anything is asked for that concerns endpoints.
    #[must_use]
    pub fn concerns_endpoints(&self) -> bool {
        self.balancing != Balancing::default() || self.outlier.is_some() || self.breaker != Breaker::default()
    }
}

/// Which endpoint a call goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancing {
    pub algorithm: Algorithm,
    /// How long the share of an endpoint grows that is new or comes back; zero: not at all.
    pub slow_start: Duration,
    /// With less than this share of healthy endpoints, in percent, all are used; 0: never.
    pub panic_percent: u32,
}

impl Default for Balancing {
    fn default() -> Self {
        Self { algorithm: Algorithm::PeakEwma, slow_start: Duration::ZERO, panic_percent: 50 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// The cheaper of two drawn at random, by latency and calls in flight.
    PeakEwma,
    /// The one of two with fewer calls in flight.
    LeastRequest,
    /// By a part of the request: the same value, the same endpoint.
    ConsistentHash(HashOn),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    Header(HeaderName),
    Cookie(String),
    /// A parameter of the query, as it stands there.
    Query(String),
}

/// When an endpoint gets no calls for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    /// 0: not looked at.
    pub consecutive_failures: u32,
    /// Thousandths of a standard deviation below the mean of the service's endpoints; 0: not looked at.
    pub deviations_milli: u32,
    /// Calls in an `interval` that an endpoint needs to have a share of good answers.
    pub minimum_calls: u32,
    pub interval: Duration,
    /// Times how often it was ejected in a row.
    pub eject: Duration,
    /// Of the service's endpoints, and at least one.
    pub max_ejected_percent: u32,
}

/// What one sidecar may have open towards a service; `None`: any number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    /// To one endpoint.
    pub connections: Option<u32>,
    /// Calls that wait for a connection.
    pub pending: Option<u32>,
    /// Calls in flight.
    pub requests: Option<u32>,
    /// Retries in flight.
    pub retries: Option<u32>,
}

/// Made by the caller's sidecar for tests of callers, before anything is sent. Shares are of 10,000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub delay_permyriad: u32,
    pub delay: Duration,
    pub abort_permyriad: u32,
    pub abort_status: StatusCode,
    /// 1 to 16.
    pub abort_grpc: u32,
}

fn error(field: String, value: impl ToString, expected: &'static str) -> SnapshotError {
    SnapshotError::Field { field, value: value.to_string(), expected }
}

pub(super) fn traffic(at: &str, w: &wire::Traffic) -> Result<Traffic, SnapshotError> {
    let limit = |n: u32| (n > 0).then_some(n);
    let breaker = w.breaker.unwrap_or_default();
    Ok(Traffic {
        policy: Arc::from(w.policy.as_str()),
        balancing: match &w.balancing {
            Some(w) => balancing(&format!("{at}.balancing"), w)?,
            None => Balancing::default(),
        },
        outlier: match &w.outlier {
            Some(w) => Some(outlier(&format!("{at}.outlier"), w)?),
            None => None,
        },
        breaker: Breaker {
            connections: limit(breaker.max_connections),
            pending: limit(breaker.max_pending),
            requests: limit(breaker.max_requests),
            retries: limit(breaker.max_retries),
        },
        faults: match &w.faults {
            Some(w) => Some(faults(&format!("{at}.faults"), w)?),
            None => None,
        },
    })
}

fn balancing(at: &str, w: &wire::Balancing) -> Result<Balancing, SnapshotError> {
    let algorithm = match w.algorithm.as_str() {
        "" | "peak_ewma" => Algorithm::PeakEwma,
        "least_request" => Algorithm::LeastRequest,
        "consistent_hash" => {
            Algorithm::ConsistentHash(match (&*w.hash_header, w.hash_cookie.is_empty(), w.hash_query.is_empty()) {
                (header, true, true) => {
                    HashOn::Header(parse(|| format!("{at}.hash_header"), header, "a header's name")?)
                }
                ("", false, true) => HashOn::Cookie(w.hash_cookie.clone()),
                ("", true, false) => HashOn::Query(w.hash_query.clone()),
                _ => return Err(error(format!("{at}.hash_header"), &w.hash_header, "alone: one part is hashed")),
            })
        }
        other => {
            let expected = "one of peak_ewma, least_request, consistent_hash";
            return Err(error(format!("{at}.algorithm"), other, expected));
        }
    };
    let panic_percent = w.panic_percent.unwrap_or(50);
    if panic_percent > 100 {
        return Err(error(format!("{at}.panic_percent"), panic_percent, "a percentage"));
    }
    Ok(Balancing { algorithm, slow_start: Duration::from_millis(w.slow_start_ms), panic_percent })
}

fn outlier(at: &str, w: &wire::Outlier) -> Result<Outlier, SnapshotError> {
    for (field, value) in [("interval_ms", w.interval_ms), ("eject_ms", w.eject_ms)] {
        if value == 0 {
            return Err(error(format!("{at}.{field}"), value, "a number above 0"));
        }
    }
    if !(1..=100).contains(&w.max_ejected_percent) {
        return Err(error(format!("{at}.max_ejected_percent"), w.max_ejected_percent, "a percentage above 0"));
    }
    Ok(Outlier {
        consecutive_failures: w.consecutive_failures,
        deviations_milli: w.deviations_milli,
        minimum_calls: w.minimum_calls.max(1),
        interval: Duration::from_millis(w.interval_ms),
        eject: Duration::from_millis(w.eject_ms),
        max_ejected_percent: w.max_ejected_percent,
    })
}

pub(super) fn rate_limit(at: &str, w: &wire::RateLimit) -> Result<RateLimit, SnapshotError> {
    for (field, value) in [("requests", u64::from(w.requests)), ("per_ms", w.per_ms), ("burst", u64::from(w.burst))] {
        if value == 0 {
            return Err(error(format!("{at}.{field}"), value, "a number above 0"));
        }
    }
    let clients = w.clients.iter().enumerate();
    let clients = clients.map(|(i, id)| parse(|| format!("{at}.clients[{i}]"), id, "a SPIFFE ID"));
    Ok(RateLimit {
        clients: clients.collect::<Result<_, _>>()?,
        requests: w.requests,
        per: Duration::from_millis(w.per_ms),
        burst: w.burst,
    })
}

fn faults(at: &str, w: &wire::Faults) -> Result<Faults, SnapshotError> {
    for (field, value) in [("delay_permyriad", w.delay_permyriad), ("abort_permyriad", w.abort_permyriad)] {
        if value > 10_000 {
            return Err(error(format!("{at}.{field}"), value, "a share of 10000"));
        }
    }
    // Without aborts their statuses are left out.
    let (status, grpc) = if w.abort_permyriad == 0 { (503, 14) } else { (w.abort_status, w.abort_grpc) };
    let abort_status = u16::try_from(status).ok().filter(|status| (400..600).contains(status));
    let abort_status = abort_status.and_then(|status| StatusCode::from_u16(status).ok());
    if !(1..=16).contains(&grpc) {
        return Err(error(format!("{at}.abort_grpc"), grpc, "a gRPC status from 1 to 16"));
    }
    Ok(Faults {
        delay_permyriad: w.delay_permyriad,
        delay: Duration::from_millis(w.delay_ms),
        abort_permyriad: w.abort_permyriad,
        abort_status: abort_status
            .ok_or_else(|| error(format!("{at}.abort_status"), status, "an HTTP status from 400 to 599"))?,
        abort_grpc: grpc,
    })
}
