//! Which clusters serve a service whose TrafficPolicy names some.
//!
//! Local configuration says who may serve a name: with such a policy on a ServiceImport nobody else does, and without one
//! no second cluster takes a share of what another one serves. Each cluster's part keeps its own SPIFFE IDs and gateway.

use std::collections::{BTreeMap, BTreeSet};

use signet_api::control::{OutboundService, Share, Tier};
use signet_mtls::TrustDomain;

use super::traffic;
use crate::model::{Desired, ImportedService, Part, ServiceName, Target, World};

/// What of a linked cluster's offer is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its place among those that may serve the name by themselves; none: it may not.
    pub(super) rank: Option<usize>,
    /// Others fail over to it.
    pub(super) named: bool,
}

/// How the policies of this cluster stand to the service that `trust_domain` exports.
pub(super) fn standing(desired: &Desired, service: &ImportedService, trust_domain: &TrustDomain) -> Standing {
    let position = |target: &Target| {
        let tiers = traffic::of(desired, target, u32::from(service.port)).map_or(&[][..], |policy| &policy.failover);
        let position = tiers.iter().flatten().position(|part| part.trust_domain == *trust_domain);
        (!tiers.is_empty()).then_some(position)
    };
    let (imported, local) =
        (position(&Target::Import(service.name.clone())), position(&Target::Service(service.name.clone())));
    Standing { rank: imported.unwrap_or(Some(0)), named: imported.flatten().or(local.flatten()).is_some() }
}

/// Gives each service of `outbound` the tiers that its policy asks for, of those parts that there are now.
pub(super) fn attach(world: &World, desired: &Desired, outbound: &mut [OutboundService]) {
    if desired.traffic.iter().all(|policy| policy.failover.is_empty()) {
        return;
    }
    let known: BTreeSet<(&str, u32, &str)> =
        outbound.iter().map(|one| (one.service.as_str(), one.port, one.protocol.as_str())).collect();
    let mut found: BTreeMap<usize, Vec<Tier>> = BTreeMap::new();
    for (index, service) in outbound.iter().enumerate().filter(|(_, service)| !service.hosts.is_empty()) {
        let Some(name) = ServiceName::of_qualified(&service.service) else { continue };
        let local = service.gateway.is_none();
        let target = if local { Target::Service(name.clone()) } else { Target::Import(name.clone()) };
        let Some(policy) = traffic::of(desired, &target, service.port) else { continue };
        if policy.failover.is_empty() {
            continue;
        }
        let share = |part: &Part| {
            let served = name.qualified(&part.trust_domain);
            let there = known.contains(&(served.as_str(), service.port, service.protocol.as_str()));
            there.then_some(Share { service: served, weight: part.weight })
        };
        let mut tiers: Vec<Tier> =
            policy.failover.iter().map(|tier| Tier { shares: tier.iter().filter_map(share).collect() }).collect();
        let own_is_named = policy.failover.iter().flatten().any(|part| part.trust_domain == world.trust_domain);
        if local && !own_is_named {
            let own = Share { service: service.service.clone(), weight: 1 };
            tiers.insert(0, Tier { shares: vec![own] });
        }
        tiers.retain(|tier| !tier.shares.is_empty());
        if tiers.iter().flat_map(|tier| &tier.shares).any(|share| share.service != service.service) {
            found.insert(index, tiers);
        }
    }
    for (index, tiers) in found {
        if let Some(service) = outbound.get_mut(index) {
            service.failover = tiers;
        }
    }
}
