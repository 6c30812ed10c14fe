//! gRPC over mTLS: the peer is known to the service, refusals are told, connections outlive restarts of the server.

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use signet_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient as Client;
use signet_api::workload::{X509BundlesRequest, X509BundlesResponse};

use super::workload_api::{Answers, routes};
use super::{LEDGER, WAIT, WEB};
use crate::testing::{self, Ca, client_of_strangers, id};
use crate::{PeerRule, Refusal, Select, alpn, grpc};

fn ask(request: &Request<X509BundlesRequest>) -> Result<Response<X509BundlesResponse>, Status> {
    let peer = request.extensions().get::<grpc::Peer>().map(|peer| peer.0.to_string());
    let name = peer.ok_or_else(|| Status::unauthenticated("no peer"))?;
    Ok(Response::new(X509BundlesResponse { bundles: [(name, Vec::new())].into(), ..Default::default() }))
}

#[tokio::test]
async fn a_service_knows_its_peer_and_a_channel_survives_the_servers_restart() {
    let east = Ca::new("east.bank.example");
    let source = testing::source(&[&east], &[id(LEDGER)]);
    let tls = crate::server_config(&source, Select::Only, &[alpn::GRPC]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&refusals);
    let options = grpc::ServeOptions {
        on_refusal: Some(Arc::new(move |_, error| seen.lock().unwrap().push(error.refusal))),
        identity: Some(source.clone()),
    };
    let client = crate::client_config(
        &testing::source(&[&east], &[id(WEB)]),
        Select::Only,
        PeerRule::AnyOf(vec![id(LEDGER)]),
        &[alpn::GRPC],
    );
    let mut client = Client::new(grpc::channel(&address.to_string(), client));

    let cancel = CancellationToken::new();
    let served = tokio::spawn(grpc::serve_with(
        listener,
        Arc::clone(&tls),
        routes(Answers { bundles: Some(ask), ..Answers::default() }),
        options,
        cancel.clone(),
    ));
    let mut answer = client.fetch_x509_bundles(X509BundlesRequest::default()).await.unwrap().into_inner();
    let message = answer.message().await.unwrap().unwrap();
    assert_eq!(message.bundles.keys().collect::<Vec<_>>(), [WEB]);

    let stranger = client_of_strangers(None, &[alpn::GRPC], &[&rustls::version::TLS13]);
    super::tls_client(stranger, tokio::net::TcpStream::connect(address).await.unwrap()).await;
    let deadline = std::time::Instant::now() + WAIT;
    while refusals.lock().unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "no refusal was told within 5 s");
        tokio::task::yield_now().await;
    }
    assert_eq!(refusals.lock().unwrap().as_slice(), [Refusal::NoCertificate]);

    drop(answer);
    cancel.cancel();
    tokio::time::timeout(WAIT, served).await.expect("did not end within 5 s").unwrap().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let cancel = CancellationToken::new();
    let again = routes(Answers { bundles: Some(ask), ..Answers::default() });
    let served = tokio::spawn(grpc::serve(listener, tls, again, cancel.clone()));
    let deadline = std::time::Instant::now() + WAIT;
    while client.fetch_x509_bundles(X509BundlesRequest::default()).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the channel did not reconnect within 5 s");
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    tokio::time::timeout(WAIT, served).await.expect("did not end within 5 s").unwrap().unwrap();
}
