//! What a TrafficPolicy says about spreading calls over endpoints, and about endpoints that fail.

use signet_api::control as wire;

use super::check::{Checked, duration, number};
use super::{Algorithm, CircuitBreaker, LoadBalancing, OutlierDetection};
use crate::manifests::place::Place;
use crate::model::Part;

const DEFAULT_INTERVAL_MS: u64 = 10_000;
const DEFAULT_EJECT_MS: u64 = 30_000;
const DEFAULT_MAX_EJECTED: u32 = 50;
/// Where there is somewhere else to go.
const DEFAULT_MAX_EJECTED_ELSEWHERE: u32 = 100;
const DEFAULT_MINIMUM_CALLS: i64 = 100;
const DEFAULT_DEVIATIONS: f64 = 1.9;

pub(super) fn balancing(place: &Place, written: &LoadBalancing) -> Checked<wire::Balancing> {
    let hash = written.hash_on.clone().unwrap_or_default();
    let at = "spec.loadBalancing.hashOn";
    let given = [&hash.header, &hash.cookie, &hash.query].into_iter().filter(|value| !value.is_empty()).count();
    match (written.algorithm, given) {
        (Algorithm::ConsistentHash, 1) => {}
        (Algorithm::PeakEwma | Algorithm::LeastRequest, 0) if written.hash_on.is_none() => {}
        (Algorithm::ConsistentHash, _) => {
            return Err(place.error(at, "ConsistentHash needs exactly one of `header`, `cookie` and `query`"));
        }
        (_, _) => return Err(place.error(at, "only the algorithm ConsistentHash hashes; set it, or leave this out")),
    }
    if !hash.header.is_empty() && http::HeaderName::from_bytes(hash.header.as_bytes()).is_err() {
        return Err(place.error(&format!("{at}.header"), format!("`{}` is not the name of a header", hash.header)));
    }
    Ok(wire::Balancing {
        algorithm: match written.algorithm {
            Algorithm::PeakEwma => "peak_ewma",
            Algorithm::LeastRequest => "least_request",
            Algorithm::ConsistentHash => "consistent_hash",
        }
        .to_owned(),
        hash_header: hash.header.to_ascii_lowercase(),
        hash_cookie: hash.cookie,
        hash_query: hash.query,
        slow_start_ms: match &written.slow_start {
            Some(text) => duration(place, "spec.loadBalancing.slowStart", text, 0)?,
            None => 0,
        },
        panic_percent: match written.panic_threshold {
            Some(percent) => Some(number(place, "spec.loadBalancing.panicThreshold", percent, 0, 100)?),
            None => None,
        },
    })
}

/// `elsewhere`: the clusters that calls can go to when all endpoints are out.
pub(super) fn outlier(place: &Place, written: &OutlierDetection, elsewhere: &[Vec<Part>]) -> Checked<wire::Outlier> {
    let at = "spec.outlierDetection";
    let consecutive_failures = match written.consecutive_failures {
        Some(count) => number(place, &format!("{at}.consecutiveFailures"), count, 1, 10_000)?,
        None => 0,
    };
    let (deviations_milli, minimum_calls) = match &written.success_rate {
        None => (0, 0),
        Some(rate) => {
            let deviations = rate.deviations.unwrap_or(DEFAULT_DEVIATIONS);
            if !(0.1..=10.0).contains(&deviations) {
                let message = format!("`{deviations}` is not a number of standard deviations from 0.1 to 10");
                return Err(place.error(&format!("{at}.successRate.deviations"), message));
            }
            let calls = rate.minimum_calls.unwrap_or(DEFAULT_MINIMUM_CALLS);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "100 to 10000")]
            let milli = (deviations * 1000.0).round() as u32;
            (milli, number(place, &format!("{at}.successRate.minimumCalls"), calls, 1, 1_000_000)?)
        }
    };
    if consecutive_failures == 0 && deviations_milli == 0 {
        let message = "needs `consecutiveFailures`, `successRate` or both; without them nothing is ejected";
        return Err(place.error(at, message));
    }
    let time = |field: &str, text: Option<&String>, default| match text {
        Some(text) => duration(place, &format!("{at}.{field}"), text, 100),
        None => Ok(default),
    };
    Ok(wire::Outlier {
        consecutive_failures,
        deviations_milli,
        minimum_calls,
        interval_ms: time("interval", written.interval.as_ref(), DEFAULT_INTERVAL_MS)?,
        eject_ms: time("ejectFor", written.eject_for.as_ref(), DEFAULT_EJECT_MS)?,
        max_ejected_percent: match written.max_ejected {
            Some(percent) => number(place, &format!("{at}.maxEjected"), percent, 1, 100)?,
            None if elsewhere.is_empty() => DEFAULT_MAX_EJECTED,
            None => DEFAULT_MAX_EJECTED_ELSEWHERE,
        },
    })
}

pub(super) fn breaker(place: &Place, written: &CircuitBreaker) -> Checked<wire::Breaker> {
    let limit = |field: &str, value: Option<i64>| match value {
        Some(value) => number(place, &format!("spec.circuitBreaker.{field}"), value, 1, 1_000_000),
        None => Ok(0),
    };
    let limits = wire::Breaker {
        max_connections: limit("maxConnections", written.max_connections)?,
        max_pending: limit("maxPending", written.max_pending)?,
        max_requests: limit("maxRequests", written.max_requests)?,
        max_retries: limit("maxRetries", written.max_retries)?,
    };
    if limits == wire::Breaker::default() {
        let message =
            "needs `maxConnections`, `maxPending`, `maxRequests` or `maxRetries`; without them nothing is limited";
        return Err(place.error("spec.circuitBreaker", message));
    }
    Ok(limits)
}
