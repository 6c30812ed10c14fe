//! The witness over HTTP: `POST /add-checkpoint` (C2SP tlog-witness), and `GET /witnessed/<SHA-256 of the log's name>`,
//! the checkpoint that was cosigned last, for a log that has to find out whether its own database went back.
//!
//! Who asks is no matter: only what a watched log's key signed is cosigned or shown.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use super::{Refusal, Witness};

/// A proof of 63 hashes and a checkpoint have less than 4 KiB; extension lines and foreign signatures need some more.
const MAX_REQUEST: usize = 16 * 1024;

/// The routes of a witness.
pub(crate) fn router(witness: Arc<Witness>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add))
        .route("/witnessed/{digest}", get(witnessed))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(witness)
}

async fn add(State(witness): State<Arc<Witness>>, request: String) -> Response {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // It forces the remembered tree to the disk.
    let added = tokio::task::spawn_blocking(move || witness.add(&request, now)).await;
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let refusal = match added {
        Ok(Ok(line)) => return (plain, line).into_response(),
        Ok(Err(refusal)) => refusal,
        Err(_) => return (StatusCode::INTERNAL_SERVER_ERROR, plain, "the witness failed\n").into_response(),
    };
    let status = match &refusal {
        Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
        Refusal::UnknownLog => StatusCode::NOT_FOUND,
        Refusal::Unsigned => StatusCode::FORBIDDEN,
        Refusal::Conflict(size) => {
            let headers = [(header::CONTENT_TYPE, "text/x.tlog.size")];
            return (StatusCode::CONFLICT, headers, format!("{size}\n")).into_response();
        }
        Refusal::Inconsistent => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::State(_) => {
            tracing::error!(error = signet_observe::error_chain(&refusal), "nothing is cosigned");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    (status, plain, format!("{refusal}\n")).into_response()
}

async fn witnessed(State(witness): State<Arc<Witness>>, Path(digest): Path<String>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    match witness.last(&digest) {
        Some(note) => (headers, note).into_response(),
        None => (StatusCode::NOT_FOUND, headers, "nothing was cosigned for that log\n".to_owned()).into_response(),
    }
}
