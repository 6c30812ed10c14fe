//! gRPC through a pair: trailers, streams both ways, denials.

use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_proxy::snapshot::Protocol;
use tokio::net::TcpStream;

use crate::apps;
use crate::harness::{HOST, NOTHING, Pair, bundle};

pub type Sent = mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>;

/// Opens a gRPC-like stream through the outbound listener, with prior knowledge of HTTP/2.
pub async fn open(pair: &Pair, method: &str) -> (Sent, Response<Incoming>) {
    let stream = TcpStream::connect(pair.outbound).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (tx, rx) = mpsc::channel(4);
    let request = Request::post(format!("http://{HOST}:50051/bank.v1.Payments/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(rx))
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), sender.send_request(request));
    (tx, answer.await.expect("an answer in 5 s").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_both_ways_and_trailers_pass() {
    let (app, _) = apps::grpc().await;
    let pair = Pair::new(Protocol::Grpc, 50051, app).await;
    let (mut send, response) = open(&pair, "Pay").await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    for i in 0..5_u8 {
        send.send(Ok(Frame::data(Bytes::from(vec![i; 100])))).await.unwrap();
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), Bytes::from(vec![i; 100]));
    }
    drop(send);
    let trailers = loop {
        let frame = body.frame().await.expect("trailers").unwrap();
        if let Ok(trailers) = frame.into_trailers() {
            break trailers;
        }
    };
    assert_eq!(trailers["grpc-status"], "0");
    let record = pair.ledger.audit.record("the call", |r| r.action == "grpc:call").await;
    assert_eq!((record.allow, record.path.as_deref()), (true, Some("bank.v1.Payments/Pay")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_call_is_permission_denied_in_a_head_of_trailers() {
    let (app, reached) = apps::grpc().await;
    let pair = Pair::new(Protocol::Grpc, 50051, app).await;
    let (_send, response) = open(&pair, "Refund").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "7");
    let id = response.headers()["x-signet-decision"].to_str().unwrap();
    let record = pair.ledger.audit.decision(id).await;
    assert_eq!((record.allow, record.action.as_str()), (false, "grpc:call"));
    assert_eq!(reached.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_policy_closes_an_open_stream_and_is_recorded() {
    let (app, _) = apps::grpc().await;
    let pair = Pair::new(Protocol::Grpc, 50051, app).await;
    let (mut send, response) = open(&pair, "Pay").await;
    let mut body = response.into_body();
    send.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    pair.change(|s| s.bundle = Some(bundle(NOTHING, 'b')));
    let ended = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("an end in 5 s");
    assert!(ended.is_none_or(|frame| frame.is_err()), "the stream went on");
    let record = pair.ledger.audit.record("the closing", |r| !r.allow).await;
    assert_eq!((record.reason.as_str(), record.action.as_str()), ("forbidden", "grpc:call"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_on_a_grpc_port_is_denied_and_recorded() {
    let (app, reached) = apps::grpc().await;
    let pair = Pair::new(Protocol::Grpc, 50051, app).await;
    let answer = crate::harness::call(pair.outbound, "GET", &format!("http://{HOST}:50051/x"), "").await;
    assert_eq!(crate::harness::status(&answer), 403, "{answer}");
    let id = crate::harness::header(&answer, "x-signet-decision").unwrap();
    assert_eq!(pair.ledger.audit.decision(id).await.reason, "protocol_mismatch");
    assert_eq!(reached.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_a_connection_and_survive_rotation() {
    let (app, _) = apps::grpc().await;
    let pair = Pair::new(Protocol::Grpc, 50051, app).await;
    let calls = futures::stream::iter(0..200).map(|i| {
        let pair = &pair;
        async move {
            if i % 40 == 0 {
                pair.rotate();
            }
            let (mut send, response) = open(pair, "Pay").await;
            assert_eq!(response.status(), StatusCode::OK);
            send.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
            drop(send);
            let all = response.into_body().collect().await.unwrap();
            assert_eq!(all.trailers().unwrap()["grpc-status"], "0");
        }
    });
    calls.buffer_unordered(16).collect::<Vec<()>>().await;
}
