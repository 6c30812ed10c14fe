//! From TrafficPolicies as they are written to such that can be applied, or to an error that names the field.

use signet_api::control as wire;

use super::{
    Algorithm, CircuitBreaker, Failover, Faults, LoadBalancing, Locality, OutlierDetection, RateLimit, TargetRef,
    TrafficPolicy as Written,
};
use crate::manifests::ManifestError;
use crate::manifests::place::Place;
use crate::manifests::resolve::{check_label, is_label, name_of, port_number};
use crate::manifests::routes::duration_ms;
use crate::model::{FailoverTo, Limit, ServiceName, Target, TrafficPolicy};

/// Entries of one list.
const MAX_LIST: usize = 64;
/// A delay, and a slow start; longer ones are mistakes of a unit.
const MAX_DURATION_MS: u64 = 3_600_000;
const DEFAULT_PANIC: u32 = 50;
const DEFAULT_INTERVAL_MS: u64 = 10_000;
const DEFAULT_EJECT_MS: u64 = 30_000;
const DEFAULT_MAX_EJECTED: u32 = 50;
const DEFAULT_MINIMUM_CALLS: u32 = 100;
const DEFAULT_DEVIATIONS: f64 = 1.9;

type Checked<T> = Result<T, ManifestError>;

/// What `manifest` says.
pub(in crate::manifests) fn read(place: &Place, manifest: &Written) -> Checked<TrafficPolicy> {
    let name = name_of(place, &manifest.metadata)?;
    let spec = &manifest.spec;
    let traffic = wire::Traffic {
        policy: format!("TrafficPolicy/{name}"),
        balancing: Some(balancing(place, spec.load_balancing.as_ref())?),
        locality: spec.locality.as_ref().map(|written| locality(place, written)).transpose()?,
        outlier: spec.outlier_detection.as_ref().map(|written| outlier(place, written)).transpose()?,
        breaker: spec.circuit_breaker.as_ref().map(|written| breaker(place, written)).transpose()?,
        failover: Vec::new(),
        faults: spec.faults.as_ref().map(|written| faults(place, written)).transpose()?,
    };
    Ok(TrafficPolicy {
        targets: targets(place, &spec.target_refs, &name)?,
        failover: failover(place, &spec.failover)?,
        limits: limits(place, &spec.rate_limits, &name)?,
        traffic,
        name,
    })
}

/// A whole number of a field, within bounds.
fn number(place: &Place, field: &str, value: i64, least: i64, most: i64) -> Checked<u32> {
    let fits = u32::try_from(value).ok().filter(|_| (least..=most).contains(&value));
    fits.ok_or_else(|| place.error(field, format!("`{value}` is not a number from {least} to {most}")))
}

fn duration(place: &Place, field: &str, text: &str, least: u64) -> Checked<u64> {
    let ms = duration_ms(place, field, text)?;
    if (least..=MAX_DURATION_MS).contains(&ms) {
        return Ok(ms);
    }
    Err(place.error(field, format!("`{text}` is not a duration from {least}ms to 1h")))
}

fn bounded(place: &Place, field: &str, length: usize) -> Checked<()> {
    if length > MAX_LIST {
        return Err(place.error(field, format!("{length} entries are more than {MAX_LIST}")));
    }
    Ok(())
}

