//! `Link.Exports`: linked clusters tell each other what they export.
//!
//! The serving side is here; `client` listens to each linked cluster.

mod client;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use signet_api::control::link_server::Link;
use signet_api::control::{ExportedService, ExportsRequest, ExportsState};
use signet_mtls::TrustDomain;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub(crate) use client::LinkClient;

use crate::authorise::{Caller, Method};
use crate::gate::Gate;
use crate::links::LinkTable;
use crate::model::World;

/// A peer hears from us at least this often, however long the lease: so it soon sees that a link is broken.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What `world` exports, as linked clusters are told; None until the manifests are known.
pub(crate) fn exports(world: &World, lease_seconds: u32) -> Option<ExportsState> {
    let desired = world.desired.as_deref()?;
    let mut services = Vec::new();
    for service in desired.services.values().filter(|service| service.exported) {
        let ids = service.spiffe_ids(&world.trust_domain);
        services.extend(service.ports.iter().map(|port| ExportedService {
            namespace: service.name.namespace.clone(),
            name: service.name.name.clone(),
            port: u32::from(port.port),
            protocol: port.protocol.as_str().to_owned(),
            spiffe_ids: ids.iter().map(ToString::to_string).collect(),
        }));
    }
    Some(ExportsState { trust_domain: world.trust_domain.to_string(), services, lease_seconds })
}

/// The service.
pub(crate) struct LinkService {
    pub(crate) gate: Gate,
    pub(crate) world: watch::Receiver<Arc<World>>,
    pub(crate) links: watch::Receiver<LinkTable>,
    pub(crate) lease_seconds: u32,
    pub(crate) cancel: CancellationToken,
}

#[tonic::async_trait]
impl Link for LinkService {
    type ExportsStream = Pin<Box<dyn Stream<Item = Result<ExportsState, Status>> + Send>>;

    async fn exports(&self, request: Request<ExportsRequest>) -> Result<Response<Self::ExportsStream>, Status> {
        let (_, caller) = self.gate.admit(Method::LinkExports, request.extensions())?;
        let Caller::Peer(peer) = caller else {
            return Err(Status::permission_denied("only linked control planes may call this"));
        };
        tracing::info!(%peer, "a linked cluster listens to our exports");
        let every = Duration::from_secs(u64::from(self.lease_seconds)) / 3;
        let mut heartbeat = tokio::time::interval(every.clamp(Duration::from_millis(300), HEARTBEAT));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let talk = Talk {
            peer,
            world: self.world.clone(),
            links: self.links.clone(),
            lease_seconds: self.lease_seconds,
            heartbeat,
            last: None,
            cancel: self.cancel.clone(),
        };
        let stream =
            futures::stream::unfold(talk, |mut talk| async move { talk.next().await.map(|state| (Ok(state), talk)) });
        Ok(Response::new(Box::pin(stream)))
    }
}

struct Talk {
    peer: TrustDomain,
    world: watch::Receiver<Arc<World>>,
    links: watch::Receiver<LinkTable>,
    lease_seconds: u32,
    heartbeat: Interval,
    last: Option<ExportsState>,
    cancel: CancellationToken,
}

impl Talk {
    async fn next(&mut self) -> Option<ExportsState> {
        loop {
            let beat = tokio::select! {
                () = self.cancel.cancelled() => return None,
                changed = self.world.changed() => changed.ok().map(|()| false)?,
                changed = self.links.changed() => changed.ok().map(|()| false)?,
                _ = self.heartbeat.tick() => true,
            };
            if !self.links.borrow_and_update().linked().contains(&self.peer) {
                tracing::info!(peer = %self.peer, "no longer linked: the stream of exports ends");
                return None;
            }
            let state = exports(&self.world.borrow_and_update(), self.lease_seconds);
            if let Some(state) = state
                && (beat || self.last.as_ref() != Some(&state))
            {
                self.last = Some(state.clone());
                return Some(state);
            }
        }
    }
}

#[cfg(test)]
mod tests;
