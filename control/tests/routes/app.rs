//! An app that says what it got, and that can be told to fail.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// The key of RFC 6455, section 1.3, and what a server answers to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What an app does with its next call.
#[derive(Clone, Copy, Debug)]
pub enum Next {
    Status(u16),
    /// Answers after this.
    Late(Duration),
    /// The head at once, the end of the body after this.
    Trickle(Duration),
    /// Grants a WebSocket whose key is [`KEY`], and sends back what comes.
    WebSocket,
    /// `grpc-status` in the head.
    Grpc(u16),
    /// `grpc-status` in the trailers.
    GrpcEnd(u16),
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Clone)]
pub struct App {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    next: Arc<Mutex<VecDeque<Next>>>,
}

type Answer =
    Response<StreamBody<std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>>;

impl App {
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    pub async fn start(name: &str, http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self { address: listener.local_addr().unwrap(), seen: Arc::default(), next: Arc::default() };
        let (this, name) = (app.clone(), name.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (this, name) = (this.clone(), name.clone());
                let service = service_fn(move |request| {
                    let (this, name) = (this.clone(), name.clone());
                    async move { Ok::<_, Infallible>(this.answer(&name, request).await) }
                });
                let io = TokioIo::new(stream);
                if http2 {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(async move { drop(builder.serve_connection(io, service).await) });
                } else {
                    let builder = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(async move { drop(builder.serve_connection(io, service).with_upgrades().await) });
                }
            }
        });
        app
    }

    async fn answer(&self, name: &str, request: Request<Incoming>) -> Answer {
        let next = self.next.lock().unwrap().pop_front();
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
        let mut text = format!("served by {name}\n{} {path}\n", parts.method);
        for (name, value) in &parts.headers {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        let grpc = parts.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
        self.seen.lock().unwrap().push(Seen {
            method: parts.method.to_string(),
            path,
            headers: parts.headers,
            body: body.clone(),
        });
        let mut frames = vec![Ok(Frame::data(if grpc { body } else { Bytes::from(text) }))];
        let mut response = Response::builder().header("x-app", "1");
        let mut pause = None;
        if grpc {
            response = response.header("content-type", "application/grpc").header("x-served-by", name);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            frames.push(Ok(Frame::trailers(trailers)));
        }
        match next {
            None => {}
            Some(Next::Status(status)) => response = response.status(status),
            Some(Next::Late(wait)) => tokio::time::sleep(wait).await,
            Some(Next::Trickle(wait)) => pause = Some(wait),
            Some(Next::WebSocket) => {
                response = response.status(101).header("connection", "upgrade").header("upgrade", "websocket");
                response = response.header("sec-websocket-accept", ACCEPT);
                frames = Vec::new();
                tokio::spawn(async move {
                    let mut stream = TokioIo::new(upgrade.unwrap().await.unwrap());
                    let mut bytes = [0; 1024];
                    while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                        stream.write_all(&bytes[..n]).await.unwrap();
                    }
                });
            }
            Some(Next::GrpcEnd(status)) => {
                frames.pop();
                frames
                    .push(Ok(Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.into())]))));
            }
            Some(Next::Grpc(status)) => {
                response = response.header("grpc-status", status);
                frames = Vec::new();
            }
        }
        let paused = futures::stream::once(async move {
            if let Some(wait) = pause {
                tokio::time::sleep(wait).await;
            }
            Ok(Frame::data(Bytes::new()))
        });
        use futures::StreamExt as _;
        let paused = paused.filter(|_| std::future::ready(false));
        response.body(StreamBody::new(Box::pin(paused.chain(futures::stream::iter(frames))) as _)).unwrap()
    }

    pub fn will(&self, next: &[Next]) {
        self.next.lock().unwrap().extend(next);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}
