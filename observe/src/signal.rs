//! The signals that end a component.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the process is asked to end by SIGINT or SIGTERM.
///
/// # Cancel safety
/// Cancel safe; a signal that arrives while nobody waits is lost to this future, not to the next one's handler.
pub async fn shutdown_signal() {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "cannot listen for SIGTERM; only SIGINT ends this process in order");
            let _ = tokio::signal::ctrl_c().await;
            return;
        }
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "asked to end"),
        _ = tokio::signal::ctrl_c() => tracing::info!(signal = "SIGINT", "asked to end"),
    }
}
