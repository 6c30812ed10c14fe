//! Scores over a WebSocket (RFC 6455), one for each account that a client names: its number as a text message.
//!
//! As much of the protocol as that needs: messages in one short frame each, and closing.

use aws_lc_rs::digest;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
/// A frame with a longer payload says its length in further bytes; a masked one sets the bit above.
const LONGEST: u8 = 125;
const MASKED: u8 = 0x80;

pub(super) fn asked(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Answers the handshake and serves the socket that comes of it.
pub(super) fn serve(mut request: Request) -> Response {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()) else {
        return (StatusCode::BAD_REQUEST, "a handshake without a key").into_response();
    };
    let accept = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    let accept = STANDARD.encode(accept);
    let upgrade = hyper::upgrade::on(&mut request);
    // Ends with its connection.
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // A client that goes away needs no answer.
            let _ = scores(TokioIo::new(upgraded)).await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    if let Ok(accept) = accept.parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

async fn scores(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let (kind, length) = (stream.read_u8().await?, stream.read_u8().await?);
        if kind != TEXT || length < MASKED || length - MASKED > LONGEST {
            // Closing too, and whatever is not understood here: protocol error (section 7.4.1) where it was no close.
            let code: &[u8] = if kind == CLOSE { &[] } else { &1002_u16.to_be_bytes() };
            return say(&mut stream, CLOSE, code).await;
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut text = vec![0; usize::from(length - MASKED)];
        stream.read_exact(&mut text).await?;
        text.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let answer = match std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()) {
            Some(account) => super::scored(account).to_string(),
            None => r#"{"error": "send an account's number"}"#.to_owned(),
        };
        say(&mut stream, TEXT, answer.as_bytes()).await?;
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> std::io::Result<()> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| std::io::Error::other("an answer longer than one short frame"))?;
    let frame = [&[kind, length], payload].concat();
    stream.write_all(&frame).await?;
    stream.flush().await
}
