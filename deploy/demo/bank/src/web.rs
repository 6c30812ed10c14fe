//! The customers' page: shows an account, its balance from the ledger and its fraud score from the other cluster.

use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::extract::State;
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};

use crate::outbound::{self, Way};

pub(crate) async fn run(listen: SocketAddr, way: Way) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/", get(page))
        .route("/overview", get(overview))
        .route("/healthz", get(async || "ok"))
        .with_state(way);
    crate::serve::serve(listen, router).await
}

/// The page, filled up to a kibibyte, the size that benchmarks of proxies agree on.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let page = "<!doctype html><title>Bank</title><h1>Your accounts</h1><p>See <a href=/overview>the overview</a>.</p>";
    format!("{page:<1024}")
});

async fn page() -> Html<&'static str> {
    Html(&PAGE)
}

/// What the customer sees of account 1; each part says for itself when it could not be had.
async fn overview(State(way): State<Way>) -> Json<Value> {
    let account = fetch(way, Uri::from_static("http://ledger.bank.svc.cluster.local/accounts/1")).await;
    let score = fetch(way, Uri::from_static("http://fraud.bank.svc.clusterset.local/score?account=1")).await;
    Json(json!({ "account": account, "fraud": score }))
}

async fn fetch(way: Way, uri: Uri) -> Value {
    match outbound::call(way, Method::GET, uri, HeaderMap::new(), Bytes::new()).await {
        Ok(answer) => json!({
            "status": answer.status.as_u16(),
            "body": serde_json::from_slice::<Value>(&answer.body).unwrap_or(Value::Null),
        }),
        Err(error) => json!({ "error": format!("{error:#}") }),
    }
}
