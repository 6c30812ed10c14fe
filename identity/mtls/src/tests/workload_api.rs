//! A source over a Workload API that restarts, rotates and withdraws.

use std::path::Path;
use std::pin::Pin;

use futures::Stream;
use rustls::pki_types::CertificateDer;
use signet_api::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use signet_api::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{FRAUD, WAIT, WEB};
use crate::testing::{Ca, id};
use crate::{IdentityError, IdentitySource, Svid};

type Answer<T> = Result<Response<T>, Status>;
type AnswerBundles = fn(&Request<X509BundlesRequest>) -> Answer<X509BundlesResponse>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A Workload API with the answers of a test.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) svids: Option<watch::Receiver<X509svidResponse>>,
    pub(super) bundles: Option<AnswerBundles>,
}

pub(super) fn routes(answers: Answers) -> tonic::service::Routes {
    tonic::service::Routes::new(SpiffeWorkloadApiServer::new(answers))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Answers {
    type FetchX509SVIDStream = Streamed<X509svidResponse>;
    type FetchX509BundlesStream = Streamed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Streamed<JwtBundlesResponse>;

    async fn fetch_x509svid(&self, _: Request<X509svidRequest>) -> Answer<Self::FetchX509SVIDStream> {
        let receiver = self.svids.clone().ok_or_else(|| Status::permission_denied("no identity"))?;
        let stream = futures::stream::unfold((receiver, true), |(mut receiver, first)| async move {
            if !first {
                receiver.changed().await.ok()?;
            }
            let message = receiver.borrow_and_update().clone();
            Some((Ok(message), (receiver, false)))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn fetch_x509_bundles(&self, request: Request<X509BundlesRequest>) -> Answer<Self::FetchX509BundlesStream> {
        let answer = self.bundles.ok_or_else(|| Status::unimplemented("not here"))?(&request)?.into_inner();
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(answer)]))))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Answer<JwtsvidResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn fetch_jwt_bundles(&self, _: Request<JwtBundlesRequest>) -> Answer<Self::FetchJWTBundlesStream> {
        Err(Status::unimplemented("not here"))
    }

    async fn validate_jwtsvid(&self, _: Request<ValidateJwtsvidRequest>) -> Answer<ValidateJwtsvidResponse> {
        Err(Status::unimplemented("not here"))
    }
}

fn message(svid: &Svid, own: &CertificateDer<'_>, federated: &[(&str, CertificateDer<'_>)]) -> X509svidResponse {
    X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: svid.chain.iter().flat_map(|cert| cert.to_vec()).collect(),
            x509_svid_key: svid.key_der().to_vec(),
            bundle: own.to_vec(),
            hint: "internal".to_owned(),
        }],
        federated_bundles: federated.iter().map(|(name, root)| ((*name).to_owned(), root.to_vec())).collect(),
        ..Default::default()
    }
}

fn agent(path: &Path, svids: watch::Receiver<X509svidResponse>) -> tokio::task::JoinHandle<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let incoming = futures::stream::unfold(listener, |listener| async move {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let answers = Answers { svids: Some(svids), ..Answers::default() };
        let _ = tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(answers))
            .serve_with_incoming(incoming)
            .await;
    })
}

async fn wait_for(source: &IdentitySource, what: &str, condition: impl Fn(&crate::Identity) -> bool) {
    let mut changes = source.watch();
    let waited = tokio::time::timeout(WAIT, changes.wait_for(|identity| condition(identity))).await;
    assert!(waited.is_ok(), "waited 5 s for {what}");
}

#[tokio::test]
async fn follows_the_agent_through_rotation_and_restart() {
    let (east, west) = (Ca::new("east.bank.example"), Ca::new("west.bank.example"));
    let path = std::env::temp_dir().join(format!("signet-mtls-{}.sock", std::process::id()));
    let root = east.certificate();
    let federated = [("spiffe://west.bank.example", west.certificate())];
    let (sender, receiver) = watch::channel(message(&east.issue(&id(WEB), WAIT), &root, &federated));
    let running = agent(&path, receiver);

    let address = format!("unix:{}", path.display());
    let connecting = IdentitySource::connect(&address, CancellationToken::new());
    let source = tokio::time::timeout(WAIT, connecting).await.expect("no SVID within 5 s").unwrap();
    let first = source.current();
    assert_eq!(first.svids.first().map(|svid| (&svid.id, svid.hint.as_str())), Some((&id(WEB), "internal")));
    assert_eq!(first.bundles.len(), 2);

    // Rotation, and withdrawal of the federated bundle: the message is the full state.
    sender.send_replace(message(&east.issue(&id(WEB), WAIT), &root, &[]));
    wait_for(&source, "the next SVID", |identity| identity.bundles.len() == 1).await;
    assert_ne!(source.current().svids.first().unwrap().chain, first.svids.first().unwrap().chain);

    running.abort();
    let _ = running.await;
    // Connections that tonic has accepted live on without their listener; the stream's end is what closes them.
    drop(sender);
    assert_eq!(source.current().svids.len(), 1, "what it had was lost with the agent");
    let (_sender, receiver) = watch::channel(message(&west.issue(&id(FRAUD), WAIT), &west.certificate(), &[]));
    let running = agent(&path, receiver);
    wait_for(&source, "the restarted agent", |identity| identity.svids.iter().any(|svid| svid.id == id(FRAUD))).await;
    running.abort();
    let _ = std::fs::remove_file(&path);
}

#[tokio::test]
async fn connecting_ends_when_it_is_cancelled_and_refuses_what_is_no_address() {
    let cancel = CancellationToken::new();
    cancel.cancel();
    let waiting = IdentitySource::connect("unix:/nonexistent/signet.sock", cancel).await;
    assert!(matches!(waiting.err(), Some(IdentityError::Cancelled(_))));
    let bad = IdentitySource::connect("carrier-pigeon", CancellationToken::new()).await;
    assert!(matches!(bad.err(), Some(IdentityError::Endpoint(_))));
}
