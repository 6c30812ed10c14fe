//! What each proxy is told, as a pure function of the [`World`].
//!
//! INVARIANT: a snapshot holds only what its receiver needs: a sidecar sees the inbound ports of its own workload, a
//! gateway sees exported services and no others.

mod failover;
mod routes;
mod traffic;

use std::collections::BTreeSet;

use signet_api::control::{
    BreakGlass, Endpoint, Exported, ExternalService, File, InboundService, OutboundService, PolicyBundle,
    RemoteGateway, ServiceStatus, Snapshot,
};
use signet_mtls::{SpiffeId, TrustDomain};
use signet_policy::Needs;

use crate::model::{Admission, Desired, External, ExternalTls, Import, ImportedService, Port, Service, World};

/// Who a snapshot is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The sidecar of workloads with this service account.
    Sidecar {
        /// Its namespace.
        namespace: String,
        /// Its service account.
        service_account: String,
    },
    /// The cluster's east-west gateway.
    Gateway,
}

impl Subject {
    /// `sidecar` or `gateway`, as the wire contract and metrics spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sidecar { .. } => "sidecar",
            Self::Gateway => "gateway",
        }
    }
}

/// The snapshot for `subject`, with the bundle's identity but not its files and with version 0 (see [`seal`]), so that
/// two of them are equal exactly when the receiver has nothing new to learn.
///
/// None until both manifests and policy are known: a proxy keeps its last good snapshot, which is better than half of a new one.
pub fn build(world: &World, subject: &Subject) -> Option<Snapshot> {
    let desired = world.desired.as_deref()?;
    let policy = world.policy.as_deref()?;
    let mut snapshot = Snapshot {
        version: 0,
        trust_domain: world.trust_domain.to_string(),
        policy: Some(PolicyBundle {
            commit: policy.source.commit.clone(),
            digest: policy.digest.clone(),
            files: Vec::new(),
            signer: policy.source.signer.clone(),
            slice: String::new(),
        }),
        ..Snapshot::default()
    };
    match subject {
        Subject::Sidecar { namespace, service_account } => {
            snapshot.inbound = inbound(world, desired, namespace, service_account);
            for service in snapshot.inbound.iter_mut().filter(|_| policy.strict) {
                service.permissive = false;
            }
            snapshot.outbound = outbound(world, desired, namespace);
            snapshot.external = desired.externals.iter().map(external).collect();
        }
        Subject::Gateway => snapshot.exported = exported(world, desired),
    }
    snapshot.break_glass = break_glass(world, &snapshot);
    if let Some(slice) = policy.slice(&needs(world, &snapshot, subject))
        && let Some(bundle) = snapshot.policy.as_mut()
    {
        bundle.slice.clone_from(&slice.digest);
    }
    Some(snapshot)
}

/// What the receiver of `snapshot` decides about.
fn needs(world: &World, snapshot: &Snapshot, subject: &Subject) -> Needs {
    let served = snapshot.inbound.iter().map(|service| service.service.clone());
    let exported = snapshot.exported.iter().map(|service| service.service.clone());
    Needs {
        services: served.chain(exported).collect(),
        egress_of: match subject {
            Subject::Sidecar { namespace, service_account } => {
                SpiffeId::workload(&world.trust_domain, namespace, service_account).ok().map(|id| id.to_string())
            }
            Subject::Gateway => None,
        },
    }
}

/// Grants of a service that the receiver of `snapshot` decides about; of such a grant, these services alone.
fn break_glass(world: &World, snapshot: &Snapshot) -> Vec<BreakGlass> {
    let decides = |service: &String| {
        snapshot.inbound.iter().any(|s| s.service == *service)
            || snapshot.exported.iter().any(|s| s.service == *service)
            || snapshot.external.iter().any(|s| s.name == *service)
    };
    let mut grants: Vec<BreakGlass> = world.break_glass.iter().map(|given| given.wire()).collect();
    grants.iter_mut().for_each(|grant| grant.services.retain(decides));
    grants.retain(|grant| !grant.services.is_empty());
    grants
}

