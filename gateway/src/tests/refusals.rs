//! Who is refused at the gateway's door, with the counter and the record of each.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use signet_mtls::alpn;
use signet_mtls::testing::{Ca, Forged, client_of_strangers};
use signet_spool::Kind;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::harness::{FORWARD_ALL, FRAUD, Gateway, LEDGER, WAIT};

/// Counter and record of one refusal.
async fn assert_refused(gateway: &Gateway, cause: &str, claimed: Option<&str>) {
    super::eventually(cause, || gateway.metrics.refusals(cause) == 1).await;
    let record = gateway.record(|r| r.kind == Kind::Refusal && r.reason == cause).await;
    assert_eq!((record.allow, record.action.as_str(), record.count), (false, "tls:handshake", 1), "{cause}");
    if let Some(claimed) = claimed {
        assert_eq!(record.source_spiffe_id.as_deref(), Some(claimed), "{cause}");
    }
}

async fn handshake(gateway: &Gateway, config: Arc<rustls::ClientConfig>) {
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    if let Ok(mut accepted) = signet_mtls::connect(config, stream, WAIT).await {
        let _ = tokio::time::timeout(WAIT, accepted.stream.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn strangers_and_forgers_are_refused_counted_and_recorded() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let (east, west) = (&gateway.east, &gateway.west);
    let now = OffsetDateTime::now_utc();
    let cases: Vec<(Forged, &str)> = vec![
        (Ca::new("other.example").forge(&["spiffe://other.example/ns/x/sa/y"], |_| {}), "unknown_trust_domain"),
        (east.forge(&[FRAUD], |_| {}), "wrong_trust_domain_root"),
        (west.forge(&[FRAUD], |p| p.not_after = now - Duration::from_secs(60)), "expired"),
        (west.forge(&[FRAUD, "spiffe://west.bank.example/ns/bank/sa/web"], |_| {}), "not_one_uri"),
        (
            west.forge(&[FRAUD], |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages.push(KeyUsagePurpose::KeyCertSign);
            }),
            "ca_leaf",
        ),
        // A good SVID, but of our own cluster: it has no business here.
        (east.forge(&[LEDGER], |_| {}), "not_allowed"),
    ];
    for (forged, cause) in cases {
        handshake(&gateway, forged.client_config(&[alpn::H2])).await;
        assert_refused(&gateway, cause, None).await;
    }
    let record = gateway.record(|r| r.reason == "wrong_trust_domain_root").await;
    assert_eq!(record.source_spiffe_id.as_deref(), Some(FRAUD));
    gateway.stop().await;
}

#[tokio::test]
async fn other_protocols_are_refused_counted_and_recorded() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let good = gateway.west.forge(&[FRAUD], |_| {});
    handshake(&gateway, client_of_strangers(None, &[alpn::H2], &[&rustls::version::TLS13])).await;
    assert_refused(&gateway, "no_certificate", None).await;
    handshake(&gateway, client_of_strangers(Some(&good), &[alpn::H2], &[&rustls::version::TLS12])).await;
    assert_refused(&gateway, "tls12", None).await;
    handshake(&gateway, client_of_strangers(Some(&good), &[], &[&rustls::version::TLS13])).await;
    assert_refused(&gateway, "alpn", Some(FRAUD)).await;
    let mut plain = TcpStream::connect(gateway.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _ = tokio::time::timeout(WAIT, plain.read_to_end(&mut Vec::new())).await;
    assert_refused(&gateway, "not_tls", None).await;
    gateway.stop().await;
}
