//! Both parsers held against each other, and what the relay leaves to the general server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::convert::Infallible;

use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;

fn read(bytes: &[u8], side: Side<'_>) -> (Parsed<RequestHead>, String) {
    let mut out = Vec::new();
    let parsed = request(bytes, side, &mut out);
    (parsed, String::from_utf8(out).unwrap())
}

#[test]
fn a_plain_request_is_written_for_the_next_hop() {
    let source = Side::Inbound { source: Some("spiffe://east/ns/bank/sa/web") };
    let given = "POST /a/b?c=d HTTP/1.1\r\nHost: ledger\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\
                 Proxy-Authorization: Basic x\r\nX-Signet-Source: spiffe://forged\r\nTE: trailers\r\nAccept: */*\r\n\
                 traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\nabcGET /";
    let (parsed, out) = read(given.as_bytes(), source);
    let Parsed::Head(head) = parsed else { panic!("{parsed:?}") };
    assert_eq!(
        out,
        "POST /a/b?c=d HTTP/1.1\r\nhost: ledger\r\nContent-Length: 3\r\nte: trailers\r\nAccept: */*\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
         x-signet-source: spiffe://east/ns/bank/sa/web\r\n\r\n"
    );
    assert_eq!(&given[head.length..], "abcGET /");
    assert_eq!((&given[head.target.clone()], head.path, &given[head.host.clone()]), ("/a/b?c=d", 4, "ledger"));
    assert_eq!((head.framing, head.close, head.trace_id[0]), (Framing::length(3), false, 0x4b));
}

#[test]
fn the_absolute_form_stands_above_the_host_and_a_trace_begins() {
    let given = b"GET http://ledger.bank:80/x HTTP/1.1\r\nHost: other\r\nConnection: Close\r\n\r\n";
    let (parsed, out) = read(given, Side::Outbound);
    let Parsed::Head(head) = parsed else { panic!("{parsed:?}") };
    assert!(out.starts_with("GET /x HTTP/1.1\r\nhost: ledger.bank:80\r\ntraceparent: 00-"), "{out}");
    assert!(!out.to_lowercase().contains("connection"), "{out}");
    assert!(head.close);
    assert!(
        matches!(read(given, Side::Inbound { source: None }).0, Parsed::Other),
        "an absolute form is not for an app"
    );
}

#[test]
fn what_is_unusual_is_left_to_the_general_server() {
    for given in [
        "CONNECT ledger-db:5432 HTTP/1.1\r\nHost: ledger-db\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET http://::/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a:/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a:+80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a:65536/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a:1:2/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a::1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-secret\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        assert!(matches!(read(given.as_bytes(), Side::Outbound).0, Parsed::Other), "{given:?}");
    }
}

