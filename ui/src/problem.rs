//! The one place where failures become answers. Internal text stays in the log; callers get a stable code and a
//! sentence that says what to do.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::model::Problem;

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    NotSignedIn,
    WrongToken,
    TooManyTries {
        retry_after_seconds: u64,
    },
    OtherOrigin,
    NotFound(&'static str),
    BadRequest(String),
    /// The audit database did not answer.
    Store(String),
    /// An audit service did not record the access, so that nothing is answered.
    NotRecorded(String),
    TooManyStreams,
    Internal(String),
}

impl Failure {
    fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Self::NotSignedIn => {
                (StatusCode::UNAUTHORIZED, "not_signed_in", "sign in with the dashboard token first".into())
            }
            Self::WrongToken => (
                StatusCode::UNAUTHORIZED,
                "wrong_token",
                "this is not the dashboard token; it is in the token file of signet-ui, and `signet demo` prints it"
                    .into(),
            ),
            Self::TooManyTries { retry_after_seconds } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_tries",
                format!("too many wrong tokens from this address; wait {retry_after_seconds} s"),
            ),
            Self::OtherOrigin => {
                (StatusCode::FORBIDDEN, "other_origin", "this request came from a page of another origin".into())
            }
            Self::NotFound(what) => (StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}")),
            Self::BadRequest(message) => (StatusCode::BAD_REQUEST, "bad_request", message.clone()),
            Self::Store(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "store_unavailable",
                "the audit database does not answer; the log of signet-ui says why".into(),
            ),
            Self::NotRecorded(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "access_not_recorded",
                "the audit service did not record this access, so nothing is answered; the log of signet-ui says why"
                    .into(),
            ),
            Self::TooManyStreams => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_streams",
                "too many live lists are open on this server; close one and try again".into(),
            ),
            Self::Internal(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log says why".into())
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match &self {
            Self::Store(cause) => tracing::warn!(cause, "the audit database did not answer"),
            Self::NotRecorded(cause) => tracing::warn!(cause, "an access could not be recorded"),
            Self::Internal(cause) => tracing::error!(cause, "a request failed"),
            _ => {}
        }
        let (status, code, message) = self.parts();
        let mut response = (status, Json(Problem { code: code.into(), message })).into_response();
        if let Self::TooManyTries { retry_after_seconds } = self {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds));
        }
        response
    }
}
