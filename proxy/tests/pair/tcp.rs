//! Raw TCP through a pair.

use std::time::Duration;

use signet_proxy::snapshot::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps;
use crate::harness::{HOST, NOTHING, Pair, bundle};

/// A CONNECT through `pair`, up to and including its 200.
pub async fn connect(pair: &Pair) -> TcpStream {
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    stream.write_all(format!("CONNECT {HOST}:5432 HTTP/1.1\r\nhost: {HOST}:5432\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer to CONNECT"));
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    stream
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("an end in 5 s");
    rest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_may_speak_first_and_each_half_closes_by_itself() {
    let (app, _) = apps::greeter().await;
    let pair = Pair::new(Protocol::Tcp, 5432, app).await;
    let mut stream = connect(&pair).await;
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello\n");
    let big = vec![7_u8; 200_000];
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(&big).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let receive = async {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.unwrap();
        all
    };
    let ((), all) = tokio::join!(send, receive);
    assert_eq!(all.len(), big.len() + 4);
    assert!(all.ends_with(b"bye\n"));
    let record = pair.ledger.audit.record("the connection", |r| r.action == "tcp:connect").await;
    assert!(record.allow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_connection_delivers_no_byte_and_never_reaches_the_app() {
    let (app, reached) = apps::greeter().await;
    let pair = Pair::new(Protocol::Tcp, 5432, app).await;
    pair.change(|s| s.bundle = Some(bundle(NOTHING, 'b')));
    // The listener and the enforcer follow the same change; wait until it is in force.
    loop {
        let mut stream = connect(&pair).await;
        let mut first = [0; 6];
        if stream.read(&mut first).await.unwrap_or(0) == 0 {
            break;
        }
    }
    let before = reached.count();
    let mut stream = connect(&pair).await;
    assert_eq!(rest(&mut stream).await, b"");
    assert_eq!(reached.count(), before);
    let record = pair.ledger.audit.record("the denial", |r| !r.allow && r.action == "tcp:connect").await;
    assert_eq!(record.reason, "forbidden");
}

/// Opens a connection, applies `change`, and gives the reason of the record that closed it.
async fn closed_by(change: impl FnOnce(&Pair)) -> String {
    let (app, _) = apps::greeter().await;
    let pair = Pair::new(Protocol::Tcp, 5432, app).await;
    let mut stream = connect(&pair).await;
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    change(&pair);
    assert_eq!(rest(&mut stream).await, b"");
    let record = pair.ledger.audit.record("the closing", |r| !r.allow).await;
    let opened = pair.ledger.audit.record("the opening", |r| r.allow).await;
    assert!(record.detail.as_deref().unwrap_or_default().contains(&opened.id.to_string()), "{record:?}");
    record.reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_policy_closes_an_open_connection_and_is_recorded() {
    let reason = closed_by(|pair| pair.change(|s| s.bundle = Some(bundle(NOTHING, 'b')))).await;
    assert_eq!(reason, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_goes_closes_its_connections() {
    assert_eq!(closed_by(|pair| pair.change(|s| s.inbound.clear())).await, "unknown_service");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trust_bundle_that_goes_closes_connections_of_its_domain() {
    assert_eq!(closed_by(Pair::withdraw_trust).await, "trust_withdrawn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_changes_leaves_open_connections_alone() {
    let (app, _) = apps::greeter().await;
    let pair = Pair::new(Protocol::Tcp, 5432, app).await;
    let mut stream = connect(&pair).await;
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    pair.change(|s| s.outbound.clear());
    pair.rotate();
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}
