//! What the admin listener shows of the way out: TrafficPolicies in force, and what is open to which endpoint.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::Outbound;
use super::table::Destination;
use crate::balance::Limit;
use crate::snapshot::Share;
use crate::snapshot::traffic::{Algorithm, HashOn, Traffic};
use crate::upstream::Upstream;

/// Services that are shown at most.
const SERVICES: usize = 1000;

impl Outbound {
    /// For `/config`: services that a TrafficPolicy concerns, and what it asks for.
    #[must_use]
    pub fn in_force(&self) -> Value {
        let table = self.table.load();
        let governed = table.services().filter_map(|to| {
            let traffic = to.service.traffic.as_ref()?;
            let (service, port) = (&to.service.service, to.service.port);
            Some(json!({ "service": service, "port": port, "traffic": policy(traffic) }))
        });
        json!({ "services": bounded(governed) })
    }

    /// For `/connections`: services that have anything open, or a policy, each with its endpoints.
    #[must_use]
    pub fn connections(&self) -> Value {
        let table = self.table.load();
        let now = Instant::now();
        let active = table.services().filter(|to| to.ward().is_some() || to.upstreams().iter().any(active));
        json!({ "services": bounded(active.map(|to| service(to, now))) })
    }
}

fn bounded(shown: impl Iterator<Item = Value>) -> Vec<Value> {
    shown.take(SERVICES).collect()
}

fn active(upstream: &Arc<Upstream>) -> bool {
    upstream.load().pending() > 0 || upstream.pooled() != (0, 0)
}

fn service(to: &Destination, now: Instant) -> Value {
    let endpoints: Vec<Value> = to.upstreams().iter().map(|upstream| endpoint(upstream, now)).collect();
    let mut shown = json!({
        "service": to.service.service,
        "port": to.service.port,
        "protocol": to.service.protocol.as_str(),
        "endpoints": endpoints,
    });
    if to.fails_over()
        && let Some(fields) = shown.as_object_mut()
    {
        fields.insert("failover".to_owned(), tiers(&to.service.failover));
    }
    if let (Some(ward), Some(fields)) = (to.ward(), shown.as_object_mut()) {
        fields.insert("policy".to_owned(), json!(ward.traffic().policy));
        for (name, of) in [("requests", Limit::Requests), ("pending", Limit::Pending), ("retries", Limit::Retries)] {
            fields.insert(name.to_owned(), json!(ward.now(of)));
        }
    }
    shown
}

fn tiers(failover: &[Vec<Share>]) -> Value {
    let share = |share: &Share| json!({ "service": share.service, "weight": share.weight });
    failover.iter().map(|tier| tier.iter().map(share).collect::<Vec<_>>()).collect()
}

fn endpoint(upstream: &Upstream, now: Instant) -> Value {
    let (idle, http2) = upstream.pooled();
    let name = upstream.member().map_or_else(|| upstream.name(), |member| member.name().to_owned());
    let mut shown = json!({
        "address": name,
        "in_flight": upstream.load().pending(),
        "idle_connections": idle,
        "http2_connections": http2,
    });
    if let (Some(member), Some(fields)) = (upstream.member(), shown.as_object_mut()) {
        fields.insert("connections".to_owned(), json!(member.open() as usize + http2));
        let ejected = member.ejected_for(now).map(|left| left.as_millis());
        fields.insert("ejected_for_ms".to_owned(), json!(ejected));
        if member.is_watched() {
            fields.insert("reached".to_owned(), json!(!member.is_down()));
        }
    }
    shown
}

fn policy(traffic: &Traffic) -> Value {
    let balancing = &traffic.balancing;
    let (algorithm, hash_on) = match &balancing.algorithm {
        Algorithm::PeakEwma => ("PeakEwma", None),
        Algorithm::LeastRequest => ("LeastRequest", None),
        Algorithm::ConsistentHash(HashOn::Header(name)) => ("ConsistentHash", Some(format!("header {name}"))),
        Algorithm::ConsistentHash(HashOn::Cookie(name)) => ("ConsistentHash", Some(format!("cookie {name}"))),
        Algorithm::ConsistentHash(HashOn::Query(name)) => ("ConsistentHash", Some(format!("query {name}"))),
    };
    let breaker = &traffic.breaker;
    json!({
        "policy": traffic.policy,
        "load_balancing": {
            "algorithm": algorithm,
            "hash_on": hash_on,
            "slow_start_ms": balancing.slow_start.as_millis(),
            "panic_threshold": balancing.panic_percent,
        },
        "outlier_detection": traffic.outlier.as_ref().map(|outlier| json!({
            "consecutive_failures": outlier.consecutive_failures,
            "deviations": f64::from(outlier.deviations_milli) / 1000.0,
            "minimum_calls": outlier.minimum_calls,
            "interval_ms": outlier.interval.as_millis(),
            "eject_for_ms": outlier.eject.as_millis(),
            "max_ejected": outlier.max_ejected_percent,
        })),
        "circuit_breaker": {
            "max_connections": breaker.connections,
            "max_pending": breaker.pending,
            "max_requests": breaker.requests,
            "max_retries": breaker.retries,
        },
        "faults": traffic.faults.as_ref().map(|faults| json!({
            "delay_permyriad": faults.delay_permyriad,
            "delay_ms": faults.delay.as_millis(),
            "abort_permyriad": faults.abort_permyriad,
            "abort_status": faults.abort_status.as_u16(),
            "abort_grpc": faults.abort_grpc,
        })),
    })
}
