//! What is asked of a bundle and what it answers. These types are the engine's whole vocabulary with the data plane.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::break_glass::BreakGlass;
use crate::claims::Claims;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal<'a> {
    /// A peer whose X.509-SVID was verified: its SPIFFE ID as a URI, in normal form.
    ///
    /// Any SPIFFE ID is a `Mesh::Workload`. Only `/ns/<ns>/sa/<sa>` gives it a service account, a namespace, a cluster
    /// and a trust domain as ancestors; other shapes have no such parents, so no namespace-wide policy matches them.
    Workload(&'a str),
    /// Plaintext on a permissive port.
    Unauthenticated,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// An HTTP request; `path` is normalised ([`crate::normalise_path`]) and without query.
    Http { method: &'a str, path: &'a str, host: &'a str },
    /// A gRPC call, `service` fully qualified (`bank.v1.Payments`).
    Grpc { service: &'a str, method: &'a str },
    /// A raw TCP connection; `sni` when the client's own TLS offered one.
    TcpConnect { sni: Option<&'a str> },
    /// A gateway passing a call from a linked cluster on to an exported service.
    GatewayForward { sni: Option<&'a str> },
    /// A call out of the mesh; [`Request::service`] is then the id of an external service that `signet.yaml` declares.
    EgressConnect { sni: Option<&'a str> },
}

/// Every action of the schema that requests can have; [`Action::index`] is a position in it.
pub(crate) const ACTIONS: [&str; 12] = [
    "http:GET",
    "http:HEAD",
    "http:OPTIONS",
    "http:POST",
    "http:PUT",
    "http:PATCH",
    "http:DELETE",
    "http:OTHER",
    "grpc:call",
    "tcp:connect",
    "gateway:forward",
    "egress:connect",
];

impl Action<'_> {
    pub(crate) fn index(&self) -> usize {
        match self {
            Action::Http { method, .. } => match *method {
                "GET" => 0,
                "HEAD" => 1,
                "OPTIONS" => 2,
                "POST" => 3,
                "PUT" => 4,
                "PATCH" => 5,
                "DELETE" => 6,
                _ => 7,
            },
            Action::Grpc { .. } => 8,
            Action::TcpConnect { .. } => 9,
            Action::GatewayForward { .. } => 10,
            Action::EgressConnect { .. } => 11,
        }
    }

    /// The id of the Cedar action, `http:GET` for example. Methods that the schema does not list are `http:OTHER`.
    pub fn cedar_id(&self) -> &'static str {
        ACTIONS.get(self.index()).copied().unwrap_or("http:OTHER")
    }
}

/// Network facts of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net<'a> {
    pub src_ip: IpAddr,
    pub src_cluster: &'a str,
    pub dst_cluster: &'a str,
    pub dst_port: u16,
}

/// One question to a bundle.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub principal: Principal<'a>,
    /// `<trust domain>/<namespace>/<name>`, from the inbound port's configuration and never from what the caller sent.
    pub service: &'a str,
    pub action: Action<'a>,
    pub net: Net<'a>,
    /// What a verified token says of the end user; `None` where there is none, and for TCP.
    pub end_user: Option<&'a Claims>,
    /// The grant that covers the call, if any; none from its end on.
    pub break_glass: Option<&'a BreakGlass>,
    /// UTC, microseconds since the Unix epoch.
    pub time_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Allow,
    Deny,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a decision is what it is. The strings are stable: records and metrics carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// At least one permit holds and no forbid does.
    Permitted,
    /// A forbid holds.
    Forbidden,
    /// No permit holds: the default.
    NoPermit,
    /// A forbid could not be evaluated.
    PolicyError,
    /// The service declares routes and none matches.
    UnknownRoute,
    /// The external service is not declared in `signet.yaml`.
    UnknownService,
    /// An identifier of the request is malformed.
    InvalidRequest,
    /// There is no bundle to decide with; callers of the engine use it, the engine itself never answers it.
    NoBundle,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Permitted => "permitted",
            Reason::Forbidden => "forbidden",
            Reason::NoPermit => "no_permit",
            Reason::PolicyError => "policy_error",
            Reason::UnknownRoute => "unknown_route",
            Reason::UnknownService => "unknown_service",
            Reason::InvalidRequest => "invalid_request",
            Reason::NoBundle => "no_bundle",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the answer would be with shadow policies enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowDecision {
    pub effect: Effect,
    pub policies: Vec<Arc<str>>,
    pub reason: Reason,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub effect: Effect,
    /// The `@id`s of the policies that determined it, sorted; empty for a default deny.
    pub policies: Vec<Arc<str>>,
    pub reason: Reason,
    /// The `@id`s of enforced policies that could not be evaluated, sorted. An erring permit permits nothing; an erring
    /// forbid denies, so it is among `policies` when nothing else forbids.
    pub errors: Vec<Arc<str>>,
    /// Present when enforcing the shadow policies would change the effect or the determining policies.
    pub shadow: Option<ShadowDecision>,
    /// Whether a policy that could match reads the request's context; if not, the answer holds for the connection.
    pub reads_context: bool,
    /// UTC microseconds after which a long-lived stream has to be decided again; set when a policy reads the clock.
    pub expires_at_us: Option<i64>,
}

impl Decision {
    /// A deny that no policy had a part in.
    pub fn deny(reason: Reason) -> Self {
        Self {
            effect: Effect::Deny,
            policies: Vec::new(),
            reason,
            errors: Vec::new(),
            shadow: None,
            reads_context: false,
            expires_at_us: None,
        }
    }

    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }
}
