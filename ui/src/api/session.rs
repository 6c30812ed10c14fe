//! Signing in and out.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::{SignedDuration, Timestamp};

use crate::app::App;
use crate::guard::{self, Caller};
use crate::model::{Problem, SessionInfo, SignIn};
use crate::problem::Failure;
use crate::session::{SESSION_TTL, TooManyTries};

/// Exchanges the dashboard token for a session cookie.
#[utoipa::path(post, path = "/api/session", tag = "session", request_body = SignIn, responses(
    (status = 200, body = SessionInfo, description = "Signed in; the answer sets the session cookie"),
    (status = 401, body = Problem), (status = 403, body = Problem), (status = 429, body = Problem),
))]
pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    address: Option<Extension<ConnectInfo<std::net::SocketAddr>>>,
    headers: HeaderMap,
    body: Result<Json<SignIn>, JsonRejection>,
) -> Result<Response, Failure> {
    let Json(SignIn { token }) =
        body.map_err(|_| Failure::BadRequest("the body must be JSON like {\"token\": \"...\"}, at most 8 KiB".into()))?;
    let source = guard::source_of(address.as_ref().map(|Extension(info)| info));
    let now = Instant::now();
    match app.sessions.check_token(token.trim(), source, now) {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(%source, "sign-in refused: wrong token");
            return Err(Failure::WrongToken);
        }
        Err(TooManyTries(wait)) => {
            return Err(Failure::TooManyTries { retry_after_seconds: wait.as_secs().max(1) });
        }
    }
    let id = app.sessions.open(now).map_err(|_| Failure::Internal("no random bytes".into()))?;
    tracing::info!(%source, "signed in");
    let ttl = SESSION_TTL.as_secs();
    // Behind a proxy that terminates TLS the cookie never travels in the clear.
    let secure = if headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https") { "; Secure" } else { "" };
    let cookie = format!("{}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={ttl}{secure}", app.cookie);
    let mut response = Json(info(Some(SESSION_TTL))).into_response();
    let value = HeaderValue::from_str(&cookie).map_err(|error| Failure::Internal(error.to_string()))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

/// The session of this request.
#[utoipa::path(get, path = "/api/session", tag = "session", responses(
    (status = 200, body = SessionInfo), (status = 401, body = Problem),
))]
pub(crate) async fn current(Extension(caller): Extension<Caller>) -> Json<SessionInfo> {
    Json(match caller {
        Caller::Session(session) => info(Some(session.ends.saturating_duration_since(Instant::now()))),
        Caller::Token => info(None),
    })
}

/// Ends the session; its live lists end too.
#[utoipa::path(delete, path = "/api/session", tag = "session", responses(
    (status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
))]
pub(crate) async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Failure> {
    if let Some(id) = guard::cookie(&headers, &app.cookie) {
        app.sessions.close(id);
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let gone = format!("{}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0", app.cookie);
    let value = HeaderValue::from_str(&gone).map_err(|error| Failure::Internal(error.to_string()))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

fn info(left: Option<std::time::Duration>) -> SessionInfo {
    let expires_at = left.and_then(|left| {
        let left = SignedDuration::from_secs(i64::try_from(left.as_secs()).ok()?);
        Timestamp::now().checked_add(left).ok().map(|at| at.to_string())
    });
    SessionInfo { expires_at, version: env!("CARGO_PKG_VERSION").into() }
}
