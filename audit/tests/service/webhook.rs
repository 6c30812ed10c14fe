//! A system outside of the mesh that takes alerts: HTTPS with a certificate for `localhost`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::PrivatePkcs8KeyDer;
use signet_mtls::testing::Ca;
use tokio::net::{TcpListener, TcpStream};
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

/// What it was sent: the signature header and the body.
type Taken = Arc<Mutex<Vec<(String, Bytes)>>>;

/// A webhook that refuses the first call and takes the rest.
pub struct Webhook {
    pub address: SocketAddr,
    pub authorities: PathBuf,
    calls: Taken,
    task: JoinHandle<()>,
}

impl Webhook {
    pub async fn start(directory: &Path) -> Self {
        let (authorities, acceptor) = tls(directory);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Taken::default();
        let taken = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serve(&acceptor, stream, &taken).await;
            }
        });
        Self { address, authorities, calls, task }
    }

    /// The alerts that were taken, each with a signature that holds: cause, subject and state.
    pub fn alerts(&self, secret: &str) -> Vec<(String, String, String)> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let calls = self.calls.lock();
        // The first was refused and came again.
        let alerts = calls.iter().skip(1).map(|(signature, body)| {
            let (at, made) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
            let signed = [format!("{at}.").as_bytes(), body].concat();
            hmac::verify(&key, &signed, &hex::decode(made).unwrap()).unwrap();
            let alert: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!(alert["version"], "signet.alert/v1");
            let text = |field: &str| alert[field].as_str().unwrap().to_owned();
            (text("cause"), text("subject"), text("state"))
        });
        alerts.collect()
    }

    /// What the refused call said, and the one that followed it.
    pub fn first_two(&self) -> Option<(Bytes, Bytes)> {
        let calls = self.calls.lock();
        Some((calls.first()?.1.clone(), calls.get(1)?.1.clone()))
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(acceptor: &TlsAcceptor, stream: TcpStream, taken: &Taken) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let answer = service_fn(|request: Request<Incoming>| async move {
        let signature = request.headers().get("signet-signature").unwrap().to_str().unwrap().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let first = {
            let mut calls = taken.lock();
            calls.push((signature, body));
            calls.len() == 1
        };
        let status = if first { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT };
        let mut answer = Response::new(Full::<Bytes>::default());
        *answer.status_mut() = status;
        Ok::<_, hyper::Error>(answer)
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}
