//! Calls of other services: plain, where the network sees to it that they go through the sidecar, or through the sidecar's
//! outbound listener, which is an ordinary HTTP proxy to the app.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What an answer may hold at most, bytes.
const ANSWER_LIMIT: usize = 1 << 20;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How an app gets to other services.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// By name and port, as if there were no mesh.
    Plain,
    /// Through this HTTP proxy.
    Through(SocketAddr),
}

impl Way {
    pub(crate) fn of(outbound: Option<SocketAddr>) -> Self {
        outbound.map_or(Self::Plain, Self::Through)
    }

    /// A connection for calls of `authority`, "host" or "host:port".
    pub(crate) async fn stream(self, authority: &str) -> std::io::Result<TcpStream> {
        let stream = match self {
            Self::Through(proxy) => TcpStream::connect(proxy).await?,
            Self::Plain if authority.contains(':') => TcpStream::connect(authority).await?,
            Self::Plain => TcpStream::connect((authority, 80)).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// One call's answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// One HTTP/1.1 request: to a proxy in absolute form, as curl sends it with `-x`.
pub(crate) async fn call(
    way: Way,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> anyhow::Result<Answer> {
    let name = format!("{method} {uri}");
    tokio::time::timeout(CALL_TIMEOUT, call_untimed(way, method, uri, headers, body))
        .await
        .with_context(|| format!("{name}: no answer within {} s", CALL_TIMEOUT.as_secs()))?
        .with_context(|| name)
}

async fn call_untimed(way: Way, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> anyhow::Result<Answer> {
    let authority = uri.authority().context("the URI names no service")?;
    let stream = way.stream(authority.as_str()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let target = match way {
        Way::Through(_) => uri.clone(),
        Way::Plain => uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from),
    };
    let mut request = Request::builder().method(method).uri(target);
    request = request.header(http::header::HOST, authority.as_str());
    let mut request = request.body(Full::new(body))?;
    request.headers_mut().extend(headers);
    let answer = async {
        let response: Response<_> = sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        Ok::<_, anyhow::Error>(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    };
    tokio::pin!(answer);
    tokio::select! {
        done = &mut answer => done,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

/// Opens a TCP connection to `authority` ("host:port"), from a proxy with `CONNECT`.
pub(crate) async fn connect(way: Way, authority: &str, traceparent: Option<&str>) -> anyhow::Result<TcpStream> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = way.stream(authority).await?;
    if matches!(way, Way::Plain) {
        return Ok(stream);
    }
    let trace = traceparent.map(|value| format!("traceparent: {value}\r\n")).unwrap_or_default();
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{trace}\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to the tunnelled protocol.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= 8192 {
            bail!("the proxy's answer to CONNECT `{authority}` has no end");
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => bail!("the proxy closed CONNECT `{authority}`: {error}"),
        }
    }
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    match line.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => bail!("the proxy refused CONNECT `{authority}`: {line}"),
    }
}
