//! What TrafficPolicies say, as the control plane passes it on.

use std::time::Duration;

use http::StatusCode;
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

pub(super) fn faults(at: &str, w: &wire::Faults) -> Result<Faults, SnapshotError> {
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
