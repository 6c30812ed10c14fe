//! Handshakes over real sockets: what is let in, and the cause of each refusal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod grpc;
mod workload_api;

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::testing::{self, Ca, Forged, client_of_strangers, id};
use crate::{HandshakeError, IdentitySource, PeerRule, Refusal, Select, SpiffeId, alpn};

const WAIT: Duration = Duration::from_secs(5);
const WEB: &str = "spiffe://east.bank.example/ns/bank/sa/web";
const LEDGER: &str = "spiffe://east.bank.example/ns/bank/sa/ledger";
const FRAUD: &str = "spiffe://west.bank.example/ns/bank/sa/fraud";

struct Done {
    peer: Option<SpiffeId>,
    alpn: Vec<u8>,
    tls: String,
}

/// Runs the server's side once against `client`, which gets the connected stream.
async fn server_sees<F: Future<Output = ()>>(
    config: Arc<rustls::ServerConfig>,
    client: impl FnOnce(TcpStream) -> F,
) -> Result<Done, HandshakeError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let accepted = crate::accept(config, stream, WAIT).await;
        match accepted {
            Ok(mut accepted) => {
                let _ = accepted.stream.write_all(b"hello").await;
                let _ = accepted.stream.shutdown().await;
                Ok(Done { peer: accepted.peer, alpn: accepted.alpn, tls: accepted.tls })
            }
            Err(error) => Err(error),
        }
    };
    let (seen, ()) = tokio::join!(server, async { client(TcpStream::connect(address).await.unwrap()).await });
    seen
}

/// A client that handshakes and reads, whatever comes of it.
async fn tls_client(config: Arc<rustls::ClientConfig>, stream: TcpStream) {
    if let Ok(mut accepted) = crate::connect(config, stream, WAIT).await {
        let mut text = Vec::new();
        let _ = accepted.stream.read_to_end(&mut text).await;
    }
}

fn east_server(cas: &[&Ca]) -> Arc<rustls::ServerConfig> {
    crate::server_config(&testing::source(cas, &[id(LEDGER)]), Select::Only, &[alpn::H2])
}

