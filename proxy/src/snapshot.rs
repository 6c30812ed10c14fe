//! What the control plane says: services, endpoints and policy, as one immutable value.
//!
//! [`Snapshot`] is the domain type; [`Snapshot::from_wire`] is the only way in from the wire, and it either gives a
//! whole valid snapshot or an error that names the field (the NACK's text). [`Discovery`] holds the stream with the
//! control plane, keeps the last good snapshot on disk and publishes it. A snapshot that is refused changes nothing.

pub mod break_glass;
mod client;
pub mod route;
mod store;
#[cfg(test)]
mod tests;
pub mod traffic;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use signet_api::control as wire;
use signet_mtls::{SpiffeId, TrustDomain};
use signet_policy::{Bundle, BundleSource};

pub use client::{Discovery, DiscoveryConfig, ProxyKind};
pub use store::StoreError;

/// Why a snapshot was refused. The text goes to the control plane as the NACK.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{field}: `{value}` is not {expected}; correct the manifest it came from")]
    Field { field: String, value: String, expected: &'static str },
    #[error("policy: digest is `{computed}` but the snapshot says `{said}`; nothing was taken")]
    Digest { computed: String, said: String },
    #[error("policy: files of `{0}` were left out, but this proxy does not hold that bundle")]
    BundleNotHeld(String),
    #[error("policy of commit `{commit}` does not compile: {problem}")]
    Compile { commit: String, problem: String },
}

/// The protocol that a Service's port declares (`appProtocol`). It selects the action, and is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    Tcp,
}

impl Protocol {
    fn parse(field: &str, value: &str) -> Result<Self, SnapshotError> {
        match value {
            "http" => Ok(Self::Http),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" => Ok(Self::Tcp),
            other => Err(SnapshotError::Field {
                field: field.to_owned(),
                value: other.to_owned(),
                expected: "one of http, http2, grpc, tcp",
            }),
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// A service that this sidecar's workload serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundService {
    /// `<td>/<ns>/<name>`.
    pub service: Arc<str>,
    /// The Service's port: what policies see as `dst_port`.
    pub port: u16,
    /// Where the sidecar listens for it.
    pub target_port: u16,
    pub protocol: Protocol,
    /// Plaintext is admitted, as an unauthenticated principal.
    pub permissive: bool,
    /// The first that fits the caller holds.
    pub rate_limits: Vec<traffic::RateLimit>,
}

/// A service that this sidecar's workload may ask for.
#[derive(Debug, Clone)]
pub struct OutboundService {
    pub service: Arc<str>,
    /// Lower case, without port.
    /// Empty: others fail over to it, and no app can ask for it.
    pub hosts: Vec<Arc<str>>,
    pub port: u16,
    pub protocol: Protocol,
    /// An endpoint must present one of these.
    pub spiffe_ids: Vec<SpiffeId>,
    pub endpoints: Vec<SocketAddr>,
    /// Set when it lives in another trust domain.
    pub gateway: Option<RemoteGateway>,
    /// Addresses that stand for it, whichever endpoint serves: a redirected connection to one of them is for it.
    pub addresses: Vec<IpAddr>,
    /// Set when routes are attached to it.
    pub routes: Option<Arc<route::Routes>>,
    /// Set when a TrafficPolicy is attached to it.
    pub traffic: Option<Arc<traffic::Traffic>>,
    /// Who serves it, tier by tier; empty: it alone.
    pub failover: Vec<Vec<Share>>,
}

/// One cluster's part of the calls of a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Another outbound service of the snapshot, or the service itself; on the same port.
    pub service: Arc<str>,
    /// Above 0.
    pub weight: u32,
}

/// The gateway of the trust domain that a remote service lives in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteGateway {
    /// `host:port` each.
    pub addresses: Vec<Arc<str>>,
    pub spiffe_id: SpiffeId,
    /// What to ask for in CONNECT.
    pub authority: Arc<str>,
}