/// What a proxy says that it enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The commit: records name it, so equal files of another commit have to be taken over as well.
    pub commit: String,
    /// The bundle's digest.
    pub digest: String,
    /// The slice's; empty: it holds the whole.
    pub slice: String,
}

/// Makes `snapshot`, which [`build`] gave for `subject`, ready to send: its version, and the files of the bundle or of the
/// slice unless the receiver already holds them.
pub fn seal(mut snapshot: Snapshot, world: &World, subject: &Subject, held: &Held) -> Snapshot {
    snapshot.version = world.version;
    let needs = needs(world, &snapshot, subject);
    if let Some(bundle) = snapshot.policy.as_mut()
        && let Some(policy) = world.policy.as_ref()
        && (bundle.commit != held.commit || bundle.digest != held.digest || bundle.slice != held.slice)
    {
        let slice = policy.slice(&needs);
        let files = slice.as_ref().map_or(&policy.source.files, |slice| &slice.source.files).iter();
        bundle.files = files.map(|(path, content)| File { path: path.clone(), content: content.clone() }).collect();
    }
    snapshot
}

fn inbound(world: &World, desired: &Desired, namespace: &str, service_account: &str) -> Vec<InboundService> {
    let serves = |service: &&Service| {
        service.name.namespace == namespace && service.service_accounts.iter().any(|account| account == service_account)
    };
    let mut inbound = Vec::new();
    for service in desired.services.values().filter(serves) {
        for port in &service.ports {
            inbound.extend(port.target_ports.iter().map(|target| InboundService {
                service: service.name.qualified(&world.trust_domain),
                port: u32::from(port.port),
                target_port: u32::from(*target),
                protocol: port.protocol.as_str().to_owned(),
                permissive: service.admission == Admission::Permissive,
                rate_limits: traffic::limits(world, desired, service, port),
            }));
        }
    }
    inbound
}

fn outbound(world: &World, desired: &Desired, own_namespace: &str) -> Vec<OutboundService> {
    let mut outbound = Vec::new();
    for service in desired.services.values() {
        let hosts = hosts_of(service, own_namespace);
        outbound.extend(service.ports.iter().map(|port| OutboundService {
            service: service.name.qualified(&world.trust_domain),
            hosts: hosts.clone(),
            port: u32::from(port.port),
            protocol: port.protocol.as_str().to_owned(),
            spiffe_ids: texts(&service.spiffe_ids(&world.trust_domain)),
            endpoints: endpoints_of(port),
            gateway: None,
            addresses: service.addresses.iter().map(ToString::to_string).collect(),
            routes: None,
            traffic: None,
            failover: Vec::new(),
        }));
    }
    outbound.extend(imported(world, desired));
    routes::attach(desired, own_namespace, &mut outbound);
    traffic::attach(desired, &mut outbound);
    failover::attach(world, desired, &mut outbound);
    outbound
}

/// Services of linked clusters. A name that this cluster exports too, or that another cluster already serves (the first by
/// a TrafficPolicy's order, then by the order of trust domains), is not taken over: such a service is there without hosts
/// where others fail over to it, and else not at all.
fn imported(world: &World, desired: &Desired) -> Vec<OutboundService> {
    let mut taken: BTreeSet<(String, u16)> = BTreeSet::new();
    for service in desired.services.values().filter(|service| service.exported) {
        let host = service.name.clusterset_host();
        taken.extend(service.ports.iter().map(|port| (host.clone(), port.port)));
    }
    let mut offers = Vec::new();
    for (trust_domain, import) in world.imports.iter() {
        let Ok(gateway) = SpiffeId::component(trust_domain, "gateway") else { continue };
        offers.extend(import.services.iter().map(|service| {
            let standing = failover::standing(desired, service, trust_domain);
            (standing, remote(trust_domain, &gateway, import, service), service)
        }));
    }
    // Stable: without an order of a policy's that of the trust domains stays.
    offers.sort_by_key(|(standing, ..)| standing.rank);
    let mut outbound = Vec::new();
    for (standing, mut offered, service) in offers {
        let host = service.name.clusterset_host();
        if standing.rank.is_some() && taken.insert((host.clone(), service.port)) {
            offered.hosts = vec![host];
            let addresses = desired.import_addresses.get(&service.name).into_iter().flatten();
            offered.addresses = addresses.map(ToString::to_string).collect();
        } else if !standing.named {
            continue;
        }
        outbound.push(offered);
    }
    outbound
}

