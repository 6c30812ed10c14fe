//! What `/metrics` shows of the control plane.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// `kind="sidecar"` or `kind="gateway"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByKind {
    /// What the proxy is.
    pub(crate) kind: &'static str,
}

/// A stable snake_case reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByReason {
    /// Why.
    pub(crate) reason: String,
}

/// A linked trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByTrustDomain {
    /// Which.
    pub(crate) trust_domain: String,
}

/// Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) snapshot_version: Gauge,
    pub(crate) proxies: Family<ByKind, Gauge>,
    pub(crate) snapshots_sent: Family<ByKind, Counter>,
    pub(crate) acks: Family<ByKind, Counter>,
    pub(crate) nacks: Family<ByKind, Counter>,
    pub(crate) push_seconds: Histogram,
    pub(crate) policy_activated_at: Gauge,
    pub(crate) policy_refused: Family<ByReason, Counter>,
    pub(crate) policy_is_refused: Gauge,
    pub(crate) policy_returns: Counter,
    pub(crate) break_glass_grants: Gauge,
    pub(crate) break_glass_refused: Family<ByReason, Counter>,
    pub(crate) manifest_errors: Gauge,
    pub(crate) link_connected: Family<ByTrustDomain, Gauge>,
    pub(crate) link_services: Family<ByTrustDomain, Gauge>,
    pub(crate) link_last_message: Family<ByTrustDomain, Gauge>,
    pub(crate) calls_refused: Family<ByReason, Counter>,
    pub(crate) handshakes_refused: Family<ByReason, Counter>,
    pub(crate) bundles_waiting: Gauge,
    pub(crate) events_lost: Counter,
}

impl Metrics {
    /// Registers all under `signet_control_`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0];
        let metrics = Self {
            snapshot_version: Gauge::default(),
            proxies: Family::default(),
            snapshots_sent: Family::default(),
            acks: Family::default(),
            nacks: Family::default(),
            push_seconds: Histogram::new(seconds),
            policy_activated_at: Gauge::default(),
            policy_refused: Family::default(),
            policy_is_refused: Gauge::default(),
            policy_returns: Counter::default(),
            break_glass_grants: Gauge::default(),
            break_glass_refused: Family::default(),
            manifest_errors: Gauge::default(),
            link_connected: Family::default(),
            link_services: Family::default(),
            link_last_message: Family::default(),
            calls_refused: Family::default(),
            handshakes_refused: Family::default(),
            bundles_waiting: Gauge::default(),
            events_lost: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("signet_control");
        let m = metrics.clone();
        registry.register("snapshot_version", "Version of the newest snapshot", m.snapshot_version);
        registry.register("connected_proxies", "Open discovery streams", m.proxies);
        registry.register("snapshots_sent", "Snapshots sent to proxies", m.snapshots_sent);
        registry.register("snapshot_acks", "Snapshots that proxies took", m.acks);
        registry.register("snapshot_nacks", "Snapshots that proxies refused", m.nacks);
        registry.register("push_seconds", "From a change to a proxy's acknowledgement of it", m.push_seconds);
        registry.register(
            "policy_activated_timestamp_seconds",
            "When the active policy bundle was activated, Unix time",
            m.policy_activated_at,
        );
        registry.register("policy_refused_commits", "Policy commits refused", m.policy_refused);
        registry.register("policy_head_refused", "1 while the branch's head is a refused commit", m.policy_is_refused);
        registry.register(
            "policy_returns",
            "Times that the bundle before came back because a new one denied what it allowed",
            m.policy_returns,
        );
        registry.register("break_glass_grants", "Grants for an emergency that are in force", m.break_glass_grants);
        registry.register("break_glass_refused", "Grants for an emergency that were refused", m.break_glass_refused);
        registry.register(
            "manifest_errors",
            "Errors in the manifests now; the last good ones stay in force",
            m.manifest_errors,
        );
        registry.register("link_connected", "1 while a linked cluster's stream is open", m.link_connected);
        registry.register("link_services", "Services that a linked cluster exports", m.link_services);
        registry.register(
            "link_last_message_timestamp_seconds",
            "When a linked cluster was last heard, Unix time",
            m.link_last_message,
        );
        registry.register("calls_refused", "Calls of peers that may not make them", m.calls_refused);
        registry.register("handshakes_refused", "Connections refused before a call, by cause", m.handshakes_refused);
        registry.register(
            "bundles_waiting",
            "Policy bundles that the audit service does not have yet",
            m.bundles_waiting,
        );
        registry.register("events_lost", "Events that could not be recorded", m.events_lost);
        metrics
    }
}
