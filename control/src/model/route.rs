//! Routes of the Gateway API, checked. Leaf values are the wire's: they are passed on as they are.

use signet_api::control as wire;

use super::ServiceName;

/// A Service, or a ServiceImport of the clusterset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Of this cluster.
    Service(ServiceName),
    /// Of whichever cluster exports it.
    Import(ServiceName),
}

impl Target {
    /// Its namespace and name.
    pub fn name(&self) -> &ServiceName {
        match self {
            Self::Service(name) | Self::Import(name) => name,
        }
    }
}

/// GEP-1294: for one port of a service the first kind that is attached is applied, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// GRPCRoute.
    Grpc,
    /// HTTPRoute.
    Http,
}

impl RouteKind {
    /// As in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        }
    }
}

/// One HTTPRoute or GRPCRoute that is attached to at least one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which kind.
    pub kind: RouteKind,
    /// Its own namespace and name.
    pub name: ServiceName,
    /// `metadata.creationTimestamp` in Unix seconds, where it is known.
    pub created: Option<i64>,
    /// What it is attached to, and to which port alone.
    pub parents: Vec<(Target, Option<u16>)>,
    /// In the order of the manifest.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// At least one.
    pub matches: Vec<Match>,
    /// Name, filters, timeouts and retries; without backends and mirrors.
    pub action: wire::RouteRule,
    /// Where calls go.
    pub backends: Vec<Backend>,
    /// Where copies of calls go, with numerator and denominator of their share.
    pub mirrors: Vec<(Backend, u32, u32)>,
}

/// One match with what decides its precedence.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// The greater wins, from the first element on. For HTTPRoute: kind of path, length of its prefix, method, number of
    /// headers, number of query parameters. For GRPCRoute: characters of the service, of the method, number of headers.
    pub rank: [usize; 5],
    /// What has to fit; its `rule` is not set yet.
    pub wire: wire::RouteMatch,
}

/// One reference to a service and what happens to its share.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// None: of a kind that cannot be reached.
    pub target: Option<Target>,
    /// Of the service.
    pub port: u16,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// Applied after the rule's own.
    pub request_headers: Option<wire::HeaderModifier>,
    /// Applied before the rule's own.
    pub response_headers: Option<wire::HeaderModifier>,
}
