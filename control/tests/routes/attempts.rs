//! HTTPRouteTimeouts (GEP-1742) and HTTPRouteRetry (GEP-1731).

use std::time::{Duration, Instant};

use crate::app::Next;
use crate::harness::{header, status};
use crate::mesh::Mesh;

fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: bank}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: echo}}]\n  rules: [{{{rule}, backendRefs: [{{name: echo-v1, \
         port: 80}}]}}]\n"
    )
}

async fn mesh(rule: &str, will: &[Next]) -> Mesh {
    let mesh = Mesh::echo(&route(rule)).await;
    mesh.app("bank/echo-v1").will(will);
    mesh
}

const SOME: Next = Next::Status(503);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_request_is_504_when_the_answer_is_late() {
    let mesh = mesh("timeouts: {request: 200ms}", &[Next::Late(Duration::from_secs(20))]).await;
    let started = Instant::now();
    let answer = mesh.get("/", "").await;
    assert_eq!((status(&answer), header(&answer, "x-signet-error")), (504, Some("request_timeout")), "{answer}");
    assert!((200..5000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!(status(&mesh.get("/", "").await), 200, "what is in time passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_request_covers_the_body_of_the_answer() {
    let mesh = mesh("timeouts: {request: 300ms}", &[Next::Trickle(Duration::from_secs(20))]).await;
    let started = Instant::now();
    let answer = mesh.get("/", "").await;
    assert!(!answer.contains("served by"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_zero_switches_a_timeout_off() {
    let mesh = mesh("timeouts: {request: 0s, backendRequest: 0ms}", &[Next::Late(Duration::from_millis(300))]).await;
    assert_eq!(status(&mesh.get("/", "").await), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_backend_request_bounds_one_attempt_and_is_retried() {
    let rule = "timeouts: {request: 5s, backendRequest: 200ms}, retry: {attempts: 1, codes: []}";
    let mesh = mesh(rule, &[Next::Late(Duration::from_secs(20))]).await;
    assert_eq!(status(&mesh.get("/", "").await), 200);
    assert_eq!(mesh.app("bank/echo-v1").count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_backend_request_alone_is_504() {
    let mesh = mesh("timeouts: {backendRequest: 200ms}", &[Next::Late(Duration::from_secs(20))]).await;
    assert_eq!(status(&mesh.get("/", "").await), 504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_codes_are_tried_again_up_to_attempts() {
    let mesh = mesh("retry: {codes: [503], attempts: 2, backoff: 1ms}", &[SOME, SOME]).await;
    assert_eq!(status(&mesh.get("/", "").await), 200);
    assert_eq!(mesh.app("bank/echo-v1").count(), 3);
    mesh.app("bank/echo-v1").will(&[SOME, SOME, SOME]);
    assert_eq!(status(&mesh.get("/", "").await), 503, "attempts are used up: the last answer is the caller's");
    assert_eq!(mesh.app("bank/echo-v1").count(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_leaves_other_codes_and_rules_without_retry_alone() {
    let first = mesh("retry: {codes: [502], attempts: 2}", &[SOME]).await;
    assert_eq!(status(&first.get("/", "").await), 503);
    assert_eq!(first.app("bank/echo-v1").count(), 1);
    let second = mesh("matches: []", &[SOME]).await;
    assert_eq!(status(&second.get("/", "").await), 503);
    assert_eq!(second.app("bank/echo-v1").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_does_not_repeat_what_is_not_idempotent() {
    let mesh = mesh("retry: {codes: [503], attempts: 2}", &[SOME]).await;
    let answer = mesh.web.call("POST", "http://echo/", "content-length: 2\r\n\r\nhi").await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert_eq!(mesh.app("bank/echo-v1").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_sends_a_body_again_whole_and_not_one_that_outgrew_the_bound() {
    let mesh = mesh("retry: {codes: [503], attempts: 1, backoff: 1ms}", &[SOME]).await;
    let answer =
        mesh.web.call("PUT", "http://echo/", &format!("content-length: 40000\r\n\r\n{}", "y".repeat(40_000))).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = mesh.app("bank/echo-v1").seen();
    assert_eq!(seen.iter().map(|seen| seen.body.len()).collect::<Vec<_>>(), [40_000, 40_000]);
    mesh.app("bank/echo-v1").will(&[SOME]);
    let chunked = format!("transfer-encoding: chunked\r\n\r\n30d40\r\n{}\r\n0\r\n\r\n", "z".repeat(200_000));
    assert_eq!(status(&mesh.web.call("PUT", "http://echo/", &chunked).await), 503);
    assert_eq!(mesh.app("bank/echo-v1").seen()[2].body.len(), 200_000);
    assert_eq!(mesh.app("bank/echo-v1").count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_does_not_repeat_what_was_denied() {
    let mesh = mesh("retry: {codes: [403, 503], attempts: 3, backoff: 1ms}", &[]).await;
    let answer = mesh.get("/forbidden", "").await;
    assert_eq!(status(&answer), 403, "{answer}");
    let audit = &mesh.services["bank/echo-v1"].side.audit;
    audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
    assert_eq!(audit.count(|record| !record.allow), 1, "one call, one decision");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_backoff_is_the_least_delay_and_doubles() {
    let mesh = mesh("retry: {codes: [503], attempts: 3, backoff: 50ms}", &[SOME, SOME, SOME]).await;
    let started = Instant::now();
    assert_eq!(status(&mesh.get("/", "").await), 200);
    // 50 + 100 + 200 ms, each with up to half of it as jitter.
    assert!(started.elapsed() >= Duration::from_millis(350), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_budget_keeps_retries_a_share_of_calls() {
    let mesh = mesh("retry: {codes: [503], attempts: 1, backoff: 0ms}", &[SOME; 600]).await;
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(status(&mesh.get("/", "").await), 503);
    }
    let retries = mesh.app("bank/echo-v1").count() - 200;
    // A fifth of the calls, and ten in each second.
    let most = 40 + 10 * (usize::try_from(started.elapsed().as_secs()).unwrap() + 2);
    assert!((10..=most).contains(&retries), "{retries} of at most {most}");
}