async fn refused(server: Arc<rustls::ServerConfig>, client: &Forged) -> HandshakeError {
    let config = client.client_config(&[alpn::H2]);
    match server_sees(server, |stream| tls_client(config, stream)).await {
        Ok(_) => panic!("the handshake was accepted"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn agrees_on_tls13_with_the_hybrid_key_exchange_and_knows_both_ids() {
    let east = Ca::new("east.bank.example");
    let client = crate::client_config(
        &testing::source(&[&east], &[id(WEB)]),
        Select::Workload,
        PeerRule::AnyOf(vec![id(LEDGER)]),
        &[alpn::H2],
    );
    let seen = server_sees(east_server(&[&east]), |stream| async move {
        let mut accepted = crate::connect(client, stream, WAIT).await.unwrap();
        assert_eq!(accepted.peer, Some(id(LEDGER)));
        let mut text = String::new();
        accepted.stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    })
    .await
    .unwrap();
    assert_eq!(seen.peer, Some(id(WEB)));
    assert_eq!(seen.alpn, alpn::H2);
    assert!(seen.tls.starts_with("TLSv1.3 X25519MLKEM768 TLS13_"), "{}", seen.tls);
}

#[tokio::test]
async fn refuses_certificates_with_their_cause() {
    let (east, west) = (Ca::new("east.bank.example"), Ca::new("west.bank.example"));
    let now = OffsetDateTime::now_utc();
    let cases: Vec<(&str, Forged, Refusal)> = vec![
        (
            "unknown trust domain",
            Ca::new("other.example").forge(&["spiffe://other.example/x"], |_| {}),
            Refusal::UnknownTrustDomain,
        ),
        ("east's ID by west's root", west.forge(&[WEB], |_| {}), Refusal::WrongTrustDomainRoot),
        ("west's ID by east's root", east.forge(&[FRAUD], |_| {}), Refusal::WrongTrustDomainRoot),
        ("a look-alike root", Ca::new("east.bank.example").forge(&[WEB], |_| {}), Refusal::WrongTrustDomainRoot),
        ("expired", east.forge(&[WEB], |p| p.not_after = now - Duration::from_secs(60)), Refusal::Expired),
        ("not yet valid", east.forge(&[WEB], |p| p.not_before = now + Duration::from_secs(600)), Refusal::NotYetValid),
        ("two URI SANs", east.forge(&[WEB, LEDGER], |_| {}), Refusal::NotOneUri),
        ("no URI SAN", east.forge(&[], |_| {}), Refusal::NotOneUri),
        (
            "a CA",
            east.forge(&[WEB], |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages.push(KeyUsagePurpose::KeyCertSign);
            }),
            Refusal::CaLeaf,
        ),
        (
            "may sign certificates",
            east.forge(&[WEB], |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            Refusal::CaLeaf,
        ),
        ("may not sign", east.forge(&[WEB], |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), Refusal::KeyUsage),
        ("no key usage", east.forge(&[WEB], |p| p.key_usages = vec![]), Refusal::KeyUsage),
        ("the trust domain's own ID", east.forge(&["spiffe://east.bank.example"], |_| {}), Refusal::BadSpiffeId),
        ("no SPIFFE ID", east.forge(&["https://east.bank.example/web"], |_| {}), Refusal::BadSpiffeId),
    ];
    for (what, client, cause) in cases {
        let error = refused(east_server(&[&east, &west]), &client).await;
        assert_eq!(error.refusal, cause, "{what}: {error:?}");
    }
}

#[tokio::test]
async fn names_the_claimed_id_of_a_refused_peer() {
    let (east, west) = (Ca::new("east.bank.example"), Ca::new("west.bank.example"));
    let error = refused(east_server(&[&east, &west]), &west.forge(&[WEB], |_| {})).await;
    assert_eq!(error.claimed, Some(id(WEB)));
}

#[tokio::test]
async fn refuses_clients_without_certificate_with_tls12_plaintext_or_silence() {
    let east = Ca::new("east.bank.example");
    let anonymous = client_of_strangers(None, &[alpn::H2], &[&rustls::version::TLS13]);
    let error = server_sees(east_server(&[&east]), |s| tls_client(anonymous, s)).await.err().unwrap();
    assert_eq!(error.refusal, Refusal::NoCertificate);

    let forged = east.forge(&[WEB], |_| {});
    let old = client_of_strangers(Some(&forged), &[alpn::H2], &[&rustls::version::TLS12]);
    let error = server_sees(east_server(&[&east]), |s| tls_client(old, s)).await.err().unwrap();
    assert_eq!(error.refusal, Refusal::Tls12);

    for text in
        [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x01\x02\x03\x04\x05"]
    {
        let error = server_sees(east_server(&[&east]), |mut stream| async move {
            stream.write_all(text).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await
        .err()
        .unwrap();
        assert_eq!(error.refusal, Refusal::NotTls, "{error:?}");
    }

    let other = client_of_strangers(Some(&forged), &[b"h3"], &[&rustls::version::TLS13]);
    let error = server_sees(east_server(&[&east]), |s| tls_client(other, s)).await.err().unwrap();
    assert_eq!(error.refusal, Refusal::Alpn);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let error = crate::accept(east_server(&[&east]), stream, Duration::from_millis(20)).await.err().unwrap();
    assert_eq!(error.refusal, Refusal::Timeout);
}

#[tokio::test]
async fn a_client_refuses_a_server_it_does_not_expect() {
    let (east, west) = (Ca::new("east.bank.example"), Ca::new("west.bank.example"));
    let source = testing::source(&[&east, &west], &[id(WEB)]);
    for (server, rule, cause) in [
        (testing::source(&[&east], &[id(LEDGER)]), PeerRule::AnyOf(vec![id(FRAUD)]), Refusal::NotAllowed),
        (
            IdentitySource::fixed(crate::IdentityMaterial {
                svids: vec![west.issue(&id(LEDGER), WAIT)],
                bundles: testing::material(&[&east], &[]).bundles,
            }),
            PeerRule::AnyOf(vec![id(LEDGER)]),
            Refusal::WrongTrustDomainRoot,
        ),
    ] {
        let client = crate::client_config(&source, Select::Only, rule, &[alpn::H2]);
        let server = crate::server_config(&server, Select::Only, &[alpn::H2]);
        let _ = server_sees(server, |stream| async move {
            let error = crate::connect(client, stream, WAIT).await.err().unwrap();
            assert_eq!(error.refusal, cause);
        })
        .await;
    }
}

#[tokio::test]
async fn optional_clients_may_come_without_certificate_but_not_with_a_bad_one() {
    let (east, west) = (Ca::new("east.bank.example"), Ca::new("west.bank.example"));
    let source = testing::source(&[&east], &[id(LEDGER)]);
    let server = || crate::server_config_optional_client(&source, Select::Only, &[alpn::GRPC]);
    let anonymous = client_of_strangers(None, &[alpn::GRPC], &[&rustls::version::TLS13]);
    let seen = server_sees(server(), |s| tls_client(anonymous, s)).await.unwrap();
    assert_eq!(seen.peer, None);
    let bad = west.forge(&[WEB], |_| {}).client_config(&[alpn::GRPC]);
    assert!(server_sees(server(), |s| tls_client(bad, s)).await.is_err());
}

#[tokio::test]
async fn rotation_and_withdrawal_take_effect_with_the_next_handshake() {
    let (old, new) = (Ca::new("east.bank.example"), Ca::new("east.bank.example"));
    let server = testing::source(&[&old], &[id(LEDGER)]);
    let client = testing::source(&[&old], &[id(WEB)]);
    let server_config = crate::server_config(&server, Select::Only, &[alpn::H2]);
    let client_config =
        crate::client_config(&client, Select::Only, PeerRule::TrustDomain(old.trust_domain().clone()), &[alpn::H2]);
    let call = || server_sees(Arc::clone(&server_config), |s| tls_client(Arc::clone(&client_config), s));
    call().await.unwrap();

    // Both roots are known while SVIDs move from the old to the new one.
    let mut both = testing::material(&[&old], &[]);
    both.bundles.insert(old.trust_domain().clone(), vec![old.certificate(), new.certificate()]);
    for (source, name) in [(&server, LEDGER), (&client, WEB)] {
        let mut next = both.clone();
        next.svids = vec![old.issue(&id(name), WAIT)];
        source.replace(next);
        call().await.unwrap();
    }
    for (source, name) in [(&server, LEDGER), (&client, WEB)] {
        let mut next = both.clone();
        next.svids = vec![new.issue(&id(name), WAIT)];
        source.replace(next);
        call().await.unwrap();
    }
    assert_eq!(server.current().generation, 2);

    // The server stops to know the client's root.
    let mut withdrawn = testing::material(&[&old], &[]);
    withdrawn.svids = vec![new.issue(&id(LEDGER), WAIT)];
    server.replace(withdrawn);
    assert_eq!(call().await.err().unwrap().refusal, Refusal::WrongTrustDomainRoot);
}

#[test]
fn a_process_with_several_svids_presents_the_selected_one() {
    let east = Ca::new("east.bank.example");
    let proxy = id("spiffe://east.bank.example/ns/bank/proxy/web");
    let source = testing::source(&[&east], &[id(WEB), proxy.clone()]);
    let identity = source.current();
    assert_eq!(Select::Workload.svid(&identity).unwrap().id, id(WEB));
    assert_eq!(Select::Proxy.svid(&identity).unwrap().id, proxy);
    assert!(Select::Only.svid(&identity).is_none());
    assert!(Select::Component.svid(&identity).is_none());
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let svid = Ca::new("td").issue(&id("spiffe://td/x"), WAIT);
    let text = format!("{svid:?}");
    assert!(text.contains("spiffe://td/x") && !text.contains("key"), "{text}");
}