/// Hundredths of a percent.
fn permyriad(place: &Place, field: &str, percent: f64) -> Checked<u32> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(place.error(field, format!("`{percent}` is not a percentage from 0 to 100")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10000")]
    let share = (percent * 100.0).round() as u32;
    if percent > 0.0 && share == 0 {
        return Err(place.error(field, format!("`{percent}` is less than 0.01, the smallest share that is drawn")));
    }
    Ok(share)
}

fn targets(place: &Place, refs: &[TargetRef], own: &ServiceName) -> Checked<Vec<(Target, Option<u16>)>> {
    bounded(place, "spec.targetRefs", refs.len())?;
    if refs.is_empty() {
        return Err(place.error("spec.targetRefs", "a TrafficPolicy needs at least one target"));
    }
    let mut targets: Vec<(Target, Option<u16>)> = Vec::new();
    for (index, written) in refs.iter().enumerate() {
        let at = format!("spec.targetRefs[{index}]");
        check_label(place, &format!("{at}.name"), &written.name)?;
        let name = ServiceName { namespace: own.namespace.clone(), name: written.name.clone() };
        let target = match (written.group.as_deref().unwrap_or(""), written.kind.as_str()) {
            ("", "Service") => Target::Service(name),
            ("multicluster.x-k8s.io", "ServiceImport") => Target::Import(name),
            (group, kind) => {
                let message =
                    format!("`{group}/{kind}` is neither a Service nor a multicluster.x-k8s.io ServiceImport");
                return Err(place.error(&format!("{at}.kind"), message));
            }
        };
        let port = written.port.map(|port| port_number(place, &format!("{at}.port"), port)).transpose()?;
        if targets.iter().any(|(known, on)| *known == target && (on.is_none() || port.is_none() || *on == port)) {
            return Err(place.error(&at, format!("`{}` is named twice", target.name())));
        }
        targets.push((target, port));
    }
    Ok(targets)
}

fn balancing(place: &Place, written: Option<&LoadBalancing>) -> Checked<wire::Balancing> {
    let none = LoadBalancing::default();
    let written = written.unwrap_or(&none);
    let hash = written.hash_on.as_ref();
    let at = "spec.loadBalancing.hashOn";
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let (header, cookie, query) = (
        text(hash.and_then(|h| h.header.as_ref())),
        text(hash.and_then(|h| h.cookie.as_ref())),
        text(hash.and_then(|h| h.query.as_ref())),
    );
    let given = [&header, &cookie, &query].into_iter().filter(|value| !value.is_empty()).count();
    match (written.algorithm, given) {
        (Algorithm::ConsistentHash, 1) | (Algorithm::PeakEwma | Algorithm::LeastRequest, 0) => {}
        (Algorithm::ConsistentHash, _) => {
            return Err(place.error(at, "ConsistentHash needs exactly one of `header`, `cookie` and `query`"));
        }
        (_, _) => return Err(place.error(at, "only the algorithm ConsistentHash hashes; set it, or leave this out")),
    }
    if !header.is_empty() && http::HeaderName::from_bytes(header.as_bytes()).is_err() {
        return Err(place.error(&format!("{at}.header"), format!("`{header}` is not the name of a header")));
    }
    Ok(wire::Balancing {
        algorithm: match written.algorithm {
            Algorithm::PeakEwma => "peak_ewma",
            Algorithm::LeastRequest => "least_request",
            Algorithm::ConsistentHash => "consistent_hash",
        }
        .to_owned(),
        hash_header: header.to_ascii_lowercase(),
        hash_cookie: cookie,
        hash_query: query,
        slow_start_ms: match &written.slow_start {
            Some(text) => duration(place, "spec.loadBalancing.slowStart", text, 0)?,
            None => 0,
        },
        panic_percent: match written.panic_threshold {
            Some(percent) => number(place, "spec.loadBalancing.panicThreshold", percent, 0, 100)?,
            None => DEFAULT_PANIC,
        },
    })
}

fn locality(place: &Place, written: &Locality) -> Checked<wire::Locality> {
    let at = "spec.locality.weights";
    bounded(place, at, written.weights.len())?;
    if written.prefer_own_zone && !written.weights.is_empty() {
        return Err(place.error(at, "shares by zone and `preferOwnZone` exclude each other"));
    }
    let mut weights: Vec<wire::ZoneWeight> = Vec::new();
    for (index, share) in written.weights.iter().enumerate() {
        let field = format!("{at}[{index}]");
        if share.zone.is_empty() || share.zone.len() > 63 {
            return Err(place.error(&format!("{field}.zone"), format!("`{}` is not the name of a zone", share.zone)));
        }
        if weights.iter().any(|known| known.zone == share.zone) {
            return Err(place.error(&format!("{field}.zone"), format!("zone `{}` is named twice", share.zone)));
        }
        let weight = number(place, &format!("{field}.weight"), share.weight, 1, 1_000_000)?;
        weights.push(wire::ZoneWeight { zone: share.zone.clone(), weight });
    }
    Ok(wire::Locality { prefer_own_zone: written.prefer_own_zone, weights })
}

fn failover(place: &Place, written: &[Failover]) -> Checked<Vec<FailoverTo>> {
    bounded(place, "spec.failover", written.len())?;
    let mut targets: Vec<FailoverTo> = Vec::new();
    for (index, to) in written.iter().enumerate() {
        let at = format!("spec.failover[{index}]");
        let field = format!("{at}.trustDomain");
        let trust_domain = to.trust_domain.parse();
        let trust_domain =
            trust_domain.map_err(|_| place.error(&field, format!("`{}` is not a trust domain", to.trust_domain)))?;
        if targets.iter().any(|known| known.trust_domain == trust_domain) {
            return Err(place.error(&field, format!("`{trust_domain}` is named twice")));
        }
        targets.push(FailoverTo {
            trust_domain,
            priority: number(place, &format!("{at}.priority"), to.priority.unwrap_or(1), 1, 16)?,
            weight: number(place, &format!("{at}.weight"), to.weight.unwrap_or(1), 1, 1_000_000)?,
        });
    }
    Ok(targets)
}

fn outlier(place: &Place, written: &OutlierDetection) -> Checked<wire::Outlier> {
    let at = "spec.outlierDetection";
    let consecutive = match written.consecutive_failures {
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
            let calls = rate.minimum_calls.unwrap_or(i64::from(DEFAULT_MINIMUM_CALLS));
            let calls = number(place, &format!("{at}.successRate.minimumCalls"), calls, 1, 1_000_000)?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "100 to 10000")]
            let milli = (deviations * 1000.0).round() as u32;
            (milli, calls)
        }
    };
    if consecutive == 0 && deviations_milli == 0 {
        return Err(
            place.error(at, "needs `consecutiveFailures`, `successRate` or both; without them nothing is ejected")
        );
    }
    let time = |field: &str, text: Option<&String>, default| match text {
        Some(text) => duration(place, &format!("{at}.{field}"), text, 100),
        None => Ok(default),
    };
    Ok(wire::Outlier {
        consecutive_failures: consecutive,
        deviations_milli,
        minimum_calls,
        interval_ms: time("interval", written.interval.as_ref(), DEFAULT_INTERVAL_MS)?,
        eject_ms: time("ejectFor", written.eject_for.as_ref(), DEFAULT_EJECT_MS)?,
        max_ejected_percent: match written.max_ejected {
            Some(percent) => number(place, &format!("{at}.maxEjected"), percent, 1, 100)?,
            None => DEFAULT_MAX_EJECTED,
        },
    })
}

