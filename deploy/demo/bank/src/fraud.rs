//! Fraud scores: a small deterministic model over the account's number, asked for once or over a WebSocket.

mod live;

use std::net::SocketAddr;

use axum::extract::{Query, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Score {
    account: u64,
}

pub(crate) async fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let router = Router::new().route("/score", get(score)).route("/healthz", get(async || "ok"));
    crate::serve::serve(listen, router).await
}

async fn score(Query(query): Query<Score>, request: Request) -> Response {
    if live::asked(request.headers()) {
        return live::serve(request);
    }
    Json(scored(query.account)).into_response()
}

fn scored(account: u64) -> Value {
    // A multiplicative hash spreads neighbouring accounts over the range of scores.
    let score = account.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57;
    json!({ "account": account, "score": score, "of": 127 })
}
