//! Metrics of the live identity, read at each scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::IdentitySource;

/// Adds `signet_identity_svid_not_after_seconds{spiffe_id}`, `signet_identity_roots{trust_domain}` and
/// `signet_identity_updates_total`.
pub fn register(source: &IdentitySource, registry: &mut Registry) {
    registry.register_collector(Box::new(LiveIdentity(source.clone())));
}

struct LiveIdentity(IdentitySource);

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveIdentity")
    }
}

impl Collector for LiveIdentity {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let identity = self.0.current();
        let mut family = encoder.encode_descriptor(
            "signet_identity_svid_not_after_seconds",
            "Unix time at which the SVID ends",
            None,
            MetricType::Gauge,
        )?;
        for svid in &identity.svids {
            let labels = [("spiffe_id", svid.id.as_str())];
            ConstGauge::new(svid.not_after).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "signet_identity_roots",
            "Roots in the bundle of a trust domain",
            None,
            MetricType::Gauge,
        )?;
        for (domain, roots) in &identity.bundles {
            let labels = [("trust_domain", domain.as_str())];
            let count = i64::try_from(roots.len()).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let updates = encoder.encode_descriptor(
            "signet_identity_updates",
            "Updates of SVIDs and bundles since the start",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(identity.generation).encode(updates)
    }
}
