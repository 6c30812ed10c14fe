//! What every request passes: the session check, the same-origin check and the security headers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::app::App;
use crate::problem::Failure;
use crate::session::{Session, TooManyTries};

/// Who asks, put into each request that passed.
#[derive(Clone)]
pub(crate) enum Caller {
    Session(Session),
    /// The request carried the token itself.
    Token,
}

impl Caller {
    /// Who it is, as records of its reading name it. The token is one for all: it tells people apart no further.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Session(_) => "holder of the dashboard token, by browser",
            Self::Token => "holder of the dashboard token, by program",
        }
    }
}

/// The address that wrong tries are counted against.
pub(crate) fn source_of(peer: Option<&ConnectInfo<SocketAddr>>) -> IpAddr {
    peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(address)| address.ip())
}

/// Lets only requests with a valid session cookie or the bearer token through.
pub(crate) async fn signed_in(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let now = Instant::now();
    let caller = if let Some(token) = bearer(request.headers()) {
        match app.sessions.check_token(token, source_of(request.extensions().get()), now) {
            Ok(true) => Caller::Token,
            Ok(false) => return Failure::WrongToken.into_response(),
            Err(TooManyTries(wait)) => {
                return Failure::TooManyTries { retry_after_seconds: wait.as_secs().max(1) }.into_response();
            }
        }
    } else {
        let session = cookie(request.headers(), &app.cookie).and_then(|id| app.sessions.find(id, now));
        match session {
            Some(session) => Caller::Session(session),
            None => return Failure::NotSignedIn.into_response(),
        }
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Refuses state-changing requests that a page of another origin could have caused.
pub(crate) async fn same_origin(request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && !is_same_origin(request.headers()) {
        return Failure::OtherOrigin.into_response();
    }
    next.run(request).await
}

/// Browsers send `Sec-Fetch-Site` and, on unsafe methods, `Origin`; a request with neither comes from a program, and
/// then it must not lean on a cookie.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    let origin = headers.get(header::ORIGIN);
    if site.is_none() && origin.is_none() {
        return !headers.contains_key(header::COOKIE);
    }
    let site_fits = site.is_none_or(|site| site == "same-origin" || site == "none");
    let origin_fits = origin.is_none_or(|origin| {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority =
            origin.to_str().ok().and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
        matches!((host, authority), (Some(host), Some(authority)) if host.eq_ignore_ascii_case(authority))
    });
    site_fits && origin_fits
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The value of cookie `name`.
pub(crate) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// No inline script or style, no frame, no other origin. `connect-src 'self'` covers the event stream.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                   connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Puts the security headers on every answer, errors included.
pub(crate) async fn secure_headers(request: Request, next: Next) -> Response {
    let api = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if api {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn tells_own_pages_from_others() {
        let own = ("host", "127.0.0.1:8443");
        let table: [(&[(&'static str, &'static str)], bool); 8] = [
            (&[own], true),
            (&[own, ("cookie", "a=b")], false),
            (&[own, ("origin", "http://127.0.0.1:8443"), ("cookie", "a=b")], true),
            (&[own, ("origin", "http://127.0.0.1:9999"), ("cookie", "a=b")], false),
            (&[own, ("origin", "null")], false),
            (&[own, ("sec-fetch-site", "same-origin"), ("cookie", "a=b")], true),
            (&[own, ("sec-fetch-site", "same-site")], false),
            (&[own, ("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], false),
        ];
        for (pairs, expected) in table {
            assert_eq!(is_same_origin(&headers(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn reads_cookies_and_bearer_tokens() {
        let all = headers(&[("cookie", "x=1; signet=abc; y=2"), ("authorization", "bearer  tok")]);
        assert_eq!(cookie(&all, "signet"), Some("abc"));
        assert_eq!(cookie(&all, "sig"), None);
        assert_eq!(bearer(&all), Some("tok"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
    }
}
