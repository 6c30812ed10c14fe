//! Which TrafficPolicy holds for which service, and where its failover leads.

use signet_api::control::{self as wire, OutboundService};
use signet_mtls::SpiffeId;

use super::{endpoints_of, remote_gateway, texts};
use crate::model::{Desired, FailoverTo, Limit, Port, Protocol, Service, ServiceName, Target, TrafficPolicy, World};

/// The policy for a port of a local service, or of one that a linked cluster exports.
fn of<'d>(desired: &'d Desired, target: &Target, port: u32) -> Option<&'d TrafficPolicy> {
    let holds = |(to, on): &(Target, Option<u16>)| to == target && on.is_none_or(|on| u32::from(on) == port);
    desired.traffic.iter().find(|policy| policy.targets.iter().any(holds))
}

/// Gives each service of `outbound` what its policy says to callers.
pub(super) fn attach(world: &World, desired: &Desired, outbound: &mut [OutboundService]) {
    if desired.traffic.is_empty() {
        return;
    }
    for service in outbound {
        let Some(name) = name_of(service) else { continue };
        let target = if service.gateway.is_none() { Target::Service(name) } else { Target::Import(name) };
        let Some(policy) = of(desired, &target, service.port) else { continue };
        let failover = policy.failover.iter().filter_map(|to| resolved(world, desired, service, target.name(), to));
        service.traffic = Some(wire::Traffic { failover: failover.collect(), ..policy.traffic.clone() });
    }
}

fn name_of(service: &OutboundService) -> Option<ServiceName> {
    let mut parts = service.service.split('/').skip(1);
    Some(ServiceName { namespace: parts.next()?.to_owned(), name: parts.next()?.to_owned() })
}

/// The service of the same name and protocol there. None while it is not exported there: then it is no place to go.
fn resolved(
    world: &World,
    desired: &Desired,
    service: &OutboundService,
    name: &ServiceName,
    to: &FailoverTo,
) -> Option<wire::Failover> {
    let same = |port: u16, protocol: Protocol| u32::from(port) == service.port && protocol.as_str() == service.protocol;
    let serving = service.service.split('/').next()?;
    if serving == to.trust_domain.as_str() {
        return None;
    }
    let place = wire::Failover { priority: to.priority, weight: to.weight, ..wire::Failover::default() };
    if to.trust_domain == world.trust_domain {
        let local = desired.services.get(name)?;
        let port = local.ports.iter().find(|port| same(port.port, port.protocol))?;
        return Some(wire::Failover {
            spiffe_ids: texts(&local.spiffe_ids(&world.trust_domain)),
            endpoints: endpoints_of(port),
            ..place
        });
    }
    let import = world.imports.get(&to.trust_domain)?;
    let found = import.services.iter().find(|known| known.name == *name && same(known.port, known.protocol))?;
    let gateway = SpiffeId::component(&to.trust_domain, "gateway").ok()?;
    Some(wire::Failover {
        spiffe_ids: texts(&found.spiffe_ids),
        gateway: Some(remote_gateway(import, &gateway, &name.clusterset_host(), found.port)),
        ..place
    })
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
