//! Header rules between hops: RFC 9110 section 7.6.1 (connection options), RFC 9112 section 6 (framing).
//!
//! What the mesh says about a call (`x-signet-*`) is only ever said by the mesh: such headers are removed from what
//! apps send, in requests and in responses.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Version};

pub(crate) const DECISION: HeaderName = HeaderName::from_static("x-signet-decision");
pub(crate) const ERROR: HeaderName = HeaderName::from_static("x-signet-error");
pub(crate) const SOURCE: HeaderName = HeaderName::from_static("x-signet-source");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");
pub(crate) const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Why a request's head was refused before anything was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("both content-length and transfer-encoding")]
    Framing,
    #[error("more than one host")]
    Hosts,
    #[error("no host")]
    NoHost,
    #[error("an upgrade that is no WebSocket handshake")]
    Upgrade,
    #[error("a transfer coding other than chunked")]
    Coding,
}

impl HeadError {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Framing => "ambiguous_framing",
            Self::Hosts => "ambiguous_host",
            Self::NoHost => "no_host",
            Self::Upgrade => "upgrade_refused",
            Self::Coding => "transfer_coding",
        }
    }
}

/// Refuses heads that two parsers could read in two ways. Upgrades are looked at by [`Handshake`].
///
/// [`Handshake`]: crate::websocket::Handshake
pub(crate) fn check(headers: &HeaderMap, version: Version) -> Result<(), HeadError> {
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(HeadError::Framing);
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || headers.get_all(TRANSFER_ENCODING).iter().count() > 1
        {
            return Err(HeadError::Coding);
        }
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(HeadError::Hosts),
        (None, None) if version == Version::HTTP_11 => Err(HeadError::NoHost),
        _ => Ok(()),
    }
}

/// Removes what concerns one hop only, and every `x-signet-*`: for what an app sent, request or response.
pub(crate) fn strip(headers: &mut HeaderMap) {
    strip_hop(headers);
    if headers.keys().any(is_ours) {
        let ours: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
        for name in ours {
            headers.remove(name);
        }
    }
}

/// Removes what concerns one hop only: for what another sidecar sent.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    // What `Connection` names is hop-by-hop too. The header is rare between our own sidecars, where it costs one look.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // RFC 9110 7.6.1 forbids naming end-to-end fields that framing and routing rest on.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH && *name != TE)
            .collect();
        headers.remove(CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHORIZATION, HTTP2_SETTINGS, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|te| te.as_bytes() != b"trailers") {
        headers.remove(TE);
    }
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-signet-")
}

/// Whether the request says that it is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|v| {
        let v = v.as_bytes();
        v.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// A header value of an id in hyphenated form, without going through a `String`.
pub(crate) fn id_value(id: uuid::Uuid) -> HeaderValue {
    let mut buffer = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn strips_hop_by_hop_and_what_connection_names() {
        let mut map = headers(&[
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("x-signet-source", "spiffe://east/ns/bank/sa/admin"),
            ("x-signet-decision", "forged"),
            ("host", "ledger"),
            ("accept", "*/*"),
        ]);
        strip(&mut map);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }

    #[test]
    fn connection_cannot_remove_framing_or_host() {
        let mut map = headers(&[
            ("connection", "host, content-length, te"),
            ("host", "a"),
            ("content-length", "3"),
            ("te", "trailers"),
        ]);
        strip(&mut map);
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn refuses_heads_that_can_be_read_in_two_ways() {
        type Case = (&'static [(&'static str, &'static str)], Result<(), HeadError>);
        let cases: &[Case] = &[
            (&[("host", "a"), ("content-length", "3"), ("transfer-encoding", "chunked")], Err(HeadError::Framing)),
            (&[("host", "a"), ("host", "b")], Err(HeadError::Hosts)),
            (&[], Err(HeadError::NoHost)),
            (&[("host", "a"), ("transfer-encoding", "gzip, chunked")], Err(HeadError::Coding)),
            (&[("host", "a"), ("transfer-encoding", "chunked")], Ok(())),
        ];
        for (given, expected) in cases {
            assert_eq!(check(&headers(given), Version::HTTP_11), *expected, "{given:?}");
        }
    }

    #[test]
    fn grpc_content_types() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_grpc(&headers(&[("content-type", value)])), expected, "{value}");
        }
    }
}
