//! The end of a sidecar: what is under way finishes, what is idle goes, nothing new is taken.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_proxy::serve::Stop;
use signet_proxy::snapshot::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps;
use crate::harness::{HOST, Pair, bridge, header, status};

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap_or_else(|_| panic!("no {what} in 10 s"))
}

async fn send(address: SocketAddr, path: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{more}").as_bytes()).await.unwrap();
    stream
}

/// Reads an answer whose body is `ok`.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let mut chunk = [0; 1024];
        let n = within("answer", stream.read(&mut chunk)).await.unwrap();
        assert_ne!(n, 0, "closed after `{}`", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8(answer).unwrap()
}

async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = within("end of the connection", stream.read_to_end(&mut rest)).await;
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

async fn all_ended(stop: &Stop) {
    stop.tasks.close();
    within("end of all connections", stop.tasks.wait()).await;
}

/// Nobody is served any more, however far the connection gets.
async fn takes_nothing(address: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(format!("GET /now HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await;
    closed(&mut stream).await;
}

/// `head`: with what the request's head goes on, which says whether the relay or the general server has the connection.
async fn drains_http1(stop: &Stop, address: SocketAddr, gate: &apps::Gate, head: &str) {
    let mut idle = send(address, "/now", head).await;
    assert_eq!(header(&answer(&mut idle).await, "connection"), None);
    let mut busy = send(address, "/gated", head).await;
    within("call at the app", gate.reached(1)).await;
    stop.drain.cancel();
    closed(&mut idle).await;
    takes_nothing(address).await;
    assert!(!stop.tasks.is_empty(), "the call under way was given up");
    gate.open();
    let last = answer(&mut busy).await;
    assert_eq!((status(&last), header(&last, "connection")), (200, Some("close")), "{last}");
    closed(&mut busy).await;
    all_ended(stop).await;
}

const PLAIN: &str = "\r\n";
/// The relay does not take chunked requests.
const GENERAL: &str = "transfer-encoding: chunked\r\n\r\n0\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_side_finishes_http1_calls_and_says_close() {
    for head in [PLAIN, GENERAL] {
        let (app, gate) = apps::gated().await;
        let pair = Pair::new(Protocol::Http, 80, app).await;
        drains_http1(&pair.web.stop, pair.outbound, &gate, head).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_called_side_finishes_http1_calls_and_says_close() {
    for head in [PLAIN, GENERAL] {
        let (app, gate) = apps::gated().await;
        let pair = Pair::new(Protocol::Http, 80, app).await;
        let inbound = bridge(&pair, b"signet/http1").await;
        drains_http1(&pair.ledger.stop, inbound, &gate, head).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_told_to_go_away_and_its_streams_finish() {
    let (app, gate) = apps::gated().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let stream = TcpStream::connect(pair.outbound).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str| Request::get(format!("http://{HOST}{path}")).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(within("answer", sender.send_request(ask("/now"))).await.unwrap().status(), StatusCode::OK);
    let mut other = sender.clone();
    let busy = tokio::spawn(async move { sender.send_request(ask("/gated")).await });
    within("call at the app", gate.reached(1)).await;
    pair.web.stop.drain.cancel();
    // GOAWAY: the client opens no more streams on this connection.
    within("refusal of new streams", async {
        while other.send_request(Request::get(format!("http://{HOST}/now")).body(Empty::new()).unwrap()).await.is_ok() {
        }
    })
    .await;
    assert!(!busy.is_finished());
    gate.open();
    let response = within("answer", busy).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(within("body", response.into_body().collect()).await.unwrap().to_bytes(), "ok");
    drop(other);
    let _ = within("end of the connection", connection).await;
    all_ended(&pair.web.stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_is_the_applications_until_the_deadline_ends_it() {
    let (app, _) = apps::greeter().await;
    let pair = Pair::new(Protocol::Tcp, 5432, app).await;
    let inbound = bridge(&pair, b"signet/tcp").await;
    let mut stream = TcpStream::connect(inbound).await.unwrap();
    let mut hello = [0; 6];
    within("greeting", stream.read_exact(&mut hello)).await.unwrap();
    let stop = &pair.ledger.stop;
    stop.drain.cancel();
    stream.write_all(b"still").await.unwrap();
    let mut echo = [0; 5];
    within("echo", stream.read_exact(&mut echo)).await.unwrap();
    assert_eq!((&hello, &echo), (b"hello\n", b"still"));
    assert_eq!(stop.tasks.len(), 1);
    stop.kill.cancel();
    closed(&mut stream).await;
    all_ended(stop).await;
}
