//! WebSockets through a pair (RFC 6455): decided once as the request that asks for it, then bytes both ways until
//! somebody ends them or a new decision does.

use std::net::SocketAddr;
use std::time::Duration;

use signet_mtls::alpn;
use signet_proxy::snapshot::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps;
use crate::harness::{HOST, NOTHING, Pair, WEB, bridge, bundle, header, status, wait};

const HANDSHAKE: &str = "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// To that key (RFC 6455, section 1.3).
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// `Hello`, masked by a client and as a server says it (RFC 6455, section 5.7).
const HELLO: &[u8] = &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
const HELLO_BACK: &[u8] = &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap_or_else(|_| panic!("no {what} in 10 s"))
}

/// Asks for a WebSocket and gives the answer's head.
async fn ask<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T, target: &str, headers: &str) -> String {
    let head = format!("GET {target} HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = within("answer to the handshake", stream.read_u8()).await;
        head.push(byte.unwrap_or_else(|_| panic!("closed after `{}`", String::from_utf8_lossy(&head))));
    }
    String::from_utf8(head).unwrap()
}

async fn hello<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T) {
    stream.write_all(HELLO).await.unwrap();
    let mut back = vec![0; HELLO_BACK.len()];
    within("message back", stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, HELLO_BACK);
}

async fn rest<T: AsyncRead + Unpin>(stream: &mut T) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within("end of the connection", stream.read_to_end(&mut rest)).await;
    rest
}