#[test]
fn answers_that_could_be_read_in_two_ways_are_not_passed_on() {
    let read = |bytes: &str, asked| {
        let mut out = Vec::new();
        let parsed = response(bytes.as_bytes(), asked, true, &mut out);
        (parsed, String::from_utf8(out).unwrap())
    };
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "hello\r\n\r\n",
    ] {
        assert!(matches!(read(bytes, MethodKind::Other).0, Parsed::Other), "{bytes:?}");
    }
    let (parsed, out) = read(
        "HTTP/1.1 404 Not there\r\nConnection: x-hop, close\r\nX-Hop: 1\r\nX-Signet-Decision: forged\r\nUpgrade: h2c\r\n\
         Content-Length: 3\r\n\r\nabc",
        MethodKind::Other,
    );
    let Parsed::Head(head) = parsed else { panic!("{parsed:?}") };
    assert_eq!(out, "HTTP/1.1 404 Not there\r\nContent-Length: 3\r\n");
    assert_eq!((head.status, head.framing, head.reusable), (404, Framing::length(3), false));
    for (asked, bytes, expected) in [
        (MethodKind::Head, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Framing::NONE),
        (MethodKind::Other, "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Framing::NONE),
        (MethodKind::Other, "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::chunked()),
        (MethodKind::Other, "HTTP/1.1 200 OK\r\n\r\n", Framing::until_close()),
    ] {
        let Parsed::Head(head) = read(bytes, asked).0 else { panic!("{bytes:?}") };
        assert_eq!(head.framing, expected, "{bytes:?}");
    }
}

/// What hyper makes of the same bytes: method, target and host, and the body. `None`: it refused them.
async fn by_hyper(bytes: &[u8]) -> Option<(String, String, String, Vec<u8>)> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let sender = sender.clone();
        async move {
            let (parts, body) = request.into_parts();
            let host = crate::forward::host_of(&parts).as_str().to_owned();
            let target = parts.uri.path_and_query().map_or("", |p| p.as_str()).to_owned();
            let body = body.collect().await.map(|b| b.to_bytes().to_vec()).unwrap_or_default();
            let _ = sender.try_send((parts.method.as_str().to_owned(), target, host, body));
            Ok::<_, Infallible>(http::Response::new(String::new()))
        }
    });
    let serving = tokio::spawn(crate::serve::http1_server().serve_connection(TokioIo::new(server), service));
    client.write_all(bytes).await.unwrap();
    // Once hyper has ended, nobody holds the sender.
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), receiver.recv()).await;
    serving.abort();
    read.expect("hyper reads the request or ends")
}

fn head_bytes() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("PATCH"), Just("get"), Just("G T")];
    let target = prop_oneof![
        Just("/".to_owned()),
        "/[a-zA-Z0-9/._~%?=&-]{0,20}",
        "http://[a-z.:0-9@]{0,10}/[a-z?]{0,5}",
        "[ -~]{0,12}"
    ];
    let header = prop_oneof![
        3 => Just("Host: ledger".to_owned()),
        1 => Just("host:other".to_owned()),
        1 => "Content-Length: [0-9]{1,2}",
        1 => "Content-Length:[ -~]{0,4}",
        1 => Just("Transfer-Encoding: chunked".to_owned()),
        1 => "Connection: [a-zA-Z, -]{0,12}",
        2 => "[!-~]{0,8}: ?[ -~]{0,12}",
        1 => "[\\x00-\\xff]{0,12}",
    ];
    let end = prop_oneof![8 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    (method, target, prop::collection::vec((header, end), 0..5), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(method, target, headers, body)| {
            let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
            for (header, end) in headers {
                bytes.extend_from_slice(header.as_bytes());
                bytes.extend_from_slice(end.as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&body);
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// What the relay takes, hyper takes too and reads in the same way; and what the relay writes for the next hop is,
    /// to hyper, the same request again.
    #[test]
    fn the_relay_and_hyper_read_the_same_request(bytes in head_bytes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut out = Vec::new();
        if let Parsed::Head(head) = request(&bytes, Side::Outbound, &mut out) {
            let mut framing = head.framing.clone();
            let rest = &bytes[head.length..];
            let body = &rest[..framing.advance(rest).unwrap()];
            if framing.ended() {
                let text = |range: &Range<usize>| String::from_utf8(bytes[range.clone()].to_vec()).unwrap();
                let ours = Some((text(&head.method), text(&head.target), text(&head.host), body.to_vec()));
                prop_assert_eq!(&ours, &runtime.block_on(by_hyper(&bytes)));
                out.extend_from_slice(body);
                prop_assert_eq!(&ours, &runtime.block_on(by_hyper(&out)));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut out = Vec::new();
        let _ = request(&bytes, Side::Outbound, &mut out);
        let _ = response(&bytes, MethodKind::Other, true, &mut out);
        for mut framing in [Framing::chunked(), Framing::length(7)] {
            if let Ok(taken) = framing.advance(&bytes) {
                prop_assert!(taken <= bytes.len());
            }
        }
    }
}
