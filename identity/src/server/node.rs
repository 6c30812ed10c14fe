//! The service `Node`: what agents ask. Who may call what is checked before, in [`super::access`].

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, future::BoxFuture};
use signet_api::identity::{
    AttestRequest, AttestResponse, NodeState, RenewRequest, SignRequest, SignResponse, SignedSvid, WatchRequest,
    node_server::Node,
};
use signet_mtls::SpiffeId;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Shared, access::Caller, metrics::ResultLabel};
use crate::{ca::Minted, clock, csr, events::Event, tokens::TokenError};

const MAX_SIGN_ITEMS: usize = 256;

/// The service.
#[derive(Clone)]
pub(crate) struct NodeService(pub Arc<Shared>);

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    // Only a guard puts it there; without one nobody is let in.
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("no caller"))
}

fn public_key(der: &[u8]) -> Result<rcgen::SubjectPublicKeyInfo, Status> {
    csr::public_key(der).map_err(|error| Status::invalid_argument(error.to_string()))
}

impl NodeService {
    fn agent_response(&self, minted: Minted) -> AttestResponse {
        AttestResponse {
            spiffe_id: minted.id.to_string(),
            chain: minted.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            bundle: Some(self.0.bundle.borrow().to_api()),
        }
    }

    fn sign_agent(&self, id: &SpiffeId, key: &rcgen::SubjectPublicKeyInfo) -> Result<Minted, Status> {
        let life = Duration::from_secs(self.0.config.agent_ttl().into());
        self.0.sign(id, key, life, Some(id))
    }

    fn refuse_token(&self, error: &TokenError, address: Option<std::net::SocketAddr>) -> Status {
        let reason = match error {
            TokenError::Unknown => "token_unknown",
            TokenError::Expired => "token_expired",
            TokenError::Spent => "token_spent",
            TokenError::Full | TokenError::Random | TokenError::Store(_) => "internal",
        };
        self.0.metrics.attestations.get_or_create(&ResultLabel { result: reason }).inc();
        self.0.events.refused("identity:attest", reason, address.map(|address| address.ip()), None);
        match reason {
            "internal" => {
                tracing::error!(error = signet_observe::error_chain(error), "a join token could not be spent");
                Status::internal("the token could not be spent")
            }
            _ => Status::unauthenticated(error.to_string()),
        }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<AttestResponse>, Status> {
        let address = request.extensions().get::<signet_mtls::grpc::PeerAddress>().map(|address| address.0);
        let request = request.into_inner();
        // The key first, so that a mistake there does not cost the token.
        let key = public_key(&request.csr)?;
        self.0.tokens.spend(&request.join_token, clock::now()).map_err(|error| self.refuse_token(&error, address))?;
        let id =
            SpiffeId::from_segments(self.0.authority.trust_domain(), &["signet", "agent", &Uuid::new_v4().to_string()])
                .map_err(|error| Status::internal(error.to_string()))?;
        let minted = self.sign_agent(&id, &key)?;
        self.0.metrics.attestations.get_or_create(&ResultLabel { result: "ok" }).inc();
        self.0.events.emit(&Event {
            action: "identity:attest",
            allow: true,
            reason: "join_token",
            source: None,
            subject: Some(&id),
            detail: address.map(|address| format!("from {}", address.ip())).unwrap_or_default(),
        });
        Ok(Response::new(self.agent_response(minted)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<AttestResponse>, Status> {
        let caller = caller(&request)?;
        let id = caller.spiffe_id().ok_or_else(|| Status::unauthenticated("an agent's SVID is needed"))?;
        let key = public_key(&request.into_inner().csr)?;
        let minted = self.sign_agent(id, &key)?;
        Ok(Response::new(self.agent_response(minted)))
    }

    type WatchStream = futures::stream::BoxStream<'static, Result<NodeState, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(node_states(Arc::clone(&self.0)).boxed()))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let caller = caller(&request)?;
        let items = request.into_inner().items;
        if items.len() > MAX_SIGN_ITEMS {
            return Err(Status::invalid_argument(format!("items: at most {MAX_SIGN_ITEMS} in one request")));
        }
        let entries = Arc::clone(&self.0.entries.borrow());
        let mut svids = Vec::with_capacity(items.len());
        for item in items {
            // An entry that was removed meanwhile is left out; the agent hears of it in its stream.
            let Some(entry) = entries.iter().find(|entry| entry.id == item.entry_id) else { continue };
            let key = public_key(&item.csr)?;
            let ttl = if entry.ttl_seconds == 0 { self.0.config.svid_ttl_seconds } else { entry.ttl_seconds };
            let minted = self.0.sign(&entry.spiffe_id, &key, Duration::from_secs(ttl.into()), caller.spiffe_id())?;
            svids.push(SignedSvid {
                entry_id: entry.id.clone(),
                spiffe_id: minted.id.to_string(),
                chain: minted.chain.iter().map(|certificate| certificate.to_vec()).collect(),
                expires_at: minted.not_after,
                hint: entry.hint.clone(),
            });
        }
        Ok(Response::new(SignResponse { svids }))
    }
}

/// The state for agents: at once, then whenever it differs, until the server stops.
fn node_states(shared: Arc<Shared>) -> impl Stream<Item = Result<NodeState, Status>> + Send {
    let watches = (shared.entries.clone(), shared.federation.watch(), shared.bundle.clone());
    futures::stream::unfold((shared, watches, None), |(shared, mut watches, last)| -> BoxFuture<'static, _> {
        Box::pin(async move {
            loop {
                let state = {
                    let entries = watches.0.borrow_and_update().iter().map(crate::entries::Entry::to_api).collect();
                    let partners = watches.1.borrow_and_update();
                    let own = watches.2.borrow_and_update().to_api();
                    let federated = partners.values().map(|relationship| relationship.bundle.to_api());
                    NodeState { entries, bundles: std::iter::once(own).chain(federated).collect() }
                };
                if last.as_ref() != Some(&state) {
                    return Some((Ok(state.clone()), (shared, watches, Some(state))));
                }
                let changed = tokio::select! {
                    () = shared.stopping.cancelled() => return None,
                    changed = watches.0.changed() => changed,
                    changed = watches.1.changed() => changed,
                    changed = watches.2.changed() => changed,
                };
                if changed.is_err() {
                    return None;
                }
            }
        })
    })
}
