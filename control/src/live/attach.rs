//! `Live.Attach`: tells a proxy what is wanted, takes what it shows. Polled by its connection, like Discovery.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use signet_api::control::live_server::Live;
use signet_api::control::{Sightings, Wanted};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{LiveHub, Scope};
use crate::authorise::{Caller, Method};
use crate::gate::Gate;
use crate::model::World;
use crate::snapshot::Subject;

/// The service.
pub(crate) struct LiveService {
    pub(crate) gate: Gate,
    pub(crate) world: watch::Receiver<Arc<World>>,
    pub(crate) hub: LiveHub,
    pub(crate) cancel: CancellationToken,
}

#[tonic::async_trait]
impl Live for LiveService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Wanted, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<Sightings>>) -> Result<Response<Self::AttachStream>, Status> {
        let (id, caller) = self.gate.admit(Method::LiveAttach, request.extensions())?;
        let Caller::Proxy(subject) = caller else {
            return Err(Status::permission_denied("only proxies may call this"));
        };
        let mut wanted = self.hub.wanted();
        wanted.mark_changed();
        let attached = Attached {
            proxy: id.to_string(),
            scope: None,
            subject,
            sightings: request.into_inner(),
            world: self.world.clone(),
            hub: self.hub.clone(),
            wanted,
            cancel: self.cancel.clone(),
        };
        let stream = futures::stream::unfold(attached, |mut attached| async move {
            attached.next().await.map(|wanted| (Ok(wanted), attached))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

struct Attached {
    proxy: String,
    subject: Subject,
    /// By the world that it was made of.
    scope: Option<(Arc<World>, Scope)>,
    sightings: Streaming<Sightings>,
    world: watch::Receiver<Arc<World>>,
    hub: LiveHub,
    wanted: watch::Receiver<Wanted>,
    cancel: CancellationToken,
}

impl Attached {
    /// The next thing to tell the proxy; `None` ends the stream.
    async fn next(&mut self) -> Option<Wanted> {
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                changed = self.wanted.changed() => {
                    changed.ok()?;
                    return Some(self.wanted.borrow_and_update().clone());
                }
                sightings = self.sightings.message() => {
                    let sightings = sightings.ok()??;
                    self.take(sightings);
                }
            }
        }
    }

    fn take(&mut self, sightings: Sightings) {
        let world = Arc::clone(&self.world.borrow());
        let known = self.scope.take().filter(|(of, _)| Arc::ptr_eq(of, &world));
        let (_, scope) = self.scope.insert(known.unwrap_or_else(|| {
            let scope = Scope::of(&world, &self.subject);
            (world, scope)
        }));
        self.hub.sighted(&self.proxy, scope, sightings);
    }
}
