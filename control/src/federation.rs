//! Follows the identity server's list of linked clusters.
//!
//! While the identity server is away, the list that is known stays.

use std::time::Duration;

use signet_api::identity::ListFederationRequest;
use signet_api::identity::operator_client::OperatorClient;
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, TrustDomain, alpn, client_config, grpc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::links::LinkTable;

/// Writes relationships into the link table.
pub(crate) struct FederationWatch {
    /// Ours.
    pub(crate) own: TrustDomain,
    /// `host:port` of the identity server.
    pub(crate) address: String,
    /// Presented to it.
    pub(crate) identity: IdentitySource,
    /// Where relationships go.
    pub(crate) table: watch::Sender<LinkTable>,
}

impl FederationWatch {
    /// Follows until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        let mut told = String::new();
        loop {
            let error = tokio::select! {
                () = cancel.cancelled() => return,
                error = self.follow(&mut backoff) => error,
            };
            // Once per cause: an identity server that is away for an hour is one line.
            if error != told {
                tracing::warn!(error, "the identity server cannot be asked for linked clusters; those known stay");
                told = error;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
    }

    async fn follow(&self, backoff: &mut Backoff) -> String {
        let server = match SpiffeId::component(&self.own, "identity") {
            Ok(server) => server,
            Err(error) => return error.to_string(),
        };
        let rule = PeerRule::AnyOf(vec![server]);
        let tls = client_config(&self.identity, Select::Component, rule, &[alpn::GRPC]);
        let mut api = OperatorClient::new(grpc::channel(&self.address, tls));
        let mut states = match api.watch_federation(ListFederationRequest {}).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        loop {
            let state = match states.message().await {
                Ok(Some(state)) => state,
                Ok(None) => return "the stream ended".to_owned(),
                Err(status) => return status.message().to_owned(),
            };
            backoff.reset();
            self.table.send_if_modified(|table| {
                let before = table.addresses();
                for reason in table.set_relationships(&self.own, &state.relationships) {
                    tracing::warn!("a link cannot be used: {reason}");
                }
                let changed = table.addresses() != before;
                if changed {
                    tracing::info!(linked = table.linked().len(), "linked clusters changed");
                }
                changed
            });
        }
    }
}
