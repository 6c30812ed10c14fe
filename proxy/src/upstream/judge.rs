//! What an endpoint's answer says about its health, where a TrafficPolicy wants to know.
//!
//! Failures are 5xx, gRPC statuses that mean the same, and no answer. A denial is an answer like any other: whoever is
//! denied must not be able to make an endpoint look broken.

use std::time::Instant;

use http::{HeaderMap, StatusCode};

use super::{Upstream, UpstreamError};
use crate::balance::InFlight;
use crate::headers;

impl Upstream {
    pub(crate) fn judge(&self, good: bool) {
        if let Some(member) = &self.member {
            member.judged(good, Instant::now());
        }
    }

    /// By the head of an answer; gRPC's verdict mostly comes with its trailers.
    pub(super) fn judge_head(&self, status: StatusCode, map: &HeaderMap, in_flight: InFlight) -> InFlight {
        let Some(member) = &self.member else { return in_flight };
        if !status.is_server_error() && headers::is_grpc(map) && !map.contains_key("grpc-status") {
            return in_flight.told_by_trailers(std::sync::Arc::clone(member));
        }
        self.judge(map.contains_key(headers::DECISION) || !status.is_server_error() && !grpc_failed(map));
        in_flight
    }

    pub(super) fn judge_error(&self, error: &UpstreamError) {
        if error.denial().is_none() && !matches!(error, UpstreamError::Overflow { .. }) {
            self.judge(false);
        }
    }
}

/// UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS, in a head or in trailers.
pub(crate) fn grpc_failed(map: &HeaderMap) -> bool {
    map.get("grpc-status").is_some_and(|status| matches!(status.as_bytes(), b"2" | b"4" | b"13" | b"14" | b"15"))
}
