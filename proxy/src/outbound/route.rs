//! Calls of services that have routes: which rule applies, what it does to the call, and where the call goes then.
//!
//! Nothing here decides whether a call is allowed: whatever is rewritten, the destination's inbound side decides on the
//! head that it gets, which is the head that its app gets. A service without routes never comes here.

mod attempts;
mod budget;
mod filters;
mod matching;
mod mirror;
mod replay;

use std::sync::{Arc, OnceLock};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use signet_policy::normalise_path;

use super::http::Client;
use super::table::Destination;
use crate::answer::{self, Form};
use crate::body::Body;
use crate::decide::Host;
use crate::flow::{Decided, Flow, Seen};
use crate::forward;
use crate::headers;
use crate::snapshot::route::{Backend, Routes};
use crate::tls::Wire;
use crate::trace::Trace;
use crate::websocket::Handshake;

pub(super) use budget::Budget;

/// The routes of one service with what they lead to in the same snapshot.
pub(super) struct Routing {
    pub(super) routes: Arc<Routes>,
    /// For each rule, in its order: backends, then mirrors. `None`: not in the snapshot.
    pub(super) targets: Vec<Targets>,
    pub(super) budget: Arc<Budget>,
}

#[derive(Default)]
pub(super) struct Targets {
    pub(super) backends: Vec<Option<Arc<Destination>>>,
    pub(super) mirrors: Vec<Option<Arc<Destination>>>,
    /// Of calls of the service that the rule applies to; looked up by the first.
    pub(super) flow: OnceLock<Arc<Flow>>,
}

/// A call before its route is applied.
pub(super) struct Asked<'a> {
    pub(super) client: &'a Client,
    pub(super) destination: &'a Destination,
    pub(super) parts: Parts,
    pub(super) path: PathAndQuery,
    pub(super) host: Host,
    pub(super) form: Form,
    pub(super) trace: &'a Trace,
    /// It is a handshake: no copies of it are made, and its answer may be no more HTTP.
    pub(super) websocket: bool,
    /// Counts in the rule's series once it is found.
    pub(super) seen: &'a mut Option<Seen>,
}

/// Answers one call of a service with routes.
pub(super) async fn forward(routing: &Routing, asked: Asked<'_>, body: Incoming) -> Response<Body> {
    let Asked { client, destination, mut parts, path, mut host, form, trace, websocket, seen } = asked;
    // What is matched is what the destination decides on: no second reading of `..` or `%2e` may lead elsewhere.
    let Some(mut path) = normal(&path) else { return answer::fault(form, answer::BAD_REQUEST) };
    let Some(found) = matching::find(&routing.routes, &parts, &path, &host) else {
        return answer::fault(form, answer::NO_ROUTE);
    };
    let (Some(rule), Some(targets)) = (routing.routes.rules.get(found.rule), routing.targets.get(found.rule)) else {
        return answer::fault(form, answer::NO_ROUTE);
    };
    let flow = targets.flow.get_or_init(|| destination.flow_by(&client.outbound.shared, &rule.name));
    *seen = Some(Seen::new(Arc::clone(flow), Decided::Elsewhere));
    headers::strip(&mut parts.headers);
    trace.pass_on(&mut parts.headers);
    if let Some(redirect) = &rule.redirect {
        let mut response = filters::redirect(redirect, found, &path, &host, destination.service.port);
        filters::modify(&rule.response_headers, response.headers_mut());
        return response;
    }
    if let Some(rewrite) = &rule.rewrite {
        let Some(changed) = filters::rewrite(rewrite, found, &path, &mut host) else {
            return answer::fault(form, answer::BAD_REQUEST);
        };
        path = changed;
    }
    filters::modify(&rule.request_headers, &mut parts.headers);
    let Some((backend, to)) = draw(&rule.backends, &targets.backends) else {
        return answer::fault(form, answer::NO_BACKEND);
    };
    let mut body = replay::Source::new(body, rule.retry.is_some(), !rule.mirrors.is_empty(), Arc::clone(flow));
    for (mirrored, to) in rule.mirrors.iter().zip(&targets.mirrors) {
        if let Some(to) = to.as_ref().filter(|_| !websocket) {
            mirror::start(client, mirrored, to, &parts, &path, &host, &mut body);
        }
    }
    filters::modify(&backend.request_headers, &mut parts.headers);
    let wire = Wire::for_protocol(to.service.protocol);
    let key = to.key(&parts.headers, path.query());
    forward::shape(&mut parts, wire, path, &host);
    body.frame(&mut parts, wire);
    if websocket {
        if wire != Wire::Http1 {
            return answer::fault(form, answer::UPGRADE);
        }
        Handshake::pass_on(&mut parts.headers);
    }
    let call = attempts::Call { rule, to, budget: &routing.budget, form, key };
    let mut response = call.run(parts, body).await;
    headers::strip_hop(response.headers_mut());
    filters::modify(&backend.response_headers, response.headers_mut());
    filters::modify(&rule.response_headers, response.headers_mut());
    response
}

/// The path in its one normal form, with the query as it came.
fn normal(given: &PathAndQuery) -> Option<PathAndQuery> {
    let path = normalise_path(given.path()).ok()?;
    if path == given.path() {
        return Some(given.clone());
    }
    with_query(&path, given.query())
}

fn with_query(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
        None => PathAndQuery::try_from(path).ok(),
    }
}

/// One backend by weight. `None` when the draw fell on one that cannot be resolved, or when there is none to draw.
fn draw<'r>(
    backends: &'r [Backend],
    targets: &'r [Option<Arc<Destination>>],
) -> Option<(&'r Backend, &'r Arc<Destination>)> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut at = fastrand::u64(..total);
    for (backend, target) in backends.iter().zip(targets) {
        let weight = u64::from(backend.weight);
        if at < weight {
            return Some((backend, target.as_ref()?));
        }
        at -= weight;
    }
    None
}

/// A second copy of a head.
fn copy_of(parts: &Parts) -> Parts {
    let (mut copy, ()) = http::Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = HeaderMap::clone(&parts.headers);
    copy
}

/// Whether nothing of a body will come.
fn is_empty(body: &Incoming) -> bool {
    body.is_end_stream()
}
