//! The server's metrics.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// `{result}`: `ok`, or why not.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    /// Stable snake_case.
    pub result: &'static str,
}

/// `{trust_domain}` of a partner.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PartnerLabel {
    /// Its name.
    pub trust_domain: String,
}

/// Handles on the metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub svids_issued: Counter,
    pub intermediate_rotations: Counter,
    pub attestations: Family<ResultLabel, Counter>,
    pub entries: Gauge,
    pub entries_refused: Counter,
    pub first_expiry: Gauge,
    pub refresh_age: Family<PartnerLabel, Gauge>,
    pub refreshes: Family<ResultLabel, Counter>,
    pub handshakes_refused: Counter,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = metrics.clone();
        registry.register("signet_identity_svids_issued", "SVIDs signed since the start", m.svids_issued);
        registry.register(
            "signet_identity_intermediate_rotations",
            "Intermediates that replaced an earlier one",
            m.intermediate_rotations,
        );
        registry.register("signet_identity_attestations", "Attestations of agents", m.attestations);
        registry.register("signet_identity_entries", "Registration entries in force", m.entries);
        registry.register(
            "signet_identity_entries_refused",
            "Edits of the entries file that were refused",
            m.entries_refused,
        );
        registry.register(
            "signet_identity_first_svid_expiry_seconds",
            "Unix time at which the first of the live SVIDs ends, 0 without one",
            m.first_expiry,
        );
        registry.register(
            "signet_identity_federation_refresh_age_seconds",
            "Seconds since a partner's bundle was last fetched, -1 before the first time",
            m.refresh_age,
        );
        registry.register("signet_identity_federation_refreshes", "Polls of partners' bundle endpoints", m.refreshes);
        registry.register(
            "signet_identity_handshakes_refused",
            "Connections refused before any call",
            m.handshakes_refused,
        );
        metrics
    }
}