async fn opened(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = ask(&mut stream, "/socket", HANDSHAKE).await;
    assert_eq!(status(&answer), 101, "{answer}");
    hello(&mut stream).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_decided_once_recorded_and_relayed_both_ways() {
    let (app, reached) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let url = format!("http://{HOST}/socket?token=secret");
    for (round, target) in [(1, "/socket"), (2, url.as_str())] {
        let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
        // A call before it on the same connection.
        stream.write_all(format!("GET /before HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
        let mut before = Vec::new();
        while !before.ends_with(b"ok") {
            before.push(within("answer", stream.read_u8()).await.unwrap());
        }
        let answer = ask(&mut stream, target, HANDSHAKE).await;
        assert_eq!((status(&answer), header(&answer, "sec-websocket-accept")), (101, Some(ACCEPT)), "{answer}");
        assert_eq!((header(&answer, "upgrade"), header(&answer, "connection")), (Some("websocket"), Some("upgrade")));
        assert_eq!(header(&answer, "x-signet-source"), None, "what the app says in the mesh's name is removed");
        for _ in 0..3 {
            hello(&mut stream).await;
        }
        // It keeps its place among the connections of both listeners; the call before it left one in the pool.
        assert_eq!(pair.web.metrics.outbound.connections.get(), 1);
        assert_eq!(pair.ledger.metrics.inbound.connections.get(), 2);
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"\x81\x04/bye", "each side ends by itself");
        assert_eq!(reached.count(), 2 * round);
        wait("end of the connection", || (pair.web.metrics.outbound.connections.get() == 0).then_some(())).await;
        wait("end behind it", || (pair.ledger.metrics.inbound.connections.get() == 1).then_some(())).await;
    }
    let record = pair.ledger.audit.record("the handshake", |r| r.path.as_deref() == Some("/socket")).await;
    assert!(record.allow);
    assert_eq!((record.action.as_str(), record.source_spiffe_id.as_deref()), ("http:GET", Some(WEB)));
    wait("four records", || (pair.ledger.audit.count(|_| true) == 4).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_served_inside_connect_and_to_a_client_of_the_inbound_listener() {
    let (app, _) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    stream.write_all(format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("answer to CONNECT", stream.read_u8()).await.unwrap());
    }
    assert_eq!(status(&ask(&mut stream, "/socket", HANDSHAKE).await), 101);
    hello(&mut stream).await;
    opened(bridge(&pair, alpn::HTTP1).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permissive_port_takes_it_without_an_identity_and_says_so() {
    let (app, _) = apps::websocket().await;
    let pair = Pair::with(Protocol::Http, 80, app, true).await;
    let anyone = r#"@id("anyone") permit(principal, action, resource);"#;
    pair.change(|s| s.bundle = Some(bundle(anyone, 'b')));
    wait("new bundle", || (pair.ledger.metrics.snapshot_version.get() == 2).then_some(())).await;
    opened(pair.inbound).await;
    let record = pair.ledger.audit.record("the handshake", |r| r.action == "http:GET").await;
    assert_eq!((record.allow, record.source_spiffe_id, record.tls.as_str()), (true, None, "none"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_handshake_is_403_and_never_reaches_the_app() {
    let (app, reached) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    pair.change(|s| s.bundle = Some(bundle(NOTHING, 'b')));
    wait("new bundle", || (pair.ledger.metrics.snapshot_version.get() == 2).then_some(())).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    let answer = ask(&mut stream, "/socket", HANDSHAKE).await;
    assert_eq!(status(&answer), 403, "{answer}");
    let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
    assert_eq!((record.reason.as_str(), record.action.as_str()), ("forbidden", "http:GET"));
    // What was sent behind the request may have been meant for the other protocol.
    let _ = stream.write_all(format!("GET /before HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await;
    let said = rest(&mut stream).await;
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 "), "{}", String::from_utf8_lossy(&said));
    assert_eq!(reached.count(), 0);
}

/// Opens a WebSocket, applies `change`, and gives the reason of the one record that closed it.
async fn closed_by(change: impl FnOnce(&Pair)) -> String {
    let (app, _) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let mut stream = opened(pair.outbound).await;
    change(&pair);
    assert_eq!(rest(&mut stream).await, b"");
    let record = pair.ledger.audit.record("the closing", |r| !r.allow).await;
    let opening = pair.ledger.audit.record("the opening", |r| r.allow).await;
    assert!(record.detail.as_deref().unwrap_or_default().contains(&opening.id.to_string()), "{record:?}");
    assert_eq!((record.action.as_str(), record.path.as_deref()), ("http:GET", Some("/socket")));
    assert_eq!(pair.ledger.audit.count(|r| !r.allow), 1);
    assert_eq!(pair.ledger.metrics.closed_by_policy.get(), 1);
    record.reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_decision_closes_an_open_one_and_is_recorded() {
    assert_eq!(closed_by(|pair| pair.change(|s| s.bundle = Some(bundle(NOTHING, 'b')))).await, "forbidden");
    assert_eq!(closed_by(|pair| pair.change(|s| s.inbound.clear())).await, "unknown_service");
    assert_eq!(closed_by(Pair::withdraw_trust).await, "trust_withdrawn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_the_svid_that_opened_it() {
    let (app, _) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let soon = |params: &mut rcgen::CertificateParams| {
        params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    };
    let tls = pair.ca.forge(&[WEB], soon).client_config(&[alpn::HTTP1]);
    let stream = TcpStream::connect(pair.inbound).await.unwrap();
    let mut stream = signet_mtls::connect(tls, stream, Duration::from_secs(5)).await.unwrap().stream;
    assert_eq!(status(&ask(&mut stream, "/socket", HANDSHAKE).await), 101);
    hello(&mut stream).await;
    rest(&mut stream).await;
    let record = pair.ledger.audit.record("the closing", |r| !r.allow).await;
    assert_eq!(record.reason, "peer_expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_for_it_leaves_it_alone() {
    let (app, _) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let mut stream = opened(pair.outbound).await;
    pair.rotate();
    pair.change(|s| s.outbound.clear());
    pair.change(|s| s.bundle = Some(bundle(crate::harness::POLICY, 'b')));
    wait("new bundle", || (pair.ledger.metrics.snapshot_version.get() == 3).then_some(())).await;
    hello(&mut stream).await;
    assert_eq!(pair.ledger.audit.count(|r| !r.allow), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_leaves_it_alone_until_the_deadline() {
    let (app, _) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let mut stream = opened(pair.outbound).await;
    for side in [&pair.web, &pair.ledger] {
        side.stop.drain.cancel();
    }
    hello(&mut stream).await;
    for side in [&pair.web, &pair.ledger] {
        side.stop.kill.cancel();
        side.stop.tasks.close();
        within("end of all connections", side.stop.tasks.wait()).await;
    }
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_upgrades_and_heads_that_are_no_handshake_are_refused_and_never_reach_the_app() {
    let (app, reached) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let websocket = |without: &str, more: &str| {
        let kept = HANDSHAKE.split_inclusive("\r\n").filter(|line| without.is_empty() || !line.starts_with(without));
        kept.collect::<String>() + more
    };
    let heads = [
        "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n".to_owned(),
        "upgrade: TLS/1.0\r\nconnection: upgrade\r\n".to_owned(),
        "upgrade: spdy/3.1\r\nconnection: upgrade\r\n".to_owned(),
        websocket("upgrade", "upgrade: websocket, h2c\r\n"),
        websocket("", "upgrade: h2c\r\n"),
        websocket("connection", ""),
        websocket("connection", "connection: keep-alive\r\n"),
        websocket("sec-websocket-key", ""),
        websocket("sec-websocket-key", "sec-websocket-key: short\r\n"),
        websocket("sec-websocket-version", ""),
        websocket("sec-websocket-version", "sec-websocket-version: 1337\r\n"),
        websocket("", "content-length: 5\r\n"),
        websocket("", "transfer-encoding: chunked\r\n"),
        websocket("", "http2-settings: AAMAAABkAAQAAP__\r\n"),
    ];
    for door in [pair.outbound, bridge(&pair, alpn::HTTP1).await] {
        for head in &heads {
            let mut stream = TcpStream::connect(door).await.unwrap();
            let answer = ask(&mut stream, "/socket", head).await;
            assert_eq!((status(&answer), header(&answer, "x-signet-error")), (501, Some("upgrade_refused")), "{head}");
            // A second request, smuggled where a body or the other protocol would be, is nobody's.
            let _ = stream.write_all(format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await;
            let said = String::from_utf8(rest(&mut stream).await).unwrap();
            assert!(!said.contains("HTTP/1.1 "), "{head}: {said}");
        }
    }
    assert_eq!(reached.count(), 0);
    let refused = u64::try_from(heads.len()).unwrap();
    assert_eq!(pair.web.metrics.refusals("upgrade_refused"), refused);
    assert_eq!(pair.ledger.metrics.refusals("upgrade_refused"), refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_before_the_answer_are_never_requests() {
    let (app, reached) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let doors = [pair.outbound, bridge(&pair, alpn::HTTP1).await];
    for door in doors {
        // The app grants it: what came early is the other protocol's, delivered after the answer.
        let mut stream = TcpStream::connect(door).await.unwrap();
        let head = format!("GET /socket HTTP/1.1\r\nhost: {HOST}\r\n{HANDSHAKE}\r\n");
        stream.write_all(&[head.as_bytes(), HELLO].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let said = rest(&mut stream).await;
        let end = [HELLO_BACK, b"\x81\x04/bye"].concat();
        assert!(said.starts_with(b"HTTP/1.1 101") && said.ends_with(&end), "{}", String::from_utf8_lossy(&said));
        // The app answers as if nothing had been asked: what came early is dropped with the connection.
        let before = reached.count();
        let mut stream = TcpStream::connect(door).await.unwrap();
        let refused = format!("GET /plain HTTP/1.1\r\nhost: {HOST}\r\n{HANDSHAKE}\r\n");
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        stream.write_all(format!("{refused}{smuggled}").as_bytes()).await.unwrap();
        let said = String::from_utf8(rest(&mut stream).await).unwrap();
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("\r\n\r\nok"), "{said}");
        assert_eq!((header(&said, "connection"), said.matches("HTTP/1.1").count()), (Some("close"), 1), "{said}");
        assert_eq!(reached.count(), before + 1);
    }
    assert_eq!(pair.ledger.audit.count(|r| r.path.as_deref() == Some("/smuggled")), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_switches_to_something_else_or_unasked_is_a_502() {
    let (app, _) = apps::websocket().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    for door in [pair.outbound, bridge(&pair, alpn::HTTP1).await] {
        for path in ["/wrong-accept", "/h2c", "/unnamed"] {
            let mut stream = TcpStream::connect(door).await.unwrap();
            let answer = ask(&mut stream, path, HANDSHAKE).await;
            assert_eq!(
                (status(&answer), header(&answer, "x-signet-error")),
                (502, Some("connection_broken")),
                "{path}"
            );
            let _ = stream.write_all(format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await;
            let said = String::from_utf8(rest(&mut stream).await).unwrap();
            assert!(!said.contains("HTTP/1.1 "), "{path}: {said}");
        }
        // In the relay, and in the general server, where HTTP/1.0 goes.
        for version in ["1.1", "1.0"] {
            let mut stream = TcpStream::connect(door).await.unwrap();
            let head = format!("GET /unasked HTTP/{version}\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let said = String::from_utf8(rest(&mut stream).await).unwrap();
            assert_eq!((status(&said), header(&said, "x-signet-error")), (502, Some("connection_broken")), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_speak_http2_refuse_it_clearly() {
    let (app, reached) = apps::grpc().await;
    let pair = Pair::new(Protocol::Http2, 80, app).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    let answer = ask(&mut stream, "/socket", HANDSHAKE).await;
    assert_eq!((status(&answer), header(&answer, "x-signet-error")), (501, Some("upgrade_refused")), "{answer}");
    assert_eq!(reached.count(), 0);
}
