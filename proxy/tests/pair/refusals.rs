//! What speaks to an inbound listener and must not be let in: refused, counted, recorded.

use std::time::Duration;

use signet_mtls::testing::{self, Ca};
use signet_mtls::{PeerRule, Select, alpn, client_config};
use signet_proxy::snapshot::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps;
use crate::harness::{HOST, LEDGER, Pair, TD, WEB, bundle, exchange, status, wait};

/// Shakes hands (TLS 1.3 tells the client of a refusal only afterwards) and reads until the server ends it.
async fn knock(pair: &Pair, tls: std::sync::Arc<rustls::ClientConfig>) -> usize {
    let stream = TcpStream::connect(pair.inbound).await.unwrap();
    let Ok(accepted) = signet_mtls::connect(tls, stream, Duration::from_secs(5)).await else { return 0 };
    let mut stream = accepted.stream;
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("an end in 5 s");
    answer.len()
}

async fn refused(pair: &Pair, cause: &str) {
    wait(&format!("refusal counted as {cause}"), || (pair.ledger.metrics.refusals(cause) > 0).then_some(())).await;
    let record = pair.ledger.audit.record(cause, |r| r.reason == cause).await;
    assert!(!record.allow);
    assert_eq!(record.action, "tls:handshake");
    assert!(record.count >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_counted_and_recorded() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let stranger = Ca::new("north.bank.example");
    let impostor = Ca::new("north.bank.example");
    let hour = |p: &mut rcgen::CertificateParams| {
        p.not_after = time::OffsetDateTime::now_utc() - Duration::from_secs(3600);
        p.not_before = time::OffsetDateTime::now_utc() - Duration::from_secs(7200);
    };
    let cases = [
        (stranger.forge(&["spiffe://north.bank.example/ns/bank/sa/web"], |_| {}), "unknown_trust_domain"),
        (impostor.forge(&[WEB], |_| {}), "wrong_trust_domain_root"),
        (pair.ca.forge(&[WEB], hour), "expired"),
        (pair.ca.forge(&[WEB, LEDGER], |_| {}), "not_one_uri"),
        (pair.ca.forge(&[WEB], |p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), "ca_leaf"),
    ];
    for (forged, cause) in cases {
        assert_eq!(knock(&pair, forged.client_config(&[alpn::HTTP1])).await, 0, "{cause}");
        refused(&pair, cause).await;
    }
    let nobody = testing::client_of_strangers(None, &[alpn::HTTP1], &[&rustls::version::TLS13]);
    assert_eq!(knock(&pair, nobody).await, 0);
    refused(&pair, "no_certificate").await;
    let old = testing::client_of_strangers(None, &[alpn::HTTP1], &[&rustls::version::TLS12]);
    assert_eq!(knock(&pair, old).await, 0);
    refused(&pair, "tls12").await;
    assert_eq!(reached.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_and_garbage_on_a_strict_port_are_refused() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: ledger\r\n\r\n"[..], &[0xff; 64]] {
        let answer = exchange(pair.inbound, bytes).await;
        assert!(!answer.contains("HTTP"), "{answer}");
    }
    refused(&pair, "not_tls").await;
    assert_eq!(reached.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alpn_that_contradicts_the_port_is_denied_by_name() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    for offered in [&[alpn::TCP][..], &[]] {
        let tls =
            client_config(&pair.web.source, Select::Workload, PeerRule::TrustDomain(TD.parse().unwrap()), offered);
        assert_eq!(knock(&pair, tls).await, 0);
    }
    let record = pair.ledger.audit.record("the denial", |r| r.reason == "protocol_mismatch").await;
    assert_eq!(record.source_spiffe_id.as_deref(), Some(WEB));
    assert_eq!(reached.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permissive_port_admits_plaintext_as_nobody_and_decides() {
    let (app, reached) = apps::http().await;
    let pair = Pair::with(Protocol::Http, 80, app, true).await;
    let answer = exchange(pair.inbound, b"GET / HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), 403, "{answer}");
    let record = pair.ledger.audit.record("the denial", |r| r.action == "http:GET").await;
    assert_eq!((record.source_spiffe_id, record.tls.as_str()), (None, "none"));
    assert_eq!(reached.count(), 0);
}

/// What was denied was not carried, and counts neither way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permissive_port_counts_what_it_carried_by_how_it_came() {
    let readers = r#"@id("anyone-reads") permit(principal, action in [Mesh::Action::"read"], resource);
        @id("anyone-connects") permit(principal, action == Mesh::Action::"tcp:connect", resource);"#;
    for (protocol, port) in [(Protocol::Http, 80), (Protocol::Tcp, 5432)] {
        let app = if protocol == Protocol::Tcp { apps::greeter().await.0 } else { apps::http().await.0 };
        let pair = Pair::with(protocol, port, app, true).await;
        pair.change(|s| s.bundle = Some(bundle(readers, 'b')));
        wait("new bundle", || (pair.ledger.metrics.snapshot_version.get() == 2).then_some(())).await;
        if protocol == Protocol::Tcp {
            let mut stream = TcpStream::connect(pair.inbound).await.unwrap();
            stream.read_exact(&mut [0; 6]).await.unwrap();
            assert_eq!(pair.ledger.metrics.coverage(), (0, 1));
            continue;
        }
        // In the relay, and (chunked) in the general server.
        for more in ["", "transfer-encoding: chunked\r\n"] {
            let body = if more.is_empty() { "" } else { "0\r\n\r\n" };
            for method in ["GET", "DELETE"] {
                let head = format!("{method} / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{more}\r\n{body}");
                let expected = if method == "GET" { 200 } else { 403 };
                assert_eq!(status(&exchange(pair.inbound, head.as_bytes()).await), expected, "{head}");
                assert_eq!(status(&exchange(pair.outbound, head.as_bytes()).await), expected, "{head}");
            }
        }
        assert_eq!(pair.ledger.metrics.coverage(), (2, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_with_another_identity_is_not_spoken_to() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    pair.change(|s| {
        let mut service = signet_proxy::snapshot::OutboundService::clone(&s.outbound[0]);
        service.spiffe_ids = vec![testing::id("spiffe://east.bank.example/ns/bank/sa/payments")];
        s.outbound = vec![std::sync::Arc::new(service)];
    });
    let refused = async {
        loop {
            let answer = crate::harness::call(pair.outbound, "GET", "http://ledger/", "").await;
            if status(&answer) == 502 {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), refused).await.expect("the change in force");
    assert_eq!(crate::harness::header(&answer, "x-signet-error"), Some("peer_identity"));
    assert!(reached.count() < 1000);
}
