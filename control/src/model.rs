//! What the control plane knows, as immutable values: services that manifests describe, what linked clusters export,
//! and the policy that is active.
//!
//! Everything here is checked when it is made (`manifests`, `imports`, `policy`), so that `snapshot` can be a pure
//! function that cannot fail.

mod break_glass;
mod policy;
mod route;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use signet_mtls::{SpiffeId, TrustDomain};

pub use break_glass::Given;
pub use policy::{ActivePolicy, PolicySlice};
pub use route::{Backend, Match, Route, RouteKind, Rule, Target};
pub use traffic::{Limit, Part, TrafficPolicy};

/// A service's name within one trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The Service's `metadata.name`.
    pub name: String,
}

impl ServiceName {
    /// `<td>/<ns>/<name>`: how policies and records name this service.
    pub fn qualified(&self, trust_domain: &TrustDomain) -> String {
        format!("{trust_domain}/{}/{}", self.namespace, self.name)
    }

    /// The name within its trust domain of `<td>/<ns>/<name>`: what [`ServiceName::qualified`] gave.
    pub fn of_qualified(qualified: &str) -> Option<Self> {
        let mut parts = qualified.split('/').skip(1);
        Some(Self { namespace: parts.next()?.to_owned(), name: parts.next()?.to_owned() })
    }

    /// `<name>.<ns>.svc.clusterset.local` (MCS API): how linked clusters name it.
    pub fn clusterset_host(&self) -> String {
        format!("{}.{}.svc.clusterset.local", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a service port speaks, as the wire contract spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 (and what it negotiates).
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Protocol {
    /// The spelling in `signet.control.v1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Reads the wire spelling.
    pub fn from_wire(text: &str) -> Option<Self> {
        [Self::Http, Self::Http2, Self::Grpc, Self::Tcp].into_iter().find(|protocol| protocol.as_str() == text)
    }
}

/// One port of a local service with the endpoints that serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The Service's port.
    pub port: u16,
    /// Declared, or read from the port's name.
    pub protocol: Protocol,
    /// Where sidecars of the service listen for mesh traffic: every port that an EndpointSlice names.
    pub target_ports: BTreeSet<u16>,
    /// Endpoints that are ready.
    pub endpoints: BTreeSet<SocketAddr>,
}

/// Whether an inbound port admits plaintext (DESIGN section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Mesh mTLS only.
    Strict,
    /// Plaintext too, without a principal.
    Permissive,
}

/// A service of this trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Who it is.
    pub name: ServiceName,
    /// Service accounts whose workloads serve it; never empty.
    pub service_accounts: Vec<String>,
    /// Whether plaintext is admitted.
    pub admission: Admission,
    /// Whether a ServiceExport names it.
    pub exported: bool,
    /// ClusterIPs: connections to them are for this service, whichever endpoint takes them.
    pub addresses: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<Port>,
}

impl Service {
    /// SPIFFE IDs that an endpoint of this service may present.
    pub fn spiffe_ids(&self, trust_domain: &TrustDomain) -> Vec<SpiffeId> {
        // INVARIANT: namespace and service accounts were checked as DNS names, which are path segments of SPIFFE IDs.
        let accounts = self.service_accounts.iter();
        accounts.filter_map(|account| SpiffeId::workload(trust_domain, &self.name.namespace, account).ok()).collect()
    }
}

/// A host outside of the mesh, at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Its name in `signet.yaml`.
    pub name: String,
    /// Lower case; a name, or an IP address.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Who makes the TLS.
    pub tls: ExternalTls,
}

/// Who makes the TLS to a host outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalTls {
    /// The app, or nobody: bytes pass as they are.
    Passthrough,
    /// The sidecar, for an app that speaks plainly.
    Originate,
}

/// All that the manifests say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Services by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// IP addresses that ServiceImports give to services of linked clusters.
    pub import_addresses: BTreeMap<ServiceName, Vec<IpAddr>>,
    /// Hosts outside of the mesh, one entry for each port.
    pub externals: Vec<External>,
    /// Routes that are attached to services.
    pub routes: Vec<Route>,
    /// Policies that are attached to services.
    pub traffic: Vec<TrafficPolicy>,
    /// What was ignored or looks wrong but does not stop the manifests from being used.
    pub warnings: Vec<String>,
}

/// A service that a linked cluster exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedService {
    /// Who it is in its own trust domain.
    pub name: ServiceName,
    /// The Service's port there.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// SPIFFE IDs of the exporting trust domain alone; never empty.
    pub spiffe_ids: Vec<SpiffeId>,
}

/// What one linked cluster exports and how to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// `host:port` of that cluster's east-west gateway.
    pub gateway: String,
    /// Its exported services.
    pub services: Vec<ImportedService>,
}

/// What linked clusters export, by trust domain.
pub type Imports = BTreeMap<TrustDomain, Import>;

/// Everything that snapshots are made of, at one moment.
#[derive(Clone, Debug)]
pub struct World {
    /// Grows with every change, across restarts too.
    pub version: u64,
    /// When it came to be, to measure how long proxies take to follow.
    pub made_at: Instant,
    /// Our own.
    pub trust_domain: TrustDomain,
    /// None until the manifests were read once without an error.
    pub desired: Option<Arc<Desired>>,
    /// None until a commit was accepted.
    pub policy: Option<Arc<ActivePolicy>>,
    /// From linked clusters whose lease runs.
    pub imports: Arc<Imports>,
    /// Grants for an emergency that are in force.
    pub break_glass: Arc<Vec<Arc<Given>>>,
}
