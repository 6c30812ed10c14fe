//! Heads on their way through: in the form that the next hop speaks (RFC 9112 section 3.2, RFC 9113 section 8.3).

use std::net::Ipv6Addr;

use http::header::{CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::decide::Host;
use crate::tls::Wire;

/// What the client asked for by name: the authority of the URI (which RFC 9112 section 3.2.2 puts above `Host`), or `Host`.
pub(crate) fn host_of(parts: &Parts) -> Host {
    if let Some(authority) = parts.uri.authority() {
        return Host::Authority(authority.clone());
    }
    parts.headers.get(HOST).map_or(Host::None, |value| Host::Header(value.clone()))
}

/// Host and port; `None` when it is no valid authority, or carries user information.
pub(crate) fn split_host(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            (host, Some(port.parse().ok().filter(|_| digits)?))
        }
        _ => (text, None),
    };
    // Brackets stand around an IPv6 address or nowhere (RFC 3986, section 3.2.2).
    let plain = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains(['@', '/', '?', '#', '\\', ' ', '[', ']', ':']),
    };
    plain.then_some((host, port))
}

/// Rewrites the head for the next hop. `path` is what was decided about.
pub(crate) fn shape(parts: &mut Parts, wire: Wire, path: PathAndQuery, host: &Host) {
    match wire {
        Wire::H2 => to_h2(parts, path, host),
        Wire::Http1 | Wire::Tcp => to_http1(parts, path, host),
    }
}

/// Says that a body of unknown length follows; for GET and the like hyper would take it that none does.
pub(crate) fn frame(parts: &mut Parts, wire: Wire, body: &Incoming) {
    if !body.is_end_stream() {
        frame_body(parts, wire);
    }
}

/// [`frame`] where a body is known to follow.
pub(crate) fn frame_body(parts: &mut Parts, wire: Wire) {
    if wire == Wire::Http1 && !parts.headers.contains_key(CONTENT_LENGTH) {
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn to_http1(parts: &mut Parts, path: PathAndQuery, host: &Host) {
    if let Host::Authority(authority) = host
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, value);
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(parts);
    }
    parts.version = Version::HTTP_11;
    parts.uri = Uri::from(path);
}

fn to_h2(parts: &mut Parts, path: PathAndQuery, host: &Host) {
    let authority = match host {
        Host::Authority(authority) => Some(authority.clone()),
        Host::Header(value) => Authority::try_from(value.as_bytes()).ok(),
        Host::None => None,
    };
    parts.headers.remove(HOST);
    parts.version = Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    uri.path_and_query = Some(path);
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

/// RFC 9113, section 8.2.3: cookie crumbs are one field again before they reach HTTP/1.1.
fn join_cookies(parts: &mut Parts) {
    let mut crumbs = parts.headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let mut joined = Vec::new();
    for crumb in parts.headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        parts.headers.insert(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::Request;

    #[test]
    fn splits_hosts() {
        for (text, expected) in [
            ("ledger", Some(("ledger", None))),
            ("ledger.bank:8080", Some(("ledger.bank", Some(8080)))),
            ("[::1]:80", Some(("[::1]", Some(80)))),
            ("[::1]", Some(("[::1]", None))),
            ("user@ledger", None),
            ("ledger:x", None),
            ("ledger:+80", None),
            ("a:b:80", None),
            ("::1", None),
            ("u[:]", None),
            ("[ledger]:80", None),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(split_host(text), expected, "{text}");
        }
    }

    #[test]
    fn absolute_form_wins_over_host_and_becomes_origin_form() {
        let (mut parts, ()) =
            Request::get("http://ledger/accounts/1?x=2").header("host", "other").body(()).unwrap().into_parts();
        let host = host_of(&parts);
        let path = parts.uri.path_and_query().unwrap().clone();
        shape(&mut parts, Wire::Http1, path, &host);
        assert_eq!(parts.uri.to_string(), "/accounts/1?x=2");
        assert_eq!(parts.headers.get(HOST).unwrap(), "ledger");
    }

    #[test]
    fn cookies_of_http2_are_joined() {
        let (mut parts, ()) = Request::get("http://ledger/")
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap()
            .into_parts();
        let (host, path) = (host_of(&parts), PathAndQuery::from_static("/"));
        shape(&mut parts, Wire::Http1, path, &host);
        assert_eq!(parts.headers.get(COOKIE).unwrap(), "a=1; b=2");
    }
}
