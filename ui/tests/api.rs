//! The REST API over the whole router: who may ask what, what answers carry, and that the committed document is true.
//! The audit database is a closed port here, so that every part that needs it must degrade.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use futures::future::join_all;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use signet_ui::app::{App, openapi, router};
use signet_ui::clusters::Clusters;
use signet_ui::live::Live;
use signet_ui::session::MAX_FAILURES;
use signet_ui::store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

const TOKEN: &str = "the-dashboard-token-of-this-test";

fn server() -> Router {
    let pool = signet_audit::query::connect("postgres://nobody@127.0.0.1:1/none").unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let clusters = Clusters::watch(&[], &tasks, &stop);
    router(App::new(TOKEN, 1, Store::new(pool), clusters, Live::new(), tasks, stop))
}

async fn ask(
    server: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
}

async fn json(response: Response<Body>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

/// Every endpoint of the document but the one that signs in, as method and path with ids filled in.
fn endpoints() -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(&openapi().unwrap()).unwrap();
    let paths: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_value(document["paths"].clone()).unwrap();
    let all = paths.into_iter().flat_map(|(path, methods)| {
        let path = path.replace("{id}", "01932e4a-0000-7000-8000-000000000001");
        methods.into_keys().map(move |method| (method.to_uppercase(), path.clone()))
    });
    all.filter(|(method, path)| !(method == "POST" && path == "/api/session")).collect()
}

#[tokio::test]
async fn every_endpoint_turns_away_who_is_not_signed_in() {
    let endpoints = endpoints();
    assert!(endpoints.len() >= 10, "{endpoints:?}");
    let strangers: [(&str, &[(&str, &str)]); 5] = [
        ("anonymous", &[]),
        ("wrong token", &[("authorization", "Bearer not-the-token-of-this-test")]),
        ("empty token", &[("authorization", "Bearer ")]),
        ("unknown session", &[("cookie", "signet_session_1=00"), ("sec-fetch-site", "same-origin")]),
        (
            "token as cookie",
            &[("cookie", "signet_session_1=the-dashboard-token-of-this-test"), ("sec-fetch-site", "same-origin")],
        ),
    ];
    for (who, headers) in strangers {
        // A server for each, so that the limit on wrong tries does not answer in place of the check.
        let server = server();
        for (method, path) in &endpoints {
            let response = ask(&server, method, path, headers, "").await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{who}: {method} {path}");
        }
        let response = ask(&server, "GET", "/api/no-such-endpoint", headers, "").await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{who}: an unknown endpoint tells nothing");
    }
}

#[tokio::test]
async fn the_token_opens_every_endpoint_and_a_missing_database_is_not_a_failure_of_the_page() {
    let server = server();
    let bearer = format!("Bearer {TOKEN}");
    let endpoints = endpoints();
    let asked = endpoints.iter().map(|(method, path)| {
        let (server, bearer) = (&server, bearer.as_str());
        async move { (method, path, ask(server, method, path, &[("authorization", bearer)], "").await.status()) }
    });
    for (method, path, status) in join_all(asked).await {
        let expected = match path.as_str() {
            "/api/session" if method == "DELETE" => StatusCode::NO_CONTENT,
            "/api/session" | "/api/posture" | "/api/clusters" | "/api/services" => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        assert_eq!(status, expected, "{method} {path}");
    }
    let posture = json(ask(&server, "GET", "/api/posture", &[("authorization", &bearer)], "").await).await;
    assert_eq!(posture["store"]["status"], "unreachable");
    assert!(posture.get("traffic").is_none());
}

#[tokio::test]
async fn a_session_lives_from_sign_in_to_sign_out() {
    let server = server();
    let content = ("content-type", "application/json");
    let wrong = ask(&server, "POST", "/api/session", &[content], r#"{"token":"wrong"}"#).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.headers().get(header::SET_COOKIE).is_none());
    let malformed = ask(&server, "POST", "/api/session", &[content], "{").await;
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);

    let body = r#"{"token":"the-dashboard-token-of-this-test"}"#;
    let signed_in = ask(&server, "POST", "/api/session", &[content], body).await;
    assert_eq!(signed_in.status(), StatusCode::OK);
    let cookie = signed_in.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["signet_session_1=", "HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let session = cookie.split(';').next().unwrap();
    let own = [("cookie", session), ("origin", "http://127.0.0.1:1")];
    assert_eq!(ask(&server, "GET", "/api/session", &own, "").await.status(), StatusCode::OK);
    let foreign = [("cookie", session), ("origin", "http://evil.example")];
    assert_eq!(ask(&server, "DELETE", "/api/session", &foreign, "").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(ask(&server, "DELETE", "/api/session", &own, "").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(ask(&server, "GET", "/api/session", &own, "").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn too_many_wrong_tokens_are_turned_away_unread() {
    let server = server();
    let headers = [("content-type", "application/json")];
    for _ in 0..MAX_FAILURES {
        let response = ask(&server, "POST", "/api/session", &headers, r#"{"token":"wrong"}"#).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let right = r#"{"token":"the-dashboard-token-of-this-test"}"#;
    let response = ask(&server, "POST", "/api/session", &headers, right).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let server = server();
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/assets/none.js"),
        (Method::GET, "/api/posture"),
        (Method::POST, "/api/session"),
    ] {
        let response = ask(&server, method.as_str(), path, &[], "").await;
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let csp = header("content-security-policy").unwrap();
        assert!(csp.contains("default-src 'none'") && csp.contains("frame-ancestors 'none'"), "{path}: {csp}");
        assert!(!csp.contains("unsafe"), "{path}: {csp}");
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
        assert_eq!(header("referrer-policy").as_deref(), Some("no-referrer"), "{path}");
        if path.starts_with("/api/") {
            assert_eq!(header("cache-control").as_deref(), Some("no-store"), "{path}");
        }
    }
}

#[tokio::test]
async fn bad_queries_get_one_clear_error() {
    let server = server();
    let bearer = format!("Bearer {TOKEN}");
    for path in [
        "/api/decisions?decision=maybe",
        "/api/decisions?unknown=1",
        "/api/decisions?limit=-1",
        "/api/decisions/stream?after=nonsense",
    ] {
        let response = ask(&server, "GET", path, &[("authorization", &bearer)], "").await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(json(response).await["code"], "bad_request", "{path}");
    }
    let response = ask(&server, "GET", "/api/decisions/not-an-id", &[("authorization", &bearer)], "").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[test]
fn the_committed_openapi_document_is_current() {
    let committed: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    let current: Value = serde_json::from_str(&openapi().unwrap()).unwrap();
    assert!(
        committed == current,
        "ui/openapi.json is out of date; run: target/debug/signet-ui --openapi > ui/openapi.json && (cd ui/web && npm run types)"
    );
}
