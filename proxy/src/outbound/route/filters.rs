//! What a rule does to a call: header modifiers, rewrite, redirect.

use http::header::LOCATION;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Response};

use super::with_query;
use crate::body::Body;
use crate::decide::Host;
use crate::forward;
use crate::snapshot::route::{HeaderModifier, Match, PathMatch, PathModifier, Redirect, Rewrite};

pub(super) fn modify(modifier: &HeaderModifier, headers: &mut HeaderMap) {
    for (name, value) in &modifier.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &modifier.add {
        headers.append(name, value.clone());
    }
    for name in &modifier.remove {
        headers.remove(name);
    }
}

/// The path after `modifier`. `found` is the match whose prefix is replaced.
fn modified(modifier: &PathModifier, found: &Match, path: &str) -> String {
    match modifier {
        PathModifier::Full(full) => full.clone(),
        PathModifier::Prefix(new) => {
            let rest = match &found.path {
                PathMatch::Prefix(prefix) => path.strip_prefix(prefix.as_str()).unwrap_or(path),
                PathMatch::Exact(_) | PathMatch::Regex(_) => path,
            };
            let joined = format!("{}{rest}", new.trim_end_matches('/'));
            if joined.is_empty() { "/".to_owned() } else { joined }
        }
    }
}

/// The new path, with the new host in `host`. `None`: what came out is no path.
pub(super) fn rewrite(rewrite: &Rewrite, found: &Match, path: &PathAndQuery, host: &mut Host) -> Option<PathAndQuery> {
    if let Some(name) = &rewrite.hostname {
        *host = Host::Authority(Authority::try_from(name.as_str()).ok()?);
    }
    match &rewrite.path {
        Some(modifier) => with_query(&modified(modifier, found, path.path()), path.query()),
        None => Some(path.clone()),
    }
}

/// The answer that sends the caller elsewhere. `port` is the service's own.
pub(super) fn redirect(
    redirect: &Redirect,
    found: &Match,
    path: &PathAndQuery,
    host: &Host,
    port: u16,
) -> Response<Body> {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let asked = forward::split_host(host.as_str()).map_or("", |(name, _)| name);
    let name = redirect.hostname.as_deref().unwrap_or(asked);
    let usual = if scheme == "https" { 443 } else { 80 };
    // Gateway API: without a port the scheme's own where one is given, else the one that was asked for.
    let port = redirect.port.unwrap_or(if redirect.scheme.is_some() { usual } else { port });
    let new = redirect.path.as_ref().map(|modifier| modified(modifier, found, path.path()));
    let mut location = format!("{scheme}://{name}");
    if port != usual {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(new.as_deref().unwrap_or(path.path()));
    if let Some(query) = path.query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = redirect.status;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