/// For a gateway: a service that other clusters may reach here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    pub service: Arc<str>,
    /// Lower case, `<host>:<port>`: what a remote sidecar asks for in CONNECT.
    pub authority: Arc<str>,
    pub port: u16,
    pub spiffe_ids: Vec<SpiffeId>,
    pub endpoints: Vec<SocketAddr>,
}

/// A host outside of the mesh, at one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// What `signet.yaml` and records call it.
    pub name: Arc<str>,
    /// Lower case; a name, or an IP address.
    pub host: Arc<str>,
    pub port: u16,
    /// The sidecar makes the TLS, for an app that speaks plainly.
    pub originate_tls: bool,
}

/// One version of all that a proxy needs to know. Immutable.
#[derive(Clone)]
pub struct Snapshot {
    /// 0: nothing was ever taken.
    pub version: u64,
    pub trust_domain: TrustDomain,
    /// `None`: every decision is deny.
    pub bundle: Option<Arc<Bundle>>,
    pub inbound: Vec<Arc<InboundService>>,
    pub outbound: Vec<Arc<OutboundService>>,
    pub exported: Vec<Arc<Exported>>,
    pub external: Vec<Arc<External>>,
    /// Grants for an emergency, the one that counts first.
    pub break_glass: Vec<Arc<break_glass::Grant>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .field("bundle", &self.bundle.as_ref().map(|b| b.digest().to_owned()))
            .field("inbound", &self.inbound.len())
            .field("outbound", &self.outbound.len())
            .field("exported", &self.exported.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// What a proxy holds before it was told anything: it serves nothing and denies everything.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            version: 0,
            trust_domain,
            bundle: None,
            inbound: Vec::new(),
            outbound: Vec::new(),
            exported: Vec::new(),
            external: Vec::new(),
            break_glass: Vec::new(),
        }
    }

    /// Reads a snapshot from the wire. `held` is the bundle that is enforced now: it stays when the control plane
    /// names its digest without files, and when the control plane has no policy to say.
    ///
    /// # Errors
    /// The first field that is not valid, or a policy that does not compile.
    pub fn from_wire(snapshot: &wire::Snapshot, held: Option<&Arc<Bundle>>) -> Result<Self, SnapshotError> {
        let trust_domain = parse(|| "trust_domain".to_owned(), &snapshot.trust_domain, "a trust domain")?;
        let inbound = each("inbound", &snapshot.inbound, inbound)?;
        same_protocol_per_port(&inbound)?;
        let outbound = each("outbound", &snapshot.outbound, outbound)?;
        shares_lead_somewhere(&outbound)?;
        Ok(Self {
            version: snapshot.version,
            trust_domain,
            bundle: match &snapshot.policy {
                Some(policy) => Some(bundle(policy, held)?),
                None => held.cloned(),
            },
            inbound,
            outbound,
            exported: each("exported", &snapshot.exported, exported)?,
            external: each("external", &snapshot.external, external)?,
            break_glass: break_glass::grants(&snapshot.break_glass)?,
        })
    }

    /// The exported service that a CONNECT authority names.
    #[must_use]
    pub fn exported(&self, authority: &str) -> Option<&Arc<Exported>> {
        self.exported.iter().find(|e| e.authority.eq_ignore_ascii_case(authority))
    }
}

