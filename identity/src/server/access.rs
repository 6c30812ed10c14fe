//! Who may call which method: one table, checked before a request reaches its service.
//!
//! INVARIANT: a method that is not in [`TABLE`] is refused to everyone.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use signet_mtls::{
    SpiffeId, TrustDomain,
    grpc::{Peer, PeerAddress},
};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use crate::events::Events;

/// A kind of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// No client certificate.
    Anonymous,
    /// `/signet/agent/<id>`
    Agent,
    /// `/signet/<name>`
    Component(&'static str),
    /// Whoever can open the operator's socket.
    LocalOperator,
}

use Role::{Agent, Anonymous, Component, LocalOperator};

const OPERATORS: &[Role] = &[LocalOperator, Component("operator")];
const READERS: &[Role] = &[LocalOperator, Component("operator"), Component("ui")];
const FOLLOWERS: &[Role] = &[LocalOperator, Component("operator"), Component("control"), Component("gateway")];

/// Every method, and who may call it. All callers are of the own trust domain.
pub const TABLE: &[(&str, &[Role])] = &[
    // A token proves the caller; a certificate is not asked for and does not hurt.
    ("/signet.identity.v1.Node/Attest", &[Anonymous, Agent]),
    ("/signet.identity.v1.Node/Renew", &[Agent]),
    ("/signet.identity.v1.Node/Watch", &[Agent]),
    ("/signet.identity.v1.Node/Sign", &[Agent]),
    ("/signet.identity.v1.Operator/CreateJoinToken", OPERATORS),
    ("/signet.identity.v1.Operator/ListSvids", READERS),
    ("/signet.identity.v1.Operator/Invite", OPERATORS),
    ("/signet.identity.v1.Operator/Accept", OPERATORS),
    ("/signet.identity.v1.Operator/Unlink", OPERATORS),
    ("/signet.identity.v1.Operator/ListFederation", READERS),
    ("/signet.identity.v1.Operator/WatchFederation", FOLLOWERS),
];

/// The caller that was let in; an extension of each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Over TLS without a client certificate.
    Anonymous,
    /// Over mutual TLS.
    Peer(SpiffeId),
    /// Over the operator's socket.
    LocalOperator,
}

impl Caller {
    /// For events and the index of SVIDs.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Peer(id) => Some(id),
            Self::Anonymous | Self::LocalOperator => None,
        }
    }

    fn has(&self, role: Role, own: &TrustDomain) -> bool {
        match (self, role) {
            (Self::Anonymous, Anonymous) | (Self::LocalOperator, LocalOperator) => true,
            (Self::Peer(id), Agent) => {
                let name = id.path().strip_prefix("/signet/agent/");
                id.trust_domain() == own && name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
            }
            (Self::Peer(id), Component(name)) => id.trust_domain() == own && id.as_component() == Some(name),
            _ => false,
        }
    }
}

/// Whether `caller` may call the method at `path`.
///
/// # Errors
/// `UNAUTHENTICATED` for nobody, `PERMISSION_DENIED` for somebody else; neither tells who would be let in.
pub fn check(path: &str, caller: &Caller, own: &TrustDomain) -> Result<(), Status> {
    let allowed = TABLE.iter().find(|(method, _)| *method == path).map_or(&[][..], |(_, roles)| roles);
    if allowed.iter().any(|role| caller.has(*role, own)) {
        return Ok(());
    }
    tracing::warn!(method = path, ?caller, "refused a call");
    Err(match caller {
        Caller::Anonymous => Status::unauthenticated("this method needs a client certificate"),
        _ => Status::permission_denied("this identity may not call this method"),
    })
}

/// How callers of a listener are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By their certificate.
    Tls,
    /// By having opened the operator's socket.
    OperatorSocket,
}

/// A service behind [`check`].
#[derive(Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    own: TrustDomain,
    origin: Origin,
    events: Events,
}

impl<S> Guard<S> {
    /// Guards `inner` for callers of `own`; refusals are told to `events`.
    pub(crate) fn new(inner: S, own: TrustDomain, origin: Origin, events: Events) -> Self {
        Self { inner, own, origin, events }
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Self::Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let caller = match (self.origin, request.extensions().get::<Peer>()) {
            (Origin::OperatorSocket, _) => Caller::LocalOperator,
            (Origin::Tls, Some(Peer(id))) => Caller::Peer(id.clone()),
            (Origin::Tls, None) => Caller::Anonymous,
        };
        match check(request.uri().path(), &caller, &self.own) {
            Ok(()) => {
                request.extensions_mut().insert(caller);
                Either::Right(self.inner.call(request))
            }
            Err(status) => {
                let address = request.extensions().get::<PeerAddress>().map(|address| address.0.ip());
                let cause = if caller == Caller::Anonymous { "no_certificate" } else { "not_allowed" };
                self.events.refused("identity:call", cause, address, caller.spiffe_id());
                Either::Left(ready(Ok(status.into_http())))
            }
        }
    }
}
