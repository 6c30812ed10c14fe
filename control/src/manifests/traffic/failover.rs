//! Which clusters serve what a TrafficPolicy is attached to, and in which order.

use signet_mtls::TrustDomain;

use super::Tier;
use super::check::{Checked, number};
use crate::manifests::place::Place;
use crate::model::Part;

const MAX_TIERS: usize = 8;
const MAX_CLUSTERS: usize = 16;

/// Tiers of clusters, the first one first.
pub(super) fn failover(place: &Place, written: &[Tier]) -> Checked<Vec<Vec<Part>>> {
    if written.len() > MAX_TIERS {
        return Err(place.error("spec.failover", format!("{} tiers are more than {MAX_TIERS}", written.len())));
    }
    let mut tiers: Vec<Vec<Part>> = Vec::new();
    for (index, tier) in written.iter().enumerate() {
        let at = format!("spec.failover[{index}].clusters");
        if !(1..=MAX_CLUSTERS).contains(&tier.clusters.len()) {
            let message = format!("a tier has from 1 to {MAX_CLUSTERS} clusters, not {}", tier.clusters.len());
            return Err(place.error(&at, message));
        }
        let mut parts: Vec<Part> = Vec::new();
        for (number_in_tier, cluster) in tier.clusters.iter().enumerate() {
            let at = format!("{at}[{number_in_tier}]");
            let text = &cluster.trust_domain;
            let field = format!("{at}.trustDomain");
            let trust_domain: TrustDomain =
                text.parse().map_err(|_| place.error(&field, format!("`{text}` is not a trust domain")))?;
            if tiers.iter().flatten().chain(&parts).any(|part| part.trust_domain == trust_domain) {
                return Err(place.error_at(&field, text, format!("`{text}` is named twice")));
            }
            let weight = number(place, &format!("{at}.weight"), cluster.weight.unwrap_or(1), 1, 1_000_000)?;
            parts.push(Part { trust_domain, weight });
        }
        tiers.push(parts);
    }
    Ok(tiers)
}
