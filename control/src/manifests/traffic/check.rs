//! From TrafficPolicies as they are written to such that can be applied, or to an error that names the field.

use signet_api::control as wire;

use super::failover::failover;
use super::spread::{balancing, breaker, outlier};
use super::{Faults, RateLimit, TargetRef, TrafficPolicy as Written};
use crate::manifests::ManifestError;
use crate::manifests::place::Place;
use crate::manifests::resolve::{check_label, is_label, name_of, port_number};
use crate::manifests::routes::duration_ms;
use crate::model::{Limit, ServiceName, Target, TrafficPolicy};

/// Entries of one list.
const MAX_LIST: usize = 64;
/// Longer ones are mistakes of a unit.
const MAX_DURATION_MS: u64 = 3_600_000;

pub(super) type Checked<T> = Result<T, ManifestError>;

/// What `manifest` says.
pub(in crate::manifests) fn read(place: &Place, manifest: &Written) -> Checked<TrafficPolicy> {
    let name = name_of(place, &manifest.metadata)?;
    let spec = &manifest.spec;
    let failover = failover(place, &spec.failover)?;
    let traffic = wire::Traffic {
        policy: format!("TrafficPolicy/{name}"),
        balancing: spec.load_balancing.as_ref().map(|written| balancing(place, written)).transpose()?,
        outlier: spec.outlier_detection.as_ref().map(|written| outlier(place, written, &failover)).transpose()?,
        breaker: spec.circuit_breaker.as_ref().map(|written| breaker(place, written)).transpose()?,
        faults: spec.faults.as_ref().map(|written| faults(place, written)).transpose()?,
    };
    let targets = targets(place, &spec.target_refs, &name)?;
    let imported = targets.iter().any(|(target, _)| matches!(target, Target::Import(_)));
    if imported && !spec.rate_limits.is_empty() {
        let message = "calls are counted by the service's own sidecars, which for a ServiceImport follow the manifests \
                       of the cluster that exports it; declare the limit there";
        return Err(place.error("spec.rateLimits", message));
    }
    Ok(TrafficPolicy { targets, limits: limits(place, &spec.rate_limits, &name)?, traffic, failover, name })
}

/// A whole number of a field, within bounds.
pub(super) fn number(place: &Place, field: &str, value: i64, least: i64, most: i64) -> Checked<u32> {
    let fits = u32::try_from(value).ok().filter(|_| (least..=most).contains(&value));
    fits.ok_or_else(|| place.error(field, format!("`{value}` is not a number from {least} to {most}")))
}

pub(super) fn duration(place: &Place, field: &str, text: &str, least: u64) -> Checked<u64> {
    let ms = duration_ms(place, field, text)?;
    if (least..=MAX_DURATION_MS).contains(&ms) {
        return Ok(ms);
    }
    Err(place.error(field, format!("`{text}` is not a duration from {least}ms to 1h")))
}

pub(super) fn bounded(place: &Place, field: &str, length: usize) -> Checked<()> {
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
