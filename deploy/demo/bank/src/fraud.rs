//! Fraud scores: a small deterministic model over the account's number.

use std::net::SocketAddr;

use axum::extract::Query;
use axum::http::StatusCode;
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

async fn score(Query(query): Query<Score>) -> (StatusCode, Json<Value>) {
    // A multiplicative hash spreads neighbouring accounts over the range of scores.
    let score = query.account.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57;
    (StatusCode::OK, Json(json!({ "account": query.account, "score": score, "of": 127 })))
}
