//! What is decided about, borrowed ([`Call`]) for one decision and owned ([`Asked`]) for as long as a stream is open.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method};
use rustls::pki_types::CertificateDer;
use signet_mtls::SpiffeId;
use signet_policy::{Action, Net, Principal};

use crate::flow::FlowKey;
use crate::metrics::Direction;
use crate::token::EndUser;

/// Who is on the other side of a connection; made once per connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `None`: plaintext on a permissive port, or a refused one.
    pub id: Option<SpiffeId>,
    pub address: Option<SocketAddr>,
    /// `TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384`, or `none`.
    pub tls: Arc<str>,
    /// Unix seconds; from the peer's certificate.
    pub not_after: Option<i64>,
    /// To verify the peer again when the trust bundles change.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Peer {
    /// The cluster that the peer's verified SPIFFE ID names.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.id.as_ref().map_or("", |id| id.trust_domain().as_str())
    }
}

/// One question, borrowed from the connection and the request.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub peer: &'a Peer,
    /// SPIFFE ID of the workload that is called, where it is known.
    pub destination: Option<&'a str>,
    /// `<td>/<ns>/<name>`; the asked host where it names no service.
    pub service: &'a str,
    pub action: Action<'a>,
    pub dst_cluster: &'a str,
    pub dst_port: u16,
    /// For whom the peer calls, by a token that was verified.
    pub end_user: Option<&'a EndUser>,
    pub trace_id: Option<[u8; 16]>,
    pub received: Instant,
}

impl<'a> Call<'a> {
    pub(super) fn principal(&self) -> Principal<'a> {
        match &self.peer.id {
            Some(id) => Principal::Workload(id.as_str()),
            None => Principal::Unauthenticated,
        }
    }

    /// Whose series it counts in.
    #[must_use]
    pub fn flow_key(&self, direction: Direction, route: Option<&'a str>) -> FlowKey<'a> {
        FlowKey {
            direction,
            source: self.peer.id.as_ref().map_or("", SpiffeId::as_str),
            destination: self.service,
            route: route.unwrap_or_default(),
        }
    }

    pub(super) fn net(&self) -> Net<'a> {
        Net {
            src_ip: self.peer.address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip()),
            src_cluster: self.peer.cluster(),
            dst_cluster: self.dst_cluster,
            dst_port: self.dst_port,
        }
    }
}

/// What the client called the server; never used to find the service on the inbound side.
#[derive(Debug, Clone, Default)]
pub enum Host {
    #[default]
    None,
    Header(HeaderValue),
    Authority(Authority),
}

impl Host {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::None => "",
            Self::Header(value) => value.to_str().unwrap_or_default(),
            Self::Authority(authority) => authority.as_str(),
        }
    }
}

/// An action with its parts owned; cloning is counting references.
#[derive(Debug, Clone)]
pub enum ActionOwned {
    Http {
        method: Method,
        path: PathAndQuery,
        host: Host,
    },
    /// `/<service>/<method>`.
    Grpc {
        path: PathAndQuery,
    },
    Tcp {
        sni: Option<Arc<str>>,
    },
}

impl ActionOwned {
    #[must_use]
    pub fn as_action(&self) -> Action<'_> {
        match self {
            Self::Http { method, path, host } => {
                Action::Http { method: method.as_str(), path: path.path(), host: host.as_str() }
            }
            Self::Grpc { path } => {
                let (service, method) = grpc_parts(path.path()).unwrap_or_default();
                Action::Grpc { service, method }
            }
            Self::Tcp { sni } => Action::TcpConnect { sni: sni.as_deref() },
        }
    }
}

/// `/<service>/<method>` of a gRPC path.
pub(crate) fn grpc_parts(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// A question that can be asked again while its stream is open.
#[derive(Debug, Clone)]
pub struct Asked {
    pub peer: Arc<Peer>,
    pub destination: Arc<str>,
    pub service: Arc<str>,
    pub action: ActionOwned,
    pub dst_cluster: Arc<str>,
    pub dst_port: u16,
    /// Set by [`Enforcer::decide_for`](super::Enforcer::decide_for).
    pub end_user: Option<Arc<EndUser>>,
    pub trace_id: Option<[u8; 16]>,
    pub received: Instant,
}

impl Asked {
    #[must_use]
    pub fn call(&self) -> Call<'_> {
        Call {
            peer: &self.peer,
            destination: Some(&self.destination),
            service: &self.service,
            action: self.action.as_action(),
            dst_cluster: &self.dst_cluster,
            dst_port: self.dst_port,
            end_user: self.end_user.as_deref(),
            trace_id: self.trace_id,
            received: self.received,
        }
    }
}
