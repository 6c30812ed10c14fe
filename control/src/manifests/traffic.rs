//! Signet's own kind `TrafficPolicy`: how calls of a service are spread, limited and protected, and which faults its callers
//! are to meet.
//!
//! It is attached to Services (or ServiceImports) of its own namespace by `targetRefs`, as policies of the Gateway API are
//! (GEP-713). Unknown fields are errors, because a misspelt limit would be no limit.

mod attached;
mod check;
mod failover;
mod spread;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

pub(super) use attached::{add, unmet};
pub(super) use check::read;

/// As it stands in the file.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TrafficPolicy {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    target_refs: Vec<TargetRef>,
    load_balancing: Option<LoadBalancing>,
    outlier_detection: Option<OutlierDetection>,
    circuit_breaker: Option<CircuitBreaker>,
    #[serde(default)]
    rate_limits: Vec<RateLimit>,
    faults: Option<Faults>,
    #[serde(default)]
    failover: Vec<Tier>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tier {
    clusters: Vec<Cluster>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Cluster {
    trust_domain: String,
    weight: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TargetRef {
    group: Option<String>,
    kind: String,
    name: String,
    port: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoadBalancing {
    #[serde(default)]
    algorithm: Algorithm,
    hash_on: Option<HashOn>,
    slow_start: Option<String>,
    panic_threshold: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Algorithm {
    #[default]
    PeakEwma,
    LeastRequest,
    ConsistentHash,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HashOn {
    #[serde(default)]
    header: String,
    #[serde(default)]
    cookie: String,
    #[serde(default)]
    query: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OutlierDetection {
    consecutive_failures: Option<i64>,
    success_rate: Option<SuccessRate>,
    interval: Option<String>,
    eject_for: Option<String>,
    max_ejected: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuccessRate {
    deviations: Option<f64>,
    minimum_calls: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CircuitBreaker {
    max_connections: Option<i64>,
    max_pending: Option<i64>,
    max_requests: Option<i64>,
    max_retries: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RateLimit {
    #[serde(default)]
    clients: Vec<Client>,
    requests: i64,
    per: Option<String>,
    burst: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Client {
    namespace: Option<String>,
    service_account: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Faults {
    delay: Option<Delay>,
    abort: Option<Abort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Delay {
    percent: f64,
    duration: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Abort {
    percent: f64,
    status: Option<i64>,
    grpc_status: Option<i64>,
}
