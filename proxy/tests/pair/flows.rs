//! What both sidecars of a pair count of the flow between them.

use std::time::Duration;

use http_body_util::BodyExt as _;
use signet_proxy::flow::{Counts, FlowKey};
use signet_proxy::metrics::Direction;
use signet_proxy::snapshot::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::apps;
use crate::grpc;
use crate::harness::{HOST, Pair, SERVICE, Side, WEB, bundle_with, call, exchange, status, wait};
use crate::tcp;

const ROUTES: &str = "version: 1\nservices:\n  east.bank.example/bank/ledger:\n    routes:\n      - GET /accounts/{id}\n      - POST /accounts/{id}/entries\n      - GET /big\n";

fn counts(side: &Side, direction: Direction, destination: &str, route: &str) -> Counts {
    side.metrics.flows.get(FlowKey { direction, source: WEB, destination, route }).counts()
}

/// Calls that were allowed and answered 2xx, those that were denied and answered 4xx, and those that this side did not decide.
fn calls(counts: &Counts) -> (u64, u64, u64) {
    let [allowed, denied, elsewhere] = counts.answered;
    (allowed[1], denied[3], elsewhere.iter().sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_source_destination_and_route() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    pair.change(|s| s.bundle = Some(bundle_with(crate::harness::POLICY, 'b', ROUTES, &[])));
    wait("the routes", || pair.ledger.enforcer.epoch().ge(&2).then_some(())).await;
    let url = format!("http://{HOST}/accounts/1");
    // Three on one connection, which the relay serves; then one by one; then one that only the general server takes.
    let plain = format!("GET /accounts/7?x=secret HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let last = format!("GET /accounts/7 HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let answers = exchange(pair.outbound, [plain.as_str(), &plain, &last].concat().as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
    for _ in 0..2 {
        assert_eq!(status(&call(pair.outbound, "POST", &format!("{url}/entries"), "content-length: 0\r\n").await), 403);
    }
    assert_eq!(status(&call(pair.outbound, "GET", &format!("http://{HOST}/nothing"), "").await), 403);
    let chunked = format!(
        "GET {url} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    );
    assert_eq!(status(&exchange(pair.outbound, chunked.as_bytes()).await), 200);

    let read = counts(&pair.ledger, Direction::Inbound, SERVICE, "GET /accounts/{id}");
    assert_eq!(calls(&read), (4, 0, 0));
    assert_eq!((read.durations.iter().sum::<u64>(), read.received), (4, 5));
    assert!(read.duration_us > 0 && read.sent > 100, "{read:?}");
    let written = counts(&pair.ledger, Direction::Inbound, SERVICE, "POST /accounts/{id}/entries");
    assert_eq!((calls(&written), written.sent), ((0, 2, 0), 0));
    assert_eq!(calls(&counts(&pair.ledger, Direction::Inbound, SERVICE, "")), (0, 1, 0), "what no route fits");
    let out = counts(&pair.web, Direction::Outbound, SERVICE, "");
    assert_eq!((calls(&out), out.failed, out.received), ((0, 0, 7), 0, 5));
    assert_eq!(pair.ledger.metrics.flows.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_nobody_knows_make_one_series() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    for n in 0..20 {
        assert_eq!(status(&call(pair.outbound, "GET", &format!("http://h{n}.example/p{n}"), "").await), 403);
    }
    assert_eq!(calls(&counts(&pair.web, Direction::Outbound, "unknown", "")), (0, 20, 0));
    assert_eq!(pair.web.metrics.flows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_gone_is_a_failure_on_both_sides() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pair = Pair::new(Protocol::Http, 80, gone).await;
    assert_eq!(status(&call(pair.outbound, "GET", &format!("http://{HOST}/"), "").await), 502);
    let inbound = counts(&pair.ledger, Direction::Inbound, SERVICE, "");
    assert_eq!((inbound.answered[0][4], inbound.failed), (1, 1));
    assert_eq!(counts(&pair.web, Direction::Outbound, SERVICE, "").failed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_calls_fail_by_their_trailers_and_denials_are_no_failures() {
    let (app, _) = apps::grpc_that_ends_with("13").await;
    let pair = Pair::new(Protocol::Grpc, 50051, app).await;
    let (send, response) = grpc::open(&pair, "Pay").await;
    drop(send);
    assert_eq!(response.into_body().collect().await.unwrap().trailers().unwrap()["grpc-status"], "13");
    let (_send, response) = grpc::open(&pair, "Refund").await;
    assert_eq!(response.headers()["grpc-status"], "7");
    let inbound = wait("the trailers", || {
        Some(counts(&pair.ledger, Direction::Inbound, SERVICE, "")).filter(|counts| counts.failed > 0)
    })
    .await;
    // gRPC answers 200, also to what is denied.
    assert_eq!((inbound.answered[0][1], inbound.answered[1][1], inbound.failed), (1, 1, 1));
    assert_eq!(counts(&pair.web, Direction::Outbound, SERVICE, "").failed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_their_bytes_are_counted_while_they_are_open() {
    let (app, _) = apps::greeter().await;
    let pair = Pair::new(Protocol::Tcp, 5432, app).await;
    let mut stream = tcp::connect(&pair).await;
    stream.write_all(&[7; 1_000]).await.unwrap();
    let mut echoed = vec![0; 1_006];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut echoed)).await.unwrap().unwrap();
    for (side, direction, by) in [(&pair.ledger, Direction::Inbound, 0), (&pair.web, Direction::Outbound, 2)] {
        let counts = counts(side, direction, SERVICE, "");
        assert_eq!((counts.connections[by], counts.received, counts.sent), (1, 1_000, 1_006), "{direction:?}");
        assert_eq!(counts.requests(), 0);
    }
    drop(stream);
    pair.change(|s| s.bundle = Some(crate::harness::bundle(crate::harness::NOTHING, 'b')));
    wait("the change", || (pair.ledger.enforcer.epoch() >= 2).then_some(())).await;
    let mut denied = tcp::connect(&pair).await;
    let _ = tokio::time::timeout(Duration::from_secs(5), denied.read_to_end(&mut Vec::new())).await.expect("an end");
    assert_eq!(counts(&pair.ledger, Direction::Inbound, SERVICE, "").connections, [1, 1, 0]);
}