fn breaker(place: &Place, written: &CircuitBreaker) -> Checked<wire::Breaker> {
    let limit = |field: &str, value: Option<i64>| match value {
        Some(value) => number(place, &format!("spec.circuitBreaker.{field}"), value, 1, 1_000_000),
        None => Ok(0),
    };
    Ok(wire::Breaker {
        max_connections: limit("maxConnections", written.max_connections)?,
        max_pending: limit("maxPending", written.max_pending)?,
        max_requests: limit("maxRequests", written.max_requests)?,
        max_retries: limit("maxRetries", written.max_retries)?,
    })
}

fn limits(place: &Place, written: &[RateLimit], own: &ServiceName) -> Checked<Vec<Limit>> {
    bounded(place, "spec.rateLimits", written.len())?;
    let mut limits: Vec<Limit> = Vec::new();
    for (index, limit) in written.iter().enumerate() {
        let at = format!("spec.rateLimits[{index}]");
        if limits.last().is_some_and(|before| before.clients.is_empty()) {
            return Err(place.error(&at, "the limit before it fits every client, so this one would never be looked at"));
        }
        bounded(place, &format!("{at}.clients"), limit.clients.len())?;
        let mut clients = Vec::new();
        for (number, client) in limit.clients.iter().enumerate() {
            let at = format!("{at}.clients[{number}]");
            let namespace = client.namespace.clone().unwrap_or_else(|| own.namespace.clone());
            check_label(place, &format!("{at}.namespace"), &namespace)?;
            let account = &client.service_account;
            if account.len() > 253 || !account.split('.').all(is_label) {
                let message = format!("`{account}` is not the name of a service account");
                return Err(place.error(&format!("{at}.serviceAccount"), message));
            }
            clients.push((namespace, account.clone()));
        }
        let requests = number(place, &format!("{at}.requests"), limit.requests, 1, 1_000_000)?;
        limits.push(Limit {
            clients,
            requests,
            per_ms: match &limit.per {
                Some(text) => duration(place, &format!("{at}.per"), text, 1)?,
                None => 1000,
            },
            burst: match limit.burst {
                Some(burst) => number(place, &format!("{at}.burst"), burst, 1, 1_000_000)?,
                None => requests,
            },
        });
    }
    Ok(limits)
}

fn faults(place: &Place, written: &Faults) -> Checked<wire::Faults> {
    let mut faults = wire::Faults::default();
    if let Some(delay) = &written.delay {
        faults.delay_permyriad = permyriad(place, "spec.faults.delay.percent", delay.percent)?;
        faults.delay_ms = duration(place, "spec.faults.delay.duration", &delay.duration, 1)?;
    }
    if let Some(abort) = &written.abort {
        let at = "spec.faults.abort";
        faults.abort_permyriad = permyriad(place, &format!("{at}.percent"), abort.percent)?;
        faults.abort_status = number(place, &format!("{at}.status"), abort.status.unwrap_or(503), 400, 599)?;
        faults.abort_grpc = number(place, &format!("{at}.grpcStatus"), abort.grpc_status.unwrap_or(14), 1, 16)?;
    }
    Ok(faults)
}