/// What a linked cluster exports, before it is known whether it may have its name here.
fn remote(
    trust_domain: &TrustDomain,
    gateway: &SpiffeId,
    import: &Import,
    service: &ImportedService,
) -> OutboundService {
    OutboundService {
        service: service.name.qualified(trust_domain),
        port: u32::from(service.port),
        protocol: service.protocol.as_str().to_owned(),
        spiffe_ids: texts(&service.spiffe_ids),
        gateway: Some(RemoteGateway {
            addresses: import.gateway.split(',').map(str::to_owned).collect(),
            spiffe_id: gateway.to_string(),
            authority: format!("{}:{}", service.name.clusterset_host(), service.port),
        }),
        ..OutboundService::default()
    }
}

fn external(external: &External) -> ExternalService {
    ExternalService {
        name: external.name.clone(),
        host: external.host.clone(),
        port: u32::from(external.port),
        originate_tls: external.tls == ExternalTls::Originate,
    }
}

fn exported(world: &World, desired: &Desired) -> Vec<Exported> {
    let mut exported = Vec::new();
    for service in desired.services.values().filter(|service| service.exported) {
        let host = service.name.clusterset_host();
        exported.extend(service.ports.iter().map(|port| Exported {
            service: service.name.qualified(&world.trust_domain),
            authority: format!("{host}:{}", port.port),
            port: u32::from(port.port),
            spiffe_ids: texts(&service.spiffe_ids(&world.trust_domain)),
            endpoints: endpoints_of(port),
        }));
    }
    exported
}

/// What `Status.Mesh` says about services: local ones and those of linked clusters.
pub fn service_status(world: &World) -> Vec<ServiceStatus> {
    let Some(desired) = world.desired.as_deref() else { return Vec::new() };
    let mut status = Vec::new();
    for service in desired.services.values() {
        status.extend(service.ports.iter().map(|port| ServiceStatus {
            service: service.name.qualified(&world.trust_domain),
            hosts: hosts_of(service, &service.name.namespace),
            port: u32::from(port.port),
            protocol: port.protocol.as_str().to_owned(),
            endpoints: u32::try_from(port.endpoints.len()).unwrap_or(u32::MAX),
            exported: service.exported,
            via: String::new(),
            routes: routes::status(world, desired, service, port),
        }));
    }
    status.extend(imported(world, desired).into_iter().map(|service| ServiceStatus {
        via: service.service.split('/').next().unwrap_or_default().to_owned(),
        service: service.service,
        hosts: service.hosts,
        port: service.port,
        protocol: service.protocol,
        endpoints: 0,
        exported: false,
        routes: Vec::new(),
    }));
    status
}

/// Names by which an app may ask for a local service; the bare name works in the service's own namespace only.
fn hosts_of(service: &Service, asking_namespace: &str) -> Vec<String> {
    let name = &service.name;
    let qualified = format!("{}.{}", name.name, name.namespace);
    let mut hosts = Vec::new();
    if name.namespace == asking_namespace {
        hosts.push(name.name.clone());
    }
    hosts.push(format!("{qualified}.svc"));
    hosts.push(format!("{qualified}.svc.cluster.local"));
    hosts.push(qualified);
    if service.exported {
        hosts.push(name.clusterset_host());
    }
    hosts
}

fn endpoints_of(port: &Port) -> Vec<Endpoint> {
    port.endpoints.iter().map(|address| Endpoint { address: address.to_string() }).collect()
}

fn texts(ids: &[SpiffeId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
