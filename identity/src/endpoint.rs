//! The bundle endpoint, profile `https_spiffe`: TLS 1.3 with the server's SVID, no client certificate, `GET` of any path
//! gives the own trust domain's bundle document.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use signet_mtls::{IdentitySource, Select};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::bundle::TrustBundle;

/// More than this wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `cancel`.
pub(crate) async fn serve(
    listener: TcpListener,
    source: &IdentitySource,
    bundle: watch::Receiver<Arc<TrustBundle>>,
    cancel: CancellationToken,
) -> io::Result<()> {
    let tls = tls_config(source)?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (accepted, permit) = accept => match accepted {
                Ok((stream, address)) => {
                    let (tls, bundle, cancel) = (Arc::clone(&tls), bundle.clone(), cancel.clone());
                    connections.spawn(async move {
                        let _permit = permit;
                        tokio::select! {
                            () = cancel.cancelled() => {}
                            ended = connection(stream, tls, bundle) => if let Err(error) = ended {
                                tracing::debug!(%address, error, "a bundle endpoint connection ended badly");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "bundle endpoint could not accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    connections.shutdown().await;
    Ok(())
}

/// The mesh's own server configuration, without asking for a client certificate: a partner that has no relationship with
/// us yet has none that we could verify.
fn tls_config(source: &IdentitySource) -> io::Result<Arc<ServerConfig>> {
    let mesh = signet_mtls::server_config_optional_client(source, Select::Component, &[b"http/1.1"]);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(mesh.crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&mesh.cert_resolver));
    config.alpn_protocols.clone_from(&mesh.alpn_protocols);
    config.session_storage = Arc::clone(&mesh.session_storage);
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

async fn connection(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    bundle: watch::Receiver<Arc<TrustBundle>>,
) -> Result<(), String> {
    let accepted =
        signet_mtls::accept(tls, stream, HANDSHAKE).await.map_err(|error| signet_observe::error_chain(&error))?;
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answer(request.method(), &bundle.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(accepted.stream), service)
        .await
        .map_err(|error| signet_observe::error_chain(&error))
}

fn answer(method: &Method, bundle: &TrustBundle) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", b"use GET\n".to_vec());
    }
    match bundle.to_document() {
        Ok(document) => reply(StatusCode::OK, "application/json", document),
        Err(error) => {
            tracing::error!(%error, "the own bundle cannot be published");
            reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", b"the bundle cannot be published\n".to_vec())
        }
    }
}

fn reply(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
