//! TrafficPolicies, checked. Leaf values are the wire's: they are passed on as they are.

use signet_api::control as wire;
use signet_mtls::TrustDomain;

use super::{ServiceName, Target};

/// What one TrafficPolicy says about the services that it is attached to.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    /// Its own namespace and name.
    pub name: ServiceName,
    /// What it is attached to, and to which port alone.
    pub targets: Vec<(Target, Option<u16>)>,
    /// For callers.
    pub traffic: wire::Traffic,
    /// For the service's own sidecars.
    pub limits: Vec<Limit>,
    /// Which clusters serve the targets, tier by tier; a Service's own cluster comes before them unless it is among them.
    /// Empty: as without a policy.
    pub failover: Vec<Vec<Part>>,
}

/// A cluster's part of the calls of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whose service of the target's name serves it.
    pub trust_domain: TrustDomain,
    /// Its share among those of the tier.
    pub weight: u32,
}

/// A rate limit of each client by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Namespace and service account of this cluster's clients; empty: every client.
    pub clients: Vec<(String, String)>,
    /// In `per_ms` milliseconds.
    pub requests: u32,
    /// Milliseconds.
    pub per_ms: u64,
    /// What may come at once after a pause.
    pub burst: u32,
}
