//! The proxy's own answers, in one place: denials and errors, for HTTP and for gRPC.
//!
//! They name the decision's id or a stable error code and one plain sentence, and nothing about policy or topology.

use std::time::Duration;

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use uuid::Uuid;

use crate::balance::Limit;
use crate::body::Body;
use crate::headers::{self, HeadError};
use crate::upstream::UpstreamError;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How the caller speaks: what a denial looks like depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Http,
    Grpc,
}

/// A stable error of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! faults {
    ($($name:ident = $status:ident $code:literal $text:literal;)*) => {
        $(pub(crate) const $name: Fault = Fault { status: StatusCode::$status, code: $code, text: $text };)*
    };
}

faults! {
    NO_ENDPOINTS = SERVICE_UNAVAILABLE "no_endpoints" "The service has no endpoints.";
    CONNECT_FAILED = BAD_GATEWAY "connect_failed" "No connection to the service could be made.";
    CONNECT_TIMEOUT = GATEWAY_TIMEOUT "connect_timeout" "Connecting to the service took too long.";
    PEER_REFUSED = BAD_GATEWAY "peer_identity" "The service's endpoint did not prove an identity that the service may have.";
    GATEWAY_REFUSED = BAD_GATEWAY "gateway_refused" "The remote cluster's gateway refused the call.";
    BROKEN = BAD_GATEWAY "connection_broken" "The connection to the service broke before it answered.";
    APP_DOWN = BAD_GATEWAY "app_unreachable" "The application behind the sidecar could not be reached.";
    BAD_REQUEST = BAD_REQUEST "bad_request" "The request's head is not acceptable.";
    UPGRADE = NOT_IMPLEMENTED "upgrade_refused" "Of protocol upgrades only WebSocket (RFC 6455, version 13) is passed on, and only to services that declare HTTP/1.1.";
    USE_CONNECT = BAD_REQUEST "tcp_service" "The service speaks TCP; ask for it with CONNECT.";
    EGRESS_UNRESOLVED = BAD_GATEWAY "egress_unresolved" "The host outside of the mesh could not be resolved.";
    EGRESS_UNREACHABLE = BAD_GATEWAY "egress_unreachable" "The host outside of the mesh could not be reached.";
    EGRESS_AUTHORITIES = BAD_GATEWAY "egress_authorities" "This sidecar has no authorities to verify the host outside by.";
    NO_ROUTE = NOT_FOUND "no_route" "No rule of the service's routes fits the request.";
    NO_BACKEND = INTERNAL_SERVER_ERROR "no_backend" "The route leads to no service that exists.";
    REQUEST_TIMEOUT = GATEWAY_TIMEOUT "request_timeout" "The service did not answer in the time that its route allows.";
    NO_HEALTHY = SERVICE_UNAVAILABLE "no_healthy_endpoints" "No endpoint of the service is healthy.";
    CIRCUIT_CONNECTIONS = SERVICE_UNAVAILABLE "circuit_connections" "As many connections to the service are in use as its TrafficPolicy allows.";
    CIRCUIT_PENDING = SERVICE_UNAVAILABLE "circuit_pending" "As many calls wait for a connection to the service as its TrafficPolicy allows.";
    CIRCUIT_REQUESTS = SERVICE_UNAVAILABLE "circuit_requests" "As many calls of the service are in flight as its TrafficPolicy allows.";
    NESTED = BAD_REQUEST "nested_connect" "CONNECT inside CONNECT is not passed on.";
}

/// 403 or PERMISSION_DENIED, with the decision's id.
pub(crate) fn denied(form: Form, decision: Uuid) -> Response<Body> {
    let mut response = match form {
        Form::Grpc => grpc(HeaderValue::from_static("7"), HeaderValue::from_static("denied by policy")),
        Form::Http => text(StatusCode::FORBIDDEN, format!("denied by policy, decision {}\n", decision.hyphenated())),
    };
    response.headers_mut().insert(headers::DECISION, headers::id_value(decision));
    response
}

/// 401 (RFC 6750, section 3.1) or UNAUTHENTICATED, with the decision's id: the caller has to come with another token.
pub(crate) fn token_refused(form: Form, decision: Uuid) -> Response<Body> {
    let mut response = match form {
        Form::Grpc => grpc(HeaderValue::from_static("16"), HeaderValue::from_static("the token was refused")),
        Form::Http => {
            let decision = decision.hyphenated();
            let mut response = text(StatusCode::UNAUTHORIZED, format!("the token was refused, decision {decision}\n"));
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            response
        }
    };
    response.headers_mut().insert(headers::DECISION, headers::id_value(decision));
    response
}

