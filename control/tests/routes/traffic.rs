//! TrafficPolicy: rate limits that the service's sidecar keeps, and faults that the caller's makes.

use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::grpc;
use crate::harness::{call, exchange, header, status};
use crate::mesh::Mesh;

pub fn policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: signet.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: bank}}\nspec: \
         {{targetRefs: [{{kind: Service, name: {service}}}], {spec}}}\n"
    )
}

/// Two at once, and then so few that none of them comes within a test.
const TWO: &str = "rateLimits: [{clients: [{serviceAccount: web}], requests: 1, per: 1h, burst: 2}]";

/// HTTP/1.1 goes through the relay, HTTP/2 through the general server.
const HTTP: &[(&str, &str)] = &[("bank/echo", "http"), ("bank/two", "http2")];

pub fn text<'h>(head: &'h HeaderMap, name: &str) -> Option<&'h str> {
    head.get(name).and_then(|value| value.to_str().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_its_rate_is_429_and_recorded_as_that_and_others_are_not_held_up() {
    let mesh = Mesh::new(HTTP, "").await;
    let shop = mesh.caller_in("shop").await;
    for name in ["echo", "two"] {
        let service = format!("bank/{name}");
        mesh.apply(&policy(name, TWO)).await;
        let url = format!("http://{name}.bank/accounts");
        for _ in 0..2 {
            assert_eq!(status(&mesh.web.call("GET", &url, "").await), 200, "{name}");
        }
        let answer = mesh.web.call("GET", &url, "").await;
        assert_eq!(status(&answer), 429, "{answer}");
        let wait: u64 = header(&answer, "retry-after").unwrap().parse().unwrap();
        assert!((3000..=3600).contains(&wait), "{answer}");
        let served = &mesh.services[service.as_str()];
        let record = served.side.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
        assert_eq!((record.allow, record.reason.as_str(), record.action.as_str()), (false, "rate_limited", "http:GET"));
        assert_eq!(record.source_spiffe_id.as_deref(), Some("spiffe://east.bank.example/ns/bank/sa/web"));
        assert_eq!((served.app.count(), served.side.metrics.rate_limited.get()), (2, 1), "{name}");
        assert_eq!(status(&shop.call("GET", &url, "").await), 200, "{name}: another client");

        mesh.apply(&policy(name, TWO)).await;
        assert_eq!(status(&mesh.web.call("GET", &url, "").await), 429, "{name}: a new snapshot resets nothing");
        mesh.apply(&policy(name, &TWO.replace("burst: 2", "burst: 3"))).await;
        assert_eq!(status(&mesh.web.call("GET", &url, "").await), 200, "{name}: another limit is in force at once");
        mesh.apply("").await;
        for _ in 0..10 {
            assert_eq!(status(&mesh.web.call("GET", &url, "").await), 200, "{name}: none");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policy_forbids_stays_forbidden_within_the_rate() {
    let mesh = Mesh::new(&HTTP[..1], &policy("echo", TWO)).await;
    assert_eq!(status(&mesh.get("/forbidden", "").await), 403);
    assert_eq!(status(&mesh.get("/forbidden", "").await), 403);
    assert_eq!(status(&mesh.get("/", "").await), 429, "and what was denied counts: a rate is of what is asked");
    assert_eq!(mesh.app("bank/echo").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_of_grpc_calls_is_resource_exhausted() {
    let mesh = Mesh::new(&[("bank/pay", "grpc")], &policy("pay", "rateLimits: [{requests: 1, per: 1h}]")).await;
    let (head, _, _) = grpc::call(&mesh, "/bank.Pay/Pay", &[]).await;
    assert_eq!(text(&head, "x-served-by"), Some("bank/pay"));
    let (head, _, _) = grpc::call(&mesh, "/bank.Pay/Pay", &[]).await;
    assert_eq!(text(&head, "grpc-status"), Some("8"), "{head:?}");
    let audit = &mesh.services["bank/pay"].side.audit;
    let record = audit.decision(text(&head, "x-signet-decision").unwrap()).await;
    assert_eq!((record.allow, record.reason.as_str()), (false, "rate_limited"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_of_tcp_counts_connections_and_those_over_it_get_no_byte() {
    let mesh = Mesh::new(&[("bank/raw", "tcp")], &policy("raw", "rateLimits: [{requests: 1, per: 1h}]")).await;
    let ask = "CONNECT raw:80 HTTP/1.1\r\nhost: raw:80\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let first = exchange(mesh.web.outbound, ask.as_bytes()).await;
    assert!(first.contains("served by bank/raw"), "{first}");
    let second = exchange(mesh.web.outbound, ask.as_bytes()).await;
    assert_eq!(second.matches("HTTP/1.1").count(), 1, "only CONNECT's own answer: {second}");
    let audit = &mesh.services["bank/raw"].side.audit;
    audit.record("the denial", |record| record.reason == "rate_limited" && record.action == "tcp:connect").await;
    assert_eq!(mesh.app("bank/raw").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_call_is_answered_by_the_callers_sidecar_and_nothing_is_sent() {
    let mesh = Mesh::new(HTTP, "").await;
    for name in ["echo", "two"] {
        mesh.apply(&policy(name, "faults: {abort: {percent: 100, status: 418}}")).await;
        let answer = mesh.web.call("GET", &format!("http://{name}/"), "").await;
        assert_eq!((status(&answer), header(&answer, "x-signet-error")), (418, Some("fault_injected")), "{answer}");
        assert_eq!(mesh.app(&format!("bank/{name}")).count(), 0);
    }
    assert_eq!(mesh.web.side.metrics.fault_aborts.get(), 2);
    mesh.apply("").await;
    assert_eq!(status(&mesh.get("/", "").await), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_holds_for_a_connection_that_is_open_already() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mesh = Mesh::new(&HTTP[..1], "").await;
    let mut app = tokio::net::TcpStream::connect(mesh.web.outbound).await.unwrap();
    app.write_all(b"GET http://echo/ HTTP/1.1\r\nhost: echo\r\n\r\n").await.unwrap();
    let mut first = vec![0; 12];
    app.read_exact(&mut first).await.unwrap();
    assert_eq!(first, b"HTTP/1.1 200");
    mesh.apply(&policy("echo", "faults: {abort: {percent: 100}}")).await;
    app.write_all(b"GET http://echo/ HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(Duration::from_secs(10), app.read_to_string(&mut rest))
        .await
        .expect("an end in 10 s")
        .unwrap();
    assert!(rest.contains("HTTP/1.1 503") && rest.contains("fault_injected"), "{rest}");
    assert_eq!(mesh.app("bank/echo").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_grpc_call_has_the_status_that_was_asked_for() {
    let faults = "faults: {abort: {percent: 100, grpcStatus: 13}}";
    let mesh = Mesh::new(&[("bank/pay", "grpc")], &policy("pay", faults)).await;
    let (head, _, _) = grpc::call(&mesh, "/bank.Pay/Pay", &[]).await;
    assert_eq!((text(&head, "grpc-status"), text(&head, "x-signet-error")), (Some("13"), Some("fault_injected")));
    assert_eq!(mesh.app("bank/pay").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_call_arrives_later() {
    let mesh = Mesh::new(&HTTP[..1], &policy("echo", "faults: {delay: {percent: 100, duration: 300ms}}")).await;
    let started = Instant::now();
    let answer = call(mesh.web.outbound, "GET", "http://echo/", "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!((mesh.app("bank/echo").count(), mesh.web.side.metrics.fault_delays.get()), (1, 1));
}
