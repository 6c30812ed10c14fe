//! A gateway in this process, with real sockets, a real spool and an audit service that keeps what it is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod harness;
mod refusals;
mod replicas;

use std::time::Duration;

use harness::{FORWARD_ALL, FRAUD, Gateway, LEDGER_AUTHORITY, WAIT, echo, eventually, says};
use http::{Method, StatusCode};
use signet_mtls::alpn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn carries_inner_mtls_that_it_cannot_read_and_records_first() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (response, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    assert_eq!(response.status, StatusCode::OK);

    let mut inner = gateway.inner_mtls(tunnel.unwrap()).await;
    assert_eq!(inner.peer.as_ref().unwrap().as_str(), harness::LEDGER);
    assert!(inner.tls.contains("X25519MLKEM768"), "{}", inner.tls);
    echo(&mut inner.stream, &vec![7; 300_000]).await;

    let record = gateway.record(|r| r.action == "gateway:forward").await;
    assert_eq!(record.id.to_string(), response.decision.unwrap());
    assert!(record.allow);
    assert_eq!(record.source_spiffe_id.as_deref(), Some(FRAUD));
    assert_eq!(record.destination_spiffe_id.as_deref(), Some(harness::LEDGER));
    assert_eq!(record.destination_service, harness::LEDGER_SERVICE);
    assert_eq!(record.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(record.tls.starts_with("TLSv1.3 X25519MLKEM768"), "{}", record.tls);
    assert!(!record.policy_ids.is_empty() && !record.policy_commit.is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn says_whether_it_would_take_tunnels_and_decides_nothing_by_that() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    assert_eq!(sidecar.send(Method::OPTIONS, "https://gateway/").await.status, StatusCode::NO_CONTENT);
    gateway.no_policy().await;
    assert_eq!(sidecar.send(Method::OPTIONS, "https://gateway/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sidecar.send(Method::GET, "https://gateway/").await.status, StatusCode::METHOD_NOT_ALLOWED);
    gateway.recorded(|record| record.action == "http:parse", 1).await;
    gateway.recorded(|record| record.action == "gateway:forward", 0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn denies_what_policy_does_not_permit_before_an_endpoint_hears_of_it() {
    let gateway = Gateway::start("@id(\"nobody\") forbid(principal, action, resource);").await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (response, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    assert!(tunnel.is_none());
    assert_eq!(response.status, StatusCode::FORBIDDEN);
    let record = gateway.record(|r| r.action == "gateway:forward").await;
    assert_eq!(record.id.to_string(), response.decision.unwrap());
    assert!(!record.allow);
    assert_eq!(gateway.endpoint_connections(), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn reaches_exported_services_only_and_never_an_address() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let address = gateway.endpoint.to_string();
    for authority in ["reporting.bank.svc.clusterset.local:80", address.as_str(), "ledger.bank.svc.clusterset.local:22"]
    {
        let (response, tunnel) = sidecar.connect(authority).await;
        assert!(tunnel.is_none());
        assert_eq!(response.status, StatusCode::FORBIDDEN, "{authority}");
        let record = gateway.record(|r| r.destination_service == authority).await;
        assert_eq!((record.allow, record.reason.as_str()), (false, "not_exported"));
        assert_eq!(record.id.to_string(), response.decision.unwrap());
    }
    // Names compare without case.
    let (response, _tunnel) = sidecar.connect("Ledger.bank.SVC.clusterset.local:80").await;
    assert_eq!(response.status, StatusCode::OK);
    gateway.stop().await;
}

/// What an export leads to is an address of its own cluster. If that is the gateway again, the call gets nowhere and no
/// further: whoever is there has to prove that it is the service.
#[tokio::test]
async fn an_export_that_leads_to_the_gateway_itself_is_decided_once_and_makes_no_loop() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    gateway.endpoints(&[gateway.address]).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (response, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    assert_eq!(response.status, StatusCode::OK);
    for protocol in [alpn::TCP, alpn::H2] {
        let (_, again) = sidecar.connect(LEDGER_AUTHORITY).await;
        assert!(gateway.try_inner_mtls(again.unwrap(), protocol).await.is_err());
    }
    drop(tunnel);
    // Its own connection and one to itself for each tunnel, at most; nothing that grows by itself.
    let accepted = gateway.metrics.inbound.connections_total.get();
    assert!(accepted <= 4, "{accepted} connections");
    // One decision for each that was asked for.
    gateway.recorded(|r| r.action == "gateway:forward", 3).await;
    gateway.stop().await;
}

#[tokio::test]
async fn takes_connect_only() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let response = sidecar.send(Method::GET, "http://ledger.bank.svc.clusterset.local/accounts/1").await;
    assert_eq!(response.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(gateway.metrics.refusals("not_connect"), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn forwards_nothing_but_a_client_hello_of_the_mesh() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let foreign = signet_mtls::testing::client_of_strangers(None, &[b"http/1.1"], &[&rustls::version::TLS13]);
    let mut hello = Vec::new();
    let mut client = rustls::ClientConnection::new(foreign, signet_mtls::server_name()).unwrap();
    client.write_tls(&mut hello).unwrap();
    for (bytes, cause) in [
        (b"GET /accounts/1 HTTP/1.1\r\nhost: ledger\r\n\r\n".as_slice(), "not_tls"),
        (hello.as_slice(), "alpn"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "protocol"),
    ] {
        let (_, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
        let mut tunnel = tunnel.unwrap();
        tunnel.write_all(bytes).await.unwrap();
        let mut got = Vec::new();
        let ended = tokio::time::timeout(WAIT, tunnel.read_to_end(&mut got)).await;
        assert!(ended.is_ok(), "the tunnel stayed open for {cause}");
        assert_eq!(got, b"", "{cause}");
        assert_eq!(gateway.metrics.refusals(cause), 1, "{cause}");
        let record = gateway.record(|r| r.kind == signet_spool::Kind::Refusal && r.reason == cause).await;
        assert_eq!(record.destination_service, harness::LEDGER_SERVICE);
    }
    assert_eq!(gateway.endpoint_bytes(), 0, "an endpoint got bytes");
    gateway.stop().await;
}

#[tokio::test]
async fn closes_tunnels_that_a_new_policy_denies_and_records_it() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (opened, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    let mut inner = gateway.inner_mtls(tunnel.unwrap()).await;
    echo(&mut inner.stream, b"before").await;

    // A change that still permits leaves the tunnel alone.
    gateway.policy("@id(\"other\") permit(principal, action, resource);", true).await;
    echo(&mut inner.stream, b"still").await;

    gateway.policy("@id(\"stop\") forbid(principal, action, resource);", true).await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(WAIT, inner.stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the tunnel stayed open for 5 s");
    let record = gateway.record(|r| r.action == "gateway:forward" && !r.allow).await;
    assert_eq!(record.policy_ids.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["stop"]);
    assert!(record.detail.unwrap().contains(&opened.decision.unwrap()));
    gateway.stop().await;
}

#[tokio::test]
async fn closes_tunnels_to_what_is_no_longer_exported() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (_, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    let mut inner = gateway.inner_mtls(tunnel.unwrap()).await;
    gateway.policy(FORWARD_ALL, false).await;
    assert!(says(&mut inner.stream).await.is_none(), "the tunnel stayed open");
    let record = gateway.record(|r| !r.allow).await;
    assert_eq!(record.reason, "not_exported");
    gateway.stop().await;
}

#[tokio::test]
async fn closes_tunnels_and_connections_of_a_trust_domain_that_is_no_longer_linked() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (_, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    let mut inner = gateway.inner_mtls(tunnel.unwrap()).await;
    gateway.unlink();
    assert!(says(&mut inner.stream).await.is_none(), "the tunnel stayed open");
    let record = gateway.record(|r| !r.allow).await;
    assert_eq!(record.reason, "trust_withdrawn");
    eventually("the connection is closed", || sidecar.is_closed()).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_stop_the_others() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (_, stuck) = sidecar.connect(LEDGER_AUTHORITY).await;
    let mut stuck = gateway.inner_mtls(stuck.unwrap()).await;
    // The echo comes back and is never read: first our windows fill, then the gateway's.
    let flood = async {
        let chunk = vec![0; 64 * 1024];
        while stuck.stream.write_all(&chunk).await.is_ok() {}
    };
    assert!(tokio::time::timeout(Duration::from_millis(500), flood).await.is_err(), "nothing held the flood back");
    let (_, free) = sidecar.connect(LEDGER_AUTHORITY).await;
    let mut free = gateway.inner_mtls(free.unwrap()).await;
    echo(&mut free.stream, &vec![1; 300_000]).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_drain_lets_tunnels_finish_and_then_closes_them() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (_, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    let mut inner = gateway.inner_mtls(tunnel.unwrap()).await;
    gateway.cancel.cancel();
    echo(&mut inner.stream, b"during the drain").await;
    let address = gateway.address;
    gateway.stop().await;
    assert!(says(&mut inner.stream).await.is_none(), "the tunnel outlived the drain");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the listener outlived the drain");
}

#[tokio::test]
async fn an_idle_tunnel_is_closed() {
    let gateway = Gateway::start_with(FORWARD_ALL, Duration::from_millis(200)).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let (_, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    let mut inner = gateway.inner_mtls(tunnel.unwrap()).await;
    assert!(says(&mut inner.stream).await.is_none(), "the tunnel stayed open");
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_working_endpoint_the_answer_is_503_and_another_is_tried_first() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    let dead = harness::dead_address().await;
    gateway.endpoints(&[dead, gateway.endpoint]).await;
    for _ in 0..8 {
        let (response, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
        assert_eq!(response.status, StatusCode::OK);
        drop(tunnel);
    }
    gateway.endpoints(&[dead]).await;
    let (response, _) = sidecar.connect(LEDGER_AUTHORITY).await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.decision.is_some());
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_policy_bundle_everything_is_denied() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let mut sidecar = gateway.sidecar(FRAUD).await;
    gateway.no_policy().await;
    let (response, tunnel) = sidecar.connect(LEDGER_AUTHORITY).await;
    assert_eq!((response.status, tunnel.is_none()), (StatusCode::FORBIDDEN, true));
    assert!(gateway.offers(alpn::H2).await, "the gateway stopped to listen");
    gateway.stop().await;
}