fn bundle(policy: &wire::PolicyBundle, held: Option<&Arc<Bundle>>) -> Result<Arc<Bundle>, SnapshotError> {
    let same = |held: &&Arc<Bundle>| {
        held.digest() == policy.digest
            && held.commit() == policy.commit
            && held.slice_digest().unwrap_or_default() == policy.slice
    };
    if let Some(held) = held.filter(same) {
        return Ok(Arc::clone(held));
    }
    if policy.files.is_empty() {
        return Err(SnapshotError::BundleNotHeld(policy.digest.clone()));
    }
    let source = BundleSource {
        commit: policy.commit.clone(),
        signer: policy.signer.clone(),
        files: policy.files.iter().map(|f| (f.path.clone(), f.content.clone())).collect::<BTreeMap<_, _>>(),
    };
    let is_slice = !policy.slice.is_empty();
    let said = if is_slice { &policy.slice } else { &policy.digest };
    let computed = source.digest();
    if computed != *said {
        return Err(SnapshotError::Digest { computed, said: said.clone() });
    }
    let compiled = match is_slice {
        true => Bundle::compile_slice(&source, &policy.digest),
        false => Bundle::compile(&source),
    };
    match compiled {
        Ok(bundle) => Ok(Arc::new(bundle)),
        Err(problems) => Err(SnapshotError::Compile {
            commit: policy.commit.clone(),
            problem: problems
                .first()
                .map(|p| format!("{}:{}:{}: {}", p.path, p.line, p.column, p.message))
                .unwrap_or_default(),
        }),
    }
}

fn each<W, D>(
    list: &str,
    items: &[W],
    read: impl Fn(&str, &W) -> Result<D, SnapshotError>,
) -> Result<Vec<Arc<D>>, SnapshotError> {
    items.iter().enumerate().map(|(i, item)| read(&format!("{list}[{i}]"), item).map(Arc::new)).collect()
}

fn inbound(at: &str, w: &wire::InboundService) -> Result<InboundService, SnapshotError> {
    Ok(InboundService {
        service: service_name(at, &w.service)?,
        port: port(at, "port", w.port)?,
        target_port: port(at, "target_port", w.target_port)?,
        protocol: Protocol::parse(&format!("{at}.protocol"), &w.protocol)?,
        permissive: w.permissive,
        rate_limits: w
            .rate_limits
            .iter()
            .enumerate()
            .map(|(i, limit)| traffic::rate_limit(&format!("{at}.rate_limits[{i}]"), limit))
            .collect::<Result<_, _>>()?,
    })
}

/// Services may share a target port, and must then all permit a call; that needs one protocol.
fn same_protocol_per_port(services: &[Arc<InboundService>]) -> Result<(), SnapshotError> {
    for (i, service) in services.iter().enumerate() {
        let other = services.iter().take(i).find(|other| other.target_port == service.target_port);
        if other.is_some_and(|other| other.protocol != service.protocol) {
            return Err(SnapshotError::Field {
                field: format!("inbound[{i}].protocol"),
                value: service.protocol.as_str().to_owned(),
                expected: "the protocol of the other service on the same target port",
            });
        }
    }
    Ok(())
}

fn outbound(at: &str, w: &wire::OutboundService) -> Result<OutboundService, SnapshotError> {
    let gateway = match &w.gateway {
        None => None,
        Some(g) => Some(RemoteGateway {
            addresses: g.addresses.iter().map(|a| Arc::from(a.as_str())).collect(),
            spiffe_id: parse(|| format!("{at}.gateway.spiffe_id"), &g.spiffe_id, "a SPIFFE ID")?,
            authority: Arc::from(g.authority.as_str()),
        }),
    };
    Ok(OutboundService {
        service: service_name(at, &w.service)?,
        hosts: w.hosts.iter().map(|h| Arc::from(h.to_ascii_lowercase())).collect(),
        port: port(at, "port", w.port)?,
        protocol: Protocol::parse(&format!("{at}.protocol"), &w.protocol)?,
        spiffe_ids: spiffe_ids(at, &w.spiffe_ids)?,
        endpoints: endpoints(at, &w.endpoints)?,
        gateway,
        addresses: w
            .addresses
            .iter()
            .enumerate()
            .map(|(i, a)| parse(|| format!("{at}.addresses[{i}]"), a, "an IP address"))
            .collect::<Result<_, _>>()?,
        routes: match &w.routes {
            Some(routes) => Some(Arc::new(route::routes(&format!("{at}.routes"), routes)?)),
            None => None,
        },
        traffic: match &w.traffic {
            Some(traffic) => Some(Arc::new(traffic::traffic(&format!("{at}.traffic"), traffic)?)),
            None => None,
        },
        failover: w.failover.iter().map(|tier| shares(at, tier)).collect::<Result<_, _>>()?,
    })
}

