//! WebSockets to services with routes: a handshake is routed like any call, and copies of it are made nowhere.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::app::{KEY, Next};
use crate::harness::{header, status};
use crate::mesh::Mesh;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: bank}
spec:
  parentRefs: [{group: \"\", kind: Service, name: echo}]
  rules:
    - matches: [{path: {value: /live}}]
      filters:
        - {type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}
        - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-route, value: live}]}}
        - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /socket}}}
      timeouts: {request: 300ms}
      retry: {attempts: 1, codes: [503], backoff: 1ms}
      backendRefs: [{name: echo-v1, port: 80}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_is_matched_rewritten_and_retried_and_its_socket_outlives_the_routes_timeout() {
    let mesh = Mesh::echo(ROUTE).await;
    mesh.app("bank/echo-v1").will(&[Next::Status(503), Next::WebSocket]);
    let mut stream = TcpStream::connect(mesh.web.outbound).await.unwrap();
    let head = format!(
        "GET /live/1 HTTP/1.1\r\nhost: echo\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: {KEY}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.expect("an answer in 10 s");
        answer.push(byte.unwrap_or_else(|_| panic!("closed after `{}`", String::from_utf8_lossy(&answer))));
    }
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!((status(&answer), header(&answer, "upgrade")), (101, Some("websocket")), "{answer}");
    let seen = mesh.app("bank/echo-v1").seen();
    assert_eq!(seen.len(), 2, "the first answer was 503");
    for call in seen {
        assert_eq!((call.path.as_str(), call.headers["x-route"].to_str().unwrap()), ("/socket/1", "live"));
    }
    assert_eq!(mesh.app("bank/echo-v2").count(), 0, "nobody mirrors what is to become a socket");
    let opened = std::time::Instant::now();
    while opened.elapsed() < Duration::from_millis(600) {
        stream.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut echo)).await;
        read.expect("an echo in 10 s").unwrap();
        assert_eq!(&echo, b"ping");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
