//! `Status`: what the command line and the dashboard show of this cluster.

use std::sync::Arc;

use signet_api::control::status_server::Status as StatusApi;
use signet_api::control::{MeshRequest, MeshState, PolicyStatus, TapRequest, TopRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::authorise::Method;
use crate::events::Events;
use crate::gate::Gate;
use crate::links::LinkTable;
use crate::live::{self, LiveHub};
use crate::manifests::ManifestState;
use crate::model::World;
use crate::policy::PolicyState;
use crate::proxies::Proxies;
use crate::snapshot::service_status;

/// The service.
pub(crate) struct StatusService {
    pub(crate) gate: Gate,
    pub(crate) world: watch::Receiver<Arc<World>>,
    pub(crate) manifests: watch::Receiver<ManifestState>,
    pub(crate) policy: watch::Receiver<PolicyState>,
    pub(crate) links: watch::Receiver<LinkTable>,
    pub(crate) proxies: Proxies,
    pub(crate) live: LiveHub,
    pub(crate) events: Events,
    pub(crate) cancel: CancellationToken,
}

#[tonic::async_trait]
impl StatusApi for StatusService {
    type TopStream = live::TopUpdates;
    type TapStream = live::TapUpdates;

    async fn top(&self, request: Request<TopRequest>) -> Result<Response<Self::TopStream>, Status> {
        self.gate.admit(Method::StatusTop, request.extensions())?;
        live::top(&self.live, request.get_ref(), self.cancel.clone()).map(Response::new)
    }

    async fn tap(&self, request: Request<TapRequest>) -> Result<Response<Self::TapStream>, Status> {
        let (operator, _) = self.gate.admit(Method::StatusTap, request.extensions())?;
        live::tap(&self.live, &self.events, &operator, request.into_inner(), self.cancel.clone()).map(Response::new)
    }

    async fn mesh(&self, request: Request<MeshRequest>) -> Result<Response<MeshState>, Status> {
        self.gate.admit(Method::StatusMesh, request.extensions())?;
        let world = Arc::clone(&self.world.borrow());
        let manifests = self.manifests.borrow();
        Ok(Response::new(MeshState {
            trust_domain: world.trust_domain.to_string(),
            policy: Some(policy_status(&self.policy.borrow())),
            services: service_status(&world),
            proxies: self.proxies.status(),
            links: self.links.borrow().status(),
            version: world.version,
            break_glass: world.break_glass.iter().map(|given| given.status()).collect(),
            manifest_errors: manifests.errors.iter().map(ToString::to_string).collect(),
        }))
    }
}

fn policy_status(state: &PolicyState) -> PolicyStatus {
    let mut status = PolicyStatus::default();
    if let Some(active) = &state.active {
        status.commit.clone_from(&active.source.commit);
        status.digest.clone_from(&active.digest);
        status.signer.clone_from(&active.source.signer);
        status.activated_at = active.activated_at;
    }
    if let Some(refused) = &state.refused {
        status.refused_commit.clone_from(&refused.commit);
        status.refused_reason = format!("{}: {}", refused.code, refused.message);
    }
    // Why nothing is judged now comes before what was judged last.
    if let Some(error) = &state.unreadable {
        status.refused_reason.clone_from(error);
    }
    status
}
