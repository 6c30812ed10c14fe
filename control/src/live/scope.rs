//! What a proxy may speak of.

use std::collections::BTreeSet;
use std::sync::Arc;

use signet_mtls::{SpiffeId, TrustDomain};

use crate::model::World;
use crate::snapshot::{Subject, build};

/// As proxies name what found no place among their flows.
const OTHER: &str = "other";

/// Whom one proxy stands before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// SPIFFE ID of its workload; a gateway has none.
    workload: Option<String>,
    /// Services that it serves or, a gateway, forwards to.
    services: BTreeSet<String>,
    gateway: bool,
}

impl Scope {
    /// As the proxy's snapshot of `world` has it.
    pub(super) fn of(world: &Arc<World>, subject: &Subject) -> Self {
        let snapshot = build(world, subject).unwrap_or_default();
        let served = snapshot.inbound.into_iter().map(|service| service.service);
        let exported = snapshot.exported.into_iter().map(|service| service.service);
        Self {
            workload: workload(&world.trust_domain, subject),
            services: served.chain(exported).collect(),
            gateway: *subject == Subject::Gateway,
        }
    }

    /// Whether it may say something of calls from `source` to `destination`.
    pub(super) fn covers(&self, source: &str, destination: &str) -> bool {
        // A gateway also denies what is not exported, under whatever name it was asked for.
        let named = self.gateway || self.services.contains(destination) || self.workload.as_deref() == Some(source);
        named || (source == OTHER && destination == OTHER)
    }
}

fn workload(own: &TrustDomain, subject: &Subject) -> Option<String> {
    let Subject::Sidecar { namespace, service_account } = subject else { return None };
    SpiffeId::workload(own, namespace, service_account).ok().map(|id| id.to_string())
}

#[cfg(test)]
impl Scope {
    pub(super) fn for_tests(workload: Option<&str>, services: &[&str]) -> Self {
        let services = services.iter().map(|service| (*service).to_owned()).collect();
        Self { workload: workload.map(str::to_owned), services, gateway: false }
    }
}