/// 429 (RFC 6585 section 4) or RESOURCE_EXHAUSTED, with the decision's id and the seconds to wait.
pub(crate) fn limited(form: Form, decision: Uuid, wait: Duration) -> Response<Body> {
    let mut response = match form {
        Form::Grpc => grpc(HeaderValue::from_static("8"), HeaderValue::from_static("rate limit exceeded")),
        Form::Http => {
            let sentence = format!("rate limit exceeded, decision {}\n", decision.hyphenated());
            text(StatusCode::TOO_MANY_REQUESTS, sentence)
        }
    };
    // Rounded up: who waits that long is not refused for it.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response.headers_mut().insert(headers::DECISION, headers::id_value(decision));
    response
}

/// What a TrafficPolicy has calls answered with in place of the service.
pub(crate) fn injected(form: Form, status: StatusCode, grpc_status: u32) -> Response<Body> {
    const TEXT: &str = "A fault that a TrafficPolicy asks for; nothing was sent.";
    let mut response = match form {
        Form::Grpc => grpc(HeaderValue::from(grpc_status), HeaderValue::from_static(TEXT)),
        Form::Http => text(status, format!("{TEXT}\n")),
    };
    response.headers_mut().insert(headers::ERROR, HeaderValue::from_static("fault_injected"));
    response
}

/// An error of the data plane: gRPC gets UNAVAILABLE (or INTERNAL for what repeating cannot mend), DEADLINE_EXCEEDED for a
/// route's timeout and UNIMPLEMENTED for what no route fits.
pub(crate) fn fault(form: Form, fault: Fault) -> Response<Body> {
    let mut response = match form {
        Form::Grpc => {
            let status = match fault.code {
                "request_timeout" => "4",
                "no_route" => "12",
                _ if fault.status.is_server_error() => "14",
                _ => "13",
            };
            grpc(HeaderValue::from_static(status), HeaderValue::from_static(fault.text))
        }
        Form::Http => text(fault.status, format!("{}\n", fault.text)),
    };
    response.headers_mut().insert(headers::ERROR, HeaderValue::from_static(fault.code));
    response
}

/// A head that was refused. On HTTP/1 the connection ends with it: where such a request ends is for nobody to guess.
pub(crate) fn refused_head(form: Form, error: HeadError, version: Version) -> Response<Body> {
    let mut response = fault(form, if error == HeadError::Upgrade { UPGRADE } else { BAD_REQUEST });
    if version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Ends an HTTP/1 connection whose request asked for an upgrade, unless it got one: what its client sent behind the
/// request may be meant for the other protocol.
pub(crate) fn end_unless_switched(response: &mut Response<Body>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS && response.version() < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Trailers-only: the status stands in the response's head.
fn grpc(status: HeaderValue, message: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let map = response.headers_mut();
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    map.insert(GRPC_STATUS, status);
    map.insert(GRPC_MESSAGE, message);
    response
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let map = response.headers_mut();
    map.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    map.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What an upstream's failure is to the caller.
pub(crate) fn unreachable(form: Form, error: &UpstreamError) -> Response<Body> {
    if let Some(decision) = error.denial() {
        return denied(form, decision);
    }
    match error {
        UpstreamError::Gateway { status: 503, .. } => fault(form, NO_ENDPOINTS),
        UpstreamError::Gateway { .. } => fault(form, GATEWAY_REFUSED),
        UpstreamError::Connect { .. } | UpstreamError::Protocol { .. } => fault(form, CONNECT_FAILED),
        UpstreamError::Timeout { .. } => fault(form, CONNECT_TIMEOUT),
        UpstreamError::Overflow { limit, .. } => fault(
            form,
            match limit {
                Limit::Connections => CIRCUIT_CONNECTIONS,
                Limit::Pending => CIRCUIT_PENDING,
                // A retry over its limit is not made, and not refused.
                Limit::Requests | Limit::Retries => CIRCUIT_REQUESTS,
            },
        ),
        UpstreamError::Identity { .. } => fault(form, PEER_REFUSED),
        UpstreamError::Broken { .. } | UpstreamError::Silent { .. } | UpstreamError::Switched { .. } => {
            fault(form, BROKEN)
        }
    }
}
