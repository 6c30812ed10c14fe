//! Which TrafficPolicy holds for which service.

use signet_api::control::{self as wire, OutboundService};
use signet_mtls::SpiffeId;

use crate::model::{Desired, Limit, Port, Service, ServiceName, Target, TrafficPolicy, World};

/// The policy for a port of a local service, or of one that a linked cluster exports.
pub(super) fn of<'d>(desired: &'d Desired, target: &Target, port: u32) -> Option<&'d TrafficPolicy> {
    let holds = |(to, on): &(Target, Option<u16>)| to == target && on.is_none_or(|on| u32::from(on) == port);
    desired.traffic.iter().find(|policy| policy.targets.iter().any(holds))
}

/// Gives each service of `outbound` what its policy says to callers.
pub(super) fn attach(desired: &Desired, outbound: &mut [OutboundService]) {
    if desired.traffic.is_empty() {
        return;
    }
    for service in outbound.iter_mut().filter(|service| !service.hosts.is_empty()) {
        let Some(name) = ServiceName::of_qualified(&service.service) else { continue };
        let target = if service.gateway.is_none() { Target::Service(name) } else { Target::Import(name) };
        service.traffic = of(desired, &target, service.port).map(|policy| policy.traffic.clone());
    }
}

/// What the policy of a local service's port says to the service's own sidecars.
pub(super) fn limits(world: &World, desired: &Desired, service: &Service, port: &Port) -> Vec<wire::RateLimit> {
    let target = Target::Service(service.name.clone());
    let limits = of(desired, &target, u32::from(port.port)).map_or(&[][..], |policy| policy.limits.as_slice());
    limits.iter().map(|limit| said(world, limit)).collect()
}

fn said(world: &World, limit: &Limit) -> wire::RateLimit {
    let clients = limit.clients.iter();
    let ids = clients.filter_map(|(ns, account)| SpiffeId::workload(&world.trust_domain, ns, account).ok());
    wire::RateLimit {
        clients: ids.map(|id| id.to_string()).collect(),
        requests: limit.requests,
        per_ms: limit.per_ms,
        burst: limit.burst,
    }
}
