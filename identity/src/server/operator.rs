//! The service `Operator`: what operators and Signet's own components ask. Who may call what is checked before, in
//! [`super::access`].

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use signet_api::identity::{
    AcceptRequest, AcceptResponse, Authority, CreateJoinTokenRequest, CreateJoinTokenResponse, FederationState,
    InviteRequest, InviteResponse, ListFederationRequest, ListSvidsRequest, ListSvidsResponse, UnlinkRequest,
    UnlinkResponse, operator_server::Operator,
};
use signet_mtls::TrustDomain;
use tonic::{Request, Response, Status};

use super::{Shared, access::Caller};
use crate::{
    clock,
    events::Event,
    federation::{AcceptError, Relationships},
    invite::{self, Invite},
    tokens::{self, TokenError},
};

/// The life of a join token when none is asked for, seconds.
const DEFAULT_TOKEN_LIFE: u32 = 600;

/// The service.
#[derive(Clone)]
pub(crate) struct OperatorService(pub Arc<Shared>);

fn state(relationships: &Relationships) -> FederationState {
    FederationState { relationships: relationships.values().map(|relationship| relationship.to_api()).collect() }
}

fn internal(what: &'static str, error: &dyn std::error::Error) -> Status {
    tracing::error!(error = signet_observe::error_chain(error), "{what}");
    Status::internal(what)
}

impl OperatorService {
    fn emit<T>(&self, request: &Request<T>, event: Event<'_>) {
        let source = request.extensions().get::<Caller>().and_then(Caller::spiffe_id);
        self.0.events.emit(&Event { source, ..event });
    }

    fn make_invite(&self, ttl_seconds: u32, now: i64) -> Result<(String, i64), Status> {
        if ttl_seconds > invite::MAX_LIFE {
            return Err(Status::invalid_argument(format!("ttl_seconds: at most {}", invite::MAX_LIFE)));
        }
        let life = if ttl_seconds == 0 { invite::DEFAULT_LIFE } else { ttl_seconds };
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Status::internal("no randomness"))?;
        let identity = self.0.own.source().current();
        let svid = identity.svids.first().ok_or_else(|| Status::unavailable("the server has no SVID yet"))?;
        let invite = Invite {
            trust_domain: self.0.authority.trust_domain().clone(),
            bundle_endpoint_url: self.0.advertised.clone(),
            bundle_endpoint_spiffe_id: self.0.own.id().clone(),
            bundle: self.0.bundle.borrow().as_ref().clone(),
            gateway: self.0.config.federation.advertise_gateway.clone().unwrap_or_default(),
            control: self.0.config.federation.advertise_control.clone().unwrap_or_default(),
            issued_at: now,
            expires_at: now + i64::from(life),
            nonce: hex::encode(nonce),
        };
        let text = invite
            .sign(&svid.chain, svid.key_der())
            .map_err(|error| internal("the invite could not be made; see the server's log", &error))?;
        Ok((text, invite.expires_at))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let life = match request.get_ref().ttl_seconds {
            0 => DEFAULT_TOKEN_LIFE,
            life if life > tokens::MAX_LIFE => {
                return Err(Status::invalid_argument(format!("ttl_seconds: at most {}", tokens::MAX_LIFE)));
            }
            life => life,
        };
        let (token, expires_at) = self.0.tokens.create(life, clock::now()).map_err(|error| match error {
            TokenError::Full => Status::resource_exhausted(error.to_string()),
            error => internal("the token could not be made; see the server's log", &error),
        })?;
        let detail = format!("expires_at {expires_at}");
        self.emit(&request, event("identity:create_join_token", true, "created", detail));
        Ok(Response::new(CreateJoinTokenResponse { token, expires_at }))
    }

    async fn list_svids(&self, _: Request<ListSvidsRequest>) -> Result<Response<ListSvidsResponse>, Status> {
        let authorities = self.0.authority.authorities().into_iter().map(|authority| Authority {
            kind: authority.kind.to_owned(),
            subject: authority.subject,
            not_before: authority.not_before,
            not_after: authority.not_after,
            sha256: authority.sha256,
        });
        let answer = ListSvidsResponse { svids: self.0.issued.list(), authorities: authorities.collect() };
        Ok(Response::new(answer))
    }

    async fn invite(&self, request: Request<InviteRequest>) -> Result<Response<InviteResponse>, Status> {
        let (invite, expires_at) = self.make_invite(request.get_ref().ttl_seconds, clock::now())?;
        let fingerprint = invite::fingerprint(&invite)
            .map_err(|error| internal("the invite could not be made; see the server's log", &error))?;
        self.emit(&request, event("identity:federation_invite", true, "created", format!("fingerprint {fingerprint}")));
        Ok(Response::new(InviteResponse { invite, fingerprint, expires_at }))
    }

    async fn accept(&self, request: Request<AcceptRequest>) -> Result<Response<AcceptResponse>, Status> {
        match self.0.federation.accept(&request.get_ref().invite, clock::now()) {
            Ok(relationship) => {
                let detail = format!(
                    "trust_domain {} fingerprint {}",
                    relationship.bundle.trust_domain, relationship.fingerprint
                );
                self.emit(&request, event("identity:federation_accept", true, "accepted", detail));
                Ok(Response::new(AcceptResponse {
                    fingerprint: relationship.fingerprint.clone(),
                    relationship: Some(relationship.to_api()),
                }))
            }
            Err(AcceptError::Invite(error)) => {
                self.emit(&request, event("identity:federation_accept", false, "invite_refused", error.to_string()));
                Err(Status::invalid_argument(error.to_string()))
            }
            Err(AcceptError::Store(error)) => {
                Err(internal("the relationship could not be written down; see the server's log", &error))
            }
        }
    }

    async fn unlink(&self, request: Request<UnlinkRequest>) -> Result<Response<UnlinkResponse>, Status> {
        let trust_domain: TrustDomain = request
            .get_ref()
            .trust_domain
            .parse()
            .map_err(|error| Status::invalid_argument(format!("trust_domain: {error}")))?;
        match self.0.federation.unlink(&trust_domain) {
            Ok(Some(relationship)) => {
                let detail = format!("trust_domain {trust_domain} fingerprint {}", relationship.fingerprint);
                self.emit(&request, event("identity:federation_unlink", true, "unlinked", detail));
                Ok(Response::new(UnlinkResponse { relationship: Some(relationship.to_api()) }))
            }
            Ok(None) => Err(Status::not_found(format!("`{trust_domain}` is not linked"))),
            Err(error) => Err(internal("the change could not be written down; see the server's log", &error)),
        }
    }

    async fn list_federation(&self, _: Request<ListFederationRequest>) -> Result<Response<FederationState>, Status> {
        Ok(Response::new(state(&self.0.federation.current())))
    }

    type WatchFederationStream = BoxStream<'static, Result<FederationState, Status>>;

    async fn watch_federation(
        &self,
        _: Request<ListFederationRequest>,
    ) -> Result<Response<Self::WatchFederationStream>, Status> {
        let stopping = self.0.stopping.clone();
        let states = tokio_stream::wrappers::WatchStream::new(self.0.federation.watch())
            .map(|relationships| Ok(state(&relationships)))
            .take_until(async move { stopping.cancelled().await });
        Ok(Response::new(states.boxed()))
    }
}

fn event(action: &'static str, allow: bool, reason: &'static str, detail: String) -> Event<'static> {
    Event { action, allow, reason, source: None, subject: None, detail }
}
