//! WebSocket (RFC 6455) by HTTP/1.1's upgrade (RFC 9110, section 7.8): which requests ask for it, and whether an answer
//! grants it.
//!
//! Behind an upgrade bytes are opaque, so it is passed on only where both ends certainly agreed: a request that is a
//! WebSocket handshake in every part, and a 101 that proves by its `Sec-WebSocket-Accept` that a WebSocket server read
//! it. Every other upgrade is refused: behind `h2c`, `TLS` and their like further requests would come that nobody
//! decides.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::header::{TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use crate::body::Body;
use crate::headers::{HTTP2_SETTINGS, HeadError};

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// A handshake that was asked for.
pub(crate) struct Handshake {
    /// What a server that read it answers.
    accept: String,
    client: OnUpgrade,
}

/// Both ends of an upgraded connection, once the client has its answer.
pub(crate) struct Switching {
    client: OnUpgrade,
    server: OnUpgrade,
    /// Counts the call with its endpoint for as long as it is open.
    held: Body,
}

/// What a connection's task does when its HTTP has ended in another protocol.
#[derive(Default)]
pub(crate) struct Behind(Mutex<Option<BoxFuture<'static, ()>>>);

impl Behind {
    /// `next` must wait for the upgrade by itself: it is taken when HTTP has ended, for whatever reason.
    pub(crate) fn put(&self, next: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock() = Some(Box::pin(next));
    }

    pub(crate) fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().take()
    }
}

impl Handshake {
    /// The handshake in a request's head. `None`: no upgrade is asked for.
    ///
    /// # Errors
    /// When another upgrade is asked for, or a WebSocket in a way that some server may read differently.
    pub(crate) fn asked(parts: &mut Parts) -> Result<Option<Self>, HeadError> {
        if !parts.headers.contains_key(UPGRADE) {
            return Ok(None);
        }
        let Some(key) = handshake_key(parts) else { return Err(HeadError::Upgrade) };
        let accept = accept_of(key.as_bytes());
        // INVARIANT: hyper puts it there for every HTTP/1.1 request that asks for an upgrade.
        let Some(client) = parts.extensions.remove::<OnUpgrade>() else { return Err(HeadError::Upgrade) };
        Ok(Some(Self { accept, client }))
    }

    /// Asks the next hop for the same; its other hop-by-hop headers were removed.
    pub(crate) fn pass_on(headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, WEBSOCKET);
    }

    /// Takes over a 101 that grants the handshake, and gives the answer for the client. `None`: it grants something else.
    pub(crate) fn granted(self, mut response: Response<Body>) -> Option<(Response<Body>, Switching)> {
        let accept = only(response.headers(), &SEC_WEBSOCKET_ACCEPT)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS || accept.as_bytes() != self.accept.as_bytes() {
            return None;
        }
        let server = hyper::upgrade::on(&mut response);
        let (parts, held) = response.into_parts();
        let mut answer = Response::from_parts(parts, Body::empty());
        Self::pass_on(answer.headers_mut());
        Some((answer, Switching { client: self.client, server, held }))
    }
}

impl Switching {
    /// The two streams and what has to be held while they are open. `None`: one end left before it was up.
    pub(crate) async fn streams(self) -> Option<(TokioIo<Upgraded>, TokioIo<Upgraded>, Body)> {
        let (client, server) = tokio::try_join!(self.client, self.server).ok()?;
        Some((TokioIo::new(client), TokioIo::new(server), self.held))
    }
}

/// Whether an answer's head switches to WebSocket; which handshake it grants is seen in [`Handshake::granted`].
pub(crate) fn switches(headers: &HeaderMap) -> bool {
    only(headers, &UPGRADE).is_some_and(is_websocket) && names_upgrade(headers)
}

/// The key of a handshake that is one in every part (RFC 6455, section 4.2.1).
fn handshake_key(parts: &Parts) -> Option<&HeaderValue> {
    let headers = &parts.headers;
    let asks = parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && only(headers, &UPGRADE).is_some_and(is_websocket)
        && names_upgrade(headers)
        && only(headers, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version.as_bytes() == b"13");
    // A body would be sent before the protocol changes, where no two servers read on in the same place.
    let bodiless = !headers.contains_key(TRANSFER_ENCODING)
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0")
        && !headers.contains_key(HTTP2_SETTINGS);
    let key = only(headers, &SEC_WEBSOCKET_KEY)?;
    let sixteen = STANDARD.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16);
    (asks && bodiless && sixteen).then_some(key)
}

fn accept_of(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    STANDARD.encode(context.finish())
}

fn is_websocket(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// Whether `Connection` names the upgrade; without it the header concerns some other hop.
fn names_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(',')).map(str::trim);
    tokens.any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// The value of a field that stands there exactly once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use http::Request;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// The handshake of RFC 6455, section 1.2, with some headers replaced (by nothing: removed) and more after it.
    fn head(method: &str, version: Version, replaced: &[(&str, &str)], more: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/chat").version(version);
        for (name, value) in [
            ("host", "ledger"),
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "13"),
        ] {
            let value = replaced.iter().find(|(other, _)| *other == name).map_or(value, |(_, value)| value);
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_answer_proves_that_the_handshake_was_read() {
        // The example of RFC 6455, section 1.3.
        assert_eq!(accept_of(KEY.as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_a_whole_websocket_handshake_is_one() {
        assert!(handshake_key(&head("GET", Version::HTTP_11, &[], &[])).is_some());
        assert!(handshake_key(&head("GET", Version::HTTP_11, &[("upgrade", "WebSocket")], &[])).is_some());
        assert!(handshake_key(&head("GET", Version::HTTP_11, &[], &[("content-length", "0")])).is_some());
        let replaced: &[&[(&str, &str)]] = &[
            &[("upgrade", "h2c")],
            &[("upgrade", "websocket, h2c")],
            &[("upgrade", "TLS/1.0")],
            &[("connection", "keep-alive")],
            &[("connection", "")],
            &[("sec-websocket-key", "")],
            &[("sec-websocket-key", "c2hvcnQ=")],
            &[("sec-websocket-key", "!")],
            &[("sec-websocket-version", "")],
            &[("sec-websocket-version", "12")],
        ];
        for replaced in replaced {
            assert!(handshake_key(&head("GET", Version::HTTP_11, replaced, &[])).is_none(), "{replaced:?}");
        }
        for more in [
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("upgrade", "h2c"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "8"),
        ] {
            assert!(handshake_key(&head("GET", Version::HTTP_11, &[], &[more])).is_none(), "{more:?}");
        }
        for (method, version) in [("POST", Version::HTTP_11), ("GET", Version::HTTP_10), ("GET", Version::HTTP_2)] {
            assert!(handshake_key(&head(method, version, &[], &[])).is_none(), "{method} {version:?}");
        }
    }

    #[test]
    fn a_switch_to_anything_else_is_none() {
        for (upgrade, connection, expected) in [
            ("websocket", "Upgrade", true),
            ("WebSocket", "keep-alive, upgrade", true),
            ("h2c", "Upgrade", false),
            ("websocket", "keep-alive", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(CONNECTION, HeaderValue::from_static(connection));
            assert_eq!(switches(&headers), expected, "{upgrade} {connection}");
        }
    }
}
