//! Connections refused before authentication: counted exactly, recorded in aggregate on a quota of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use signet_mtls::{Refusal, SpiffeId};
use signet_spool::{RefusalAggregator, Refused};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Counts and records refusals. Clones share it.
#[derive(Clone)]
pub struct Refusals {
    metrics: Arc<Metrics>,
    records: Option<Arc<RefusalAggregator>>,
}

impl Refusals {
    /// Without an aggregator refusals are only counted; everything else is denied then anyway.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, records: Option<Arc<RefusalAggregator>>) -> Self {
        Self { metrics, records }
    }

    /// A TLS handshake that was refused.
    pub fn handshake(&self, peer: SocketAddr, cause: Refusal, service: &str) {
        let tls = match cause {
            Refusal::NotTls => "none",
            _ => "",
        };
        self.refused(peer, cause.as_str(), "tls:handshake", service, None, tls);
    }

    /// Anything else that was refused before there was a call to decide about.
    pub fn refused(
        &self,
        peer: SocketAddr,
        cause: &str,
        action: &str,
        service: &str,
        id: Option<&SpiffeId>,
        tls: &str,
    ) {
        self.metrics.refused(cause);
        tracing::debug!(%peer, cause, action, service, "refused");
        if let Some(records) = &self.records {
            records.count(Refused {
                source: Some(peer.ip()),
                cause,
                action,
                destination_service: service,
                source_spiffe_id: id.map(SpiffeId::as_str),
                tls,
            });
        }
    }

    /// Writes the aggregates until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        if let Some(records) = &self.records {
            records.run(cancel).await;
        }
    }
}
