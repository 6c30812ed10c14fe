//! Listening and stopping, the same for each of the bank's HTTP services.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn serve(listen: SocketAddr, router: Router) -> anyhow::Result<()> {
    let listener = bind(listen).await?;
    axum::serve(listener, router).with_graceful_shutdown(stopped()).await.context("the HTTP server ended")
}

pub(crate) async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on `{listen}`; is another process using the port?"))
}

/// Resolves at SIGINT or SIGTERM. Without a signal handler it never resolves.
pub(crate) async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