fn shares(at: &str, tier: &wire::Tier) -> Result<Vec<Share>, SnapshotError> {
    let read = |share: &wire::Share| {
        let service = service_name(&format!("{at}.failover"), &share.service)?;
        if share.weight == 0 {
            return Err(SnapshotError::Field {
                field: format!("{at}.failover"),
                value: share.weight.to_string(),
                expected: "a weight above 0",
            });
        }
        Ok(Share { service, weight: share.weight })
    };
    tier.shares.iter().map(read).collect()
}

/// A part of a service's calls that leads nowhere, or to what speaks otherwise, would be a part that is lost.
fn shares_lead_somewhere(services: &[Arc<OutboundService>]) -> Result<(), SnapshotError> {
    if services.iter().all(|service| service.failover.is_empty()) {
        return Ok(());
    }
    let known: HashSet<_> = services.iter().map(|one| (&one.service, one.port, one.protocol)).collect();
    for (i, service) in services.iter().enumerate() {
        for share in service.failover.iter().flatten() {
            if !known.contains(&(&share.service, service.port, service.protocol)) {
                return Err(SnapshotError::Field {
                    field: format!("outbound[{i}].failover"),
                    value: share.service.to_string(),
                    expected: "an outbound service of the snapshot with the same port and protocol",
                });
            }
        }
    }
    Ok(())
}

fn external(at: &str, w: &wire::ExternalService) -> Result<External, SnapshotError> {
    Ok(External {
        name: Arc::from(w.name.as_str()),
        host: Arc::from(w.host.to_ascii_lowercase()),
        port: port(at, "port", w.port)?,
        originate_tls: w.originate_tls,
    })
}

fn exported(at: &str, w: &wire::Exported) -> Result<Exported, SnapshotError> {
    Ok(Exported {
        service: service_name(at, &w.service)?,
        authority: Arc::from(w.authority.to_ascii_lowercase()),
        port: port(at, "port", w.port)?,
        spiffe_ids: spiffe_ids(at, &w.spiffe_ids)?,
        endpoints: endpoints(at, &w.endpoints)?,
    })
}

fn spiffe_ids(at: &str, ids: &[String]) -> Result<Vec<SpiffeId>, SnapshotError> {
    ids.iter().enumerate().map(|(i, id)| parse(|| format!("{at}.spiffe_ids[{i}]"), id, "a SPIFFE ID")).collect()
}

fn endpoints(at: &str, list: &[wire::Endpoint]) -> Result<Vec<SocketAddr>, SnapshotError> {
    list.iter()
        .enumerate()
        .map(|(i, e)| parse(|| format!("{at}.endpoints[{i}].address"), &e.address, "an address like 10.0.0.1:8443"))
        .collect()
}

/// `<td>/<ns>/<name>`, each part non-empty.
fn service_name(at: &str, name: &str) -> Result<Arc<str>, SnapshotError> {
    if name.split('/').count() == 3 && name.split('/').all(|part| !part.is_empty()) {
        return Ok(Arc::from(name));
    }
    Err(SnapshotError::Field {
        field: format!("{at}.service"),
        value: name.to_owned(),
        expected: "a service name like <trust domain>/<namespace>/<name>",
    })
}

fn port(at: &str, field: &str, value: u32) -> Result<u16, SnapshotError> {
    u16::try_from(value).ok().filter(|p| *p > 0).ok_or_else(|| SnapshotError::Field {
        field: format!("{at}.{field}"),
        value: value.to_string(),
        expected: "a port from 1 to 65535",
    })
}

fn parse<T: std::str::FromStr>(
    field: impl FnOnce() -> String,
    value: &str,
    expected: &'static str,
) -> Result<T, SnapshotError> {
    value.parse().map_err(|_| SnapshotError::Field { field: field(), value: value.to_owned(), expected })
}
