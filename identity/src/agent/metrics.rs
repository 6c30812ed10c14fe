//! The agent's metrics.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Handles on the metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub rotations: Counter,
    pub sign_failures: Counter,
    pub own_renewals: Counter,
    pub svids: Gauge,
    pub first_expiry: Gauge,
    pub streams: Gauge,
    pub denied: Counter,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = metrics.clone();
        registry.register("signet_agent_rotations", "SVIDs of workloads signed or renewed", m.rotations);
        registry.register("signet_agent_sign_failures", "Batches of SVIDs that could not be signed", m.sign_failures);
        registry.register("signet_agent_own_renewals", "Attestations and renewals of the agent itself", m.own_renewals);
        registry.register("signet_agent_svids", "SVIDs that are served", m.svids);
        registry.register(
            "signet_agent_first_svid_expiry_seconds",
            "Unix time at which the first of the served SVIDs ends, 0 without one",
            m.first_expiry,
        );
        registry.register("signet_agent_streams", "Open streams of the Workload API", m.streams);
        registry.register(
            "signet_agent_denied",
            "Calls of the Workload API from callers without an identity",
            m.denied,
        );
        metrics
    }
}
