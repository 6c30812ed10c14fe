//! Calls as the demo's workloads make them: ordinary HTTP through an outbound listener, as `curl -x` sends it.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: usize = 8 << 20;

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The decision that the answer names.
    ///
    /// # Errors
    /// When it names none, or no UUID.
    pub fn decision(&self) -> anyhow::Result<Uuid> {
        let value = self.headers.get("x-signet-decision").context("the answer has no x-signet-decision")?;
        Ok(value.to_str()?.parse()?)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request through `proxy` ("ip:port") to an absolute `uri`.
///
/// # Errors
/// When there is no whole answer in time.
pub async fn through(
    proxy: &str,
    method: Method,
    uri: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Answer> {
    let mut request = Request::builder().method(&method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let uri: http::Uri = uri.parse()?;
        let host = uri.authority().map_or(proxy, |authority| authority.as_str()).to_owned();
        request = request.header("host", host);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned())))?;
    tokio::time::timeout(CALL_TIMEOUT, send(proxy, request))
        .await
        .with_context(|| format!("{method} {uri}: no answer within {} s", CALL_TIMEOUT.as_secs()))?
        .with_context(|| format!("{method} {uri}"))
}

/// One request straight to `address`, in origin form.
///
/// # Errors
/// When there is no whole answer in time.
pub async fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    through(address, Method::GET, path, headers, "").await
}

async fn send(address: &str, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        anyhow::Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    };
    tokio::pin!(answer);
    tokio::select! {
        done = &mut answer => done,
        ended = connection => { ended?; answer.await }
    }
}

/// The first bytes that a TCP service answers to `send` through `CONNECT`; none when it closes.
///
/// # Errors
/// When the proxy does not answer at all.
pub async fn tcp(proxy: &str, authority: &str, send: &[u8]) -> anyhow::Result<Vec<u8>> {
    tokio::time::timeout(CALL_TIMEOUT, async {
        let mut stream = TcpStream::connect(proxy).await?;
        stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return Ok(Vec::new()),
            }
        }
        if !head.starts_with(b"HTTP/1.1 200") {
            return Ok(Vec::new());
        }
        if stream.write_all(send).await.is_err() {
            return Ok(Vec::new());
        }
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap_or(0);
        answer.truncate(read);
        anyhow::Ok(answer)
    })
    .await
    .with_context(|| format!("CONNECT {authority}: nothing within {} s", CALL_TIMEOUT.as_secs()))?
}

/// The value of a counter or gauge on an admin listener: the sum over the series whose labels hold all of `labels`.
///
/// # Errors
/// When the listener does not answer.
pub async fn metric(admin: &str, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
    let text = get(admin, "/metrics", &[]).await?.text();
    let series = text.lines().filter(|line| !line.starts_with('#')).filter(|line| {
        let found = line.split(['{', ' ']).next().unwrap_or_default();
        found == name && labels.iter().all(|label| line.contains(label))
    });
    Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
