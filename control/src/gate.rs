//! Asks the table in `authorise` for each call, and counts and records who was refused.

use std::sync::Arc;

use signet_mtls::grpc::PeerAddress;
use signet_mtls::{SpiffeId, TrustDomain};
use signet_spool::{RefusalAggregator, Refused};
use tokio::sync::watch;
use tonic::{Extensions, Status};

use crate::authorise::{Caller, Method, authorise, peer_of};
use crate::links::LinkTable;
use crate::metrics::{ByReason, Metrics};

/// Shared by all services of the listener.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) own: TrustDomain,
    pub(crate) links: watch::Receiver<LinkTable>,
    pub(crate) refusals: Arc<RefusalAggregator>,
    pub(crate) metrics: Metrics,
}

impl Gate {
    /// Who calls, when they may.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, which says nothing about who would be allowed.
    pub(crate) fn admit(&self, method: Method, extensions: &Extensions) -> Result<(SpiffeId, Caller), Status> {
        let id = peer_of(extensions)?;
        let linked = self.links.borrow().linked();
        if let Some(caller) = authorise(method, &id, &self.own, &linked) {
            return Ok((id, caller));
        }
        let reason = ByReason { reason: method.as_str().to_owned() };
        self.metrics.calls_refused.get_or_create(&reason).inc();
        tracing::warn!(peer = %id, method = method.as_str(), "a call was refused: not authorised");
        // Aggregated: a peer that asks again and again must not fill the spool.
        self.refusals.count(Refused {
            source: extensions.get::<PeerAddress>().map(|address| address.0.ip()),
            cause: "not_authorised",
            action: "control:call",
            destination_service: method.as_str(),
            source_spiffe_id: Some(id.as_str()),
            tls: "TLSv1.3",
        });
        Err(Status::permission_denied("not authorised"))
    }
}
