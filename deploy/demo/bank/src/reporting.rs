//! Daily reports, made from the ledger of the other cluster.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};

use crate::outbound::{self, Way};

pub(crate) async fn run(listen: SocketAddr, way: Way) -> anyhow::Result<()> {
    let router = Router::new().route("/daily", get(daily)).route("/healthz", get(async || "ok")).with_state(way);
    crate::serve::serve(listen, router).await
}

async fn daily(State(way): State<Way>) -> (StatusCode, Json<Value>) {
    let uri = Uri::from_static("http://ledger.bank.svc.clusterset.local/accounts/1");
    match outbound::call(way, Method::GET, uri, HeaderMap::new(), Bytes::new()).await {
        Ok(answer) if answer.status.is_success() => {
            let account = serde_json::from_slice::<Value>(&answer.body).unwrap_or(Value::Null);
            (StatusCode::OK, Json(json!({ "accounts": [account] })))
        }
        Ok(answer) => {
            (StatusCode::BAD_GATEWAY, Json(json!({ "error": "the ledger refused", "status": answer.status.as_u16() })))
        }
        Err(error) => (StatusCode::BAD_GATEWAY, Json(json!({ "error": format!("{error:#}") }))),
    }
}
