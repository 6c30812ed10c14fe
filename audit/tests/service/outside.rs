//! Systems outside of the mesh: TLS with a certificate for `localhost`, and HTTPS over it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivatePkcs8KeyDer;
use signet_mtls::testing::Ca;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Who vouches for the server, as a PEM file in `directory`; and what it accepts connections with.
pub fn tls(directory: &Path) -> (PathBuf, TlsAcceptor) {
    let ca = Ca::new("outside.example");
    let server = ca.forge(&[], |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    });
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(server.chain, PrivatePkcs8KeyDer::from(server.key).into())
        .unwrap();
    let authorities = directory.join("authorities.pem");
    let pem = STANDARD.encode(ca.certificate());
    std::fs::write(&authorities, format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n")).unwrap();
    (authorities, TlsAcceptor::from(Arc::new(config)))
}

/// A file that its owner alone reads.
pub fn secret(directory: &Path, name: &str, content: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let file = directory.join(name);
    std::fs::write(&file, content).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// An HTTPS server.
pub struct Https {
    pub address: SocketAddr,
    pub authorities: PathBuf,
    task: JoinHandle<()>,
}

impl Https {
    /// Answers each request with what `answer` makes of its head and body.
    pub async fn start(
        directory: &Path,
        answer: impl Fn(&Parts, Bytes) -> (StatusCode, String) + Send + Sync + 'static,
    ) -> Self {
        let (authorities, acceptor) = tls(directory);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = Arc::clone(&answer);
                        async move {
                            let (head, body) = request.into_parts();
                            let (status, text) = answer(&head, body.collect().await?.to_bytes());
                            let mut response = Response::new(Full::new(Bytes::from(text)));
                            *response.status_mut() = status;
                            Ok::<_, hyper::Error>(response)
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, authorities, task }
    }

    /// `path` of this server, by the name in its certificate.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.task.abort();
    }
}
