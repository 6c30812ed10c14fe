//! Small apps behind the inbound sidecar.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// How often an app was reached.
#[derive(Clone, Default)]
pub struct Reached(Arc<AtomicUsize>);

impl Reached {
    fn hit(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Answers 200 with the head that it saw, one header a line.
pub async fn http() -> (SocketAddr, Reached) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, reached) = (listener.local_addr().unwrap(), Reached::default());
    let seen = reached.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                seen.hit();
                async move {
                    let mut text = format!("{} {}\n", request.method(), request.uri());
                    for (name, value) in request.headers() {
                        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
                    }
                    let Ok(body) = request.into_body().collect().await else { return Err("the body broke off") };
                    let body = body.to_bytes();
                    text.push_str(&format!("body: {}\n", body.len()));
                    Ok(Response::builder()
                        .header("x-signet-decision", "forged")
                        .header("connection", "x-hop")
                        .header("x-hop", "1")
                        .body(http_body_util::Full::new(Bytes::from(text)))
                        .unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, reached)
}

type StreamingBody = BoxBody<Bytes, hyper::Error>;

/// HTTP/2 with prior knowledge: echoes each frame of the request's body as it comes, then trailers.
pub async fn grpc() -> (SocketAddr, Reached) {
    grpc_that_ends_with("0").await
}

/// As [`grpc`], with this status in the trailers.
pub async fn grpc_that_ends_with(status: &'static str) -> (SocketAddr, Reached) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, reached) = (listener.local_addr().unwrap(), Reached::default());
    let seen = reached.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                seen.hit();
                async move {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(status));
                    let echo = request
                        .into_body()
                        .into_data_stream()
                        // An empty frame at the end is the transport's, not a message.
                        .filter(|data| std::future::ready(!matches!(data, Ok(data) if data.is_empty())))
                        .map(|data| data.map(Frame::data))
                        .chain(futures::stream::once(async move { Ok(Frame::trailers(trailers)) }));
                    let body: StreamingBody = http_body_util::BodyExt::boxed(StreamBody::new(echo));
                    Ok::<_, Infallible>(
                        Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
                    )
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, reached)
}

/// Says `hello` first, then echoes until the client has ended its side.
pub async fn greeter() -> (SocketAddr, Reached) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, reached) = (listener.local_addr().unwrap(), Reached::default());
    let seen = reached.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.hit();
            tokio::spawn(async move {
                stream.write_all(b"hello\n").await.unwrap();
                let mut buffer = [0; 1024];
                while let Ok(n) = stream.read(&mut buffer).await {
                    if n == 0 {
                        // The client's half is closed; ours may still speak.
                        let _ = stream.write_all(b"bye\n").await;
                        return;
                    }
                    if stream.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, reached)
}

/// What an endless answer came to.
#[derive(Clone, Default)]
pub struct Written {
    bytes: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Written {
    /// Bytes that the app could write.
    pub fn count(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Whether no endless answer is being written.
    pub fn ended(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }
}

/// `/endless` answers bytes for as long as somebody takes them, everything else `ok`.
pub async fn endless() -> (SocketAddr, Reached, Written) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, reached, written) = (listener.local_addr().unwrap(), Reached::default(), Written::default());
    let (seen, counter) = (reached.clone(), written.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (seen, counter) = (seen.clone(), counter.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                loop {
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    seen.hit();
                    if !head.starts_with(b"GET /endless") {
                        head.clear();
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                            return;
                        }
                        continue;
                    }
                    counter.open.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                    let chunk = [b'e'; 16_384];
                    while let Ok(n) = stream.write(&chunk).await {
                        counter.bytes.fetch_add(n, Ordering::SeqCst);
                    }
                    counter.open.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
            });
        }
    });
    (address, reached, written)
}

/// Holds answers back.
#[derive(Clone)]
pub struct Gate {
    asked: tokio::sync::watch::Sender<usize>,
    open: tokio::sync::watch::Sender<bool>,
}

impl Gate {
    /// Lets all answers go.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Until `count` calls wait for the gate, or have passed it.
    pub async fn reached(&self, count: usize) {
        let _ = self.asked.subscribe().wait_for(|asked| *asked >= count).await;
    }
}

/// Answers `ok`: to `/gated` once the gate is open, to everything else at once.
pub async fn gated() -> (SocketAddr, Gate) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gate = Gate { asked: tokio::sync::watch::channel(0).0, open: tokio::sync::watch::channel(false).0 };
    let held = gate.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let held = held.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let held = held.clone();
                async move {
                    if request.uri().path() == "/gated" {
                        held.asked.send_modify(|asked| *asked += 1);
                        let _ = held.open.subscribe().wait_for(|open| *open).await;
                    }
                    Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from_static(b"ok"))))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, gate)
}

/// What RFC 6455, section 1.3, has a server answer to a key.
fn websocket_accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest)
}

/// A WebSocket server: sends each message back that fits one short frame, and `/bye` when its client's side has ended.
/// `/plain` is no WebSocket, and `/wrong-accept`, `/h2c`, `/unnamed` switch as no server should; answers to requests
/// without a key are `/unasked` switches or `ok`.
pub async fn websocket() -> (SocketAddr, Reached) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, reached) = (listener.local_addr().unwrap(), Reached::default());
    let seen = reached.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(websocket_connection(stream, seen.clone()));
        }
    });
    (address, reached)
}

async fn websocket_connection(mut stream: tokio::net::TcpStream, seen: Reached) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        seen.hit();
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let key = crate::harness::header(&head, "sec-websocket-key");
        let switch = |upgrade: &str, connection: &str, accept: &str| {
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: {upgrade}\r\nconnection: {connection}\r\n\
                 sec-websocket-accept: {accept}\r\nx-signet-source: forged\r\n\r\n"
            )
        };
        let answer = match (path.as_str(), key) {
            ("/plain", _) | (_, None) if path != "/unasked" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                continue;
            }
            ("/wrong-accept", _) => switch("websocket", "upgrade", &websocket_accept("another key")),
            ("/h2c", Some(key)) => switch("h2c", "upgrade", &websocket_accept(key)),
            ("/unnamed", Some(key)) => switch("websocket", "keep-alive", &websocket_accept(key)),
            (_, key) => switch("websocket", "Upgrade", &websocket_accept(key.unwrap_or_default())),
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
        loop {
            let mut head = [0; 2];
            if stream.read_exact(&mut head).await.is_err() {
                let _ = stream.write_all(&[0x81, 4]).await;
                let _ = stream.write_all(b"/bye").await;
                return;
            }
            // Masked text in one frame (RFC 6455, section 5.2), as clients send it.
            assert_eq!((head[0], head[1] & 0x80), (0x81, 0x80), "a masked text frame");
            let mut rest = vec![0; 4 + usize::from(head[1] & 0x7f)];
            stream.read_exact(&mut rest).await.unwrap();
            let (mask, text) = rest.split_at(4);
            let text: Vec<u8> = text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            let frame = [&[0x81, u8::try_from(text.len()).unwrap()], text.as_slice()].concat();
            if stream.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
}
