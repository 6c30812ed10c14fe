//! The admin listener: `/livez`, `/readyz`, `/metrics`, `/config` and pages of a component's own. Loopback only, reading only, bounded.

mod readiness;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use readiness::{Condition, Readiness};

use crate::ObserveError;

/// More scrapers than this at once wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 32;
/// A connection that has sent no request head for this long is closed, idle keep-alive included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What is in flight when the component ends gets this long.
const DRAIN: Duration = Duration::from_millis(500);

/// Builder of the admin listener.
pub struct Admin {
    state: State,
}

struct State {
    registry: Arc<Mutex<Registry>>,
    config: serde_json::Value,
    in_force: Option<View>,
    pages: Vec<(&'static str, View)>,
    readiness: Readiness,
}

/// Something to show as it is now.
type View = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

impl Admin {
    /// Serves the metrics of `registry`.
    pub fn new(registry: Registry) -> Self {
        let registry = Arc::new(Mutex::new(registry));
        let (config, readiness) = (serde_json::Value::Null, Readiness::default());
        Self { state: State { registry, config, in_force: None, pages: Vec::new(), readiness } }
    }

    /// The registry, to add metrics of what comes up after the listener.
    pub fn registry(&self) -> Arc<Mutex<Registry>> {
        Arc::clone(&self.state.registry)
    }

    /// What `/config` shows. Secrets must be redacted by the caller, who knows them.
    #[must_use]
    pub fn config_json(mut self, redacted: serde_json::Value) -> Self {
        self.state.config = redacted;
        self
    }

    /// What `/config` shows beside that, under `in_force`: what came to the component while it ran. Like all that it shows
    /// without secrets.
    #[must_use]
    pub fn in_force(mut self, view: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.state.in_force = Some(Box::new(view));
        self
    }

    /// A page of the component's own: JSON at `path`, made anew for each reader.
    #[must_use]
    pub fn page(mut self, path: &'static str, view: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.state.pages.push((path, Box::new(view)));
        self
    }

    /// The conditions that `/readyz` reports; clone it into whatever knows one of them.
    pub fn readiness(&self) -> Readiness {
        self.state.readiness.clone()
    }

    /// Binds the listener.
    ///
    /// # Errors
    /// An address that is not loopback, or that is taken.
    pub async fn bind(self, address: SocketAddr) -> Result<BoundAdmin, ObserveError> {
        if !address.ip().is_loopback() {
            return Err(ObserveError::AdminNotLoopback(address));
        }
        let bind = |source| ObserveError::AdminBind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        Ok(BoundAdmin { listener, local, state: Arc::new(self.state) })
    }
}

/// An admin listener that has its port and is not served yet.
pub struct BoundAdmin {
    listener: TcpListener,
    local: SocketAddr,
    state: Arc<State>,
}

impl BoundAdmin {
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `cancel`, then ends its connections.
    pub async fn run(self, cancel: CancellationToken) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accept = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (self.listener.accept().await, permit)
            };
            let (stream, permit) = tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                (accepted, permit) = accept => match accepted {
                    Ok((stream, _)) => (stream, permit),
                    Err(error) => {
                        tracing::warn!(%error, "admin listener could not accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let state = Arc::clone(&self.state);
            let cancel = cancel.clone();
            connections.spawn(async move {
                let _permit = permit;
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(16 * 1024)
                    .serve_connection(
                        TokioIo::new(stream),
                        service_fn(move |request| {
                            let answer = answer(&state, &request);
                            async move { Ok::<_, std::convert::Infallible>(answer) }
                        }),
                    );
                tokio::pin!(connection);
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = cancel.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        let _ = tokio::time::timeout(DRAIN, connection).await;
                    }
                }
            });
        }
        while connections.join_next().await.is_some() {}
    }
}

fn answer<B>(state: &State, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "the admin listener only reads; use GET\n");
    }
    match request.uri().path() {
        "/livez" => reply(StatusCode::OK, "text/plain", "ok\n"),
        "/readyz" => {
            let (ready, text) = state.readiness.report();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            reply(status, "text/plain", text)
        }
        "/metrics" => {
            let mut text = String::new();
            // Registering cannot leave the registry half written, so a poisoned lock is still good to read.
            let registry = state.registry.lock().unwrap_or_else(PoisonError::into_inner);
            match prometheus_client::encoding::text::encode(&mut text, &registry) {
                Ok(()) => reply(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
                Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "metrics could not be encoded\n"),
            }
        }
        "/config" => {
            let mut config = state.config.clone();
            if let (Some(view), Some(fields)) = (&state.in_force, config.as_object_mut()) {
                fields.insert("in_force".to_owned(), view());
            }
            json(&config)
        }
        path => match state.pages.iter().find(|(known, _)| *known == path) {
            Some((_, view)) => json(&view()),
            None => {
                let pages: String = state.pages.iter().map(|(page, _)| format!(", {page}")).collect();
                let text = format!("there are /livez, /readyz, /metrics, /config{pages} here\n");
                reply(StatusCode::NOT_FOUND, "text/plain", text)
            }
        },
    }
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => reply(StatusCode::OK, "application/json", text + "\n"),
        Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "this could not be encoded\n"),
    }
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
