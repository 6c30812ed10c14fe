//! TrafficPolicy: endpoints that fail are left out and come back, limits of what is open, and how calls are spread.

use std::time::Duration;

use signet_proxy::balance::Limit;

use crate::app::Next;
use crate::grpc;
use crate::harness::{exchange, header, status, wait};
use crate::mesh::Mesh;
use crate::traffic::{policy, text};

const THREE: [&str; 3] = ["bank/a", "bank/b", "bank/c"];

/// `bank/a` with three endpoints: its own and those of `bank/b` and `bank/c`.
async fn three(protocol: &'static str, spec: &str) -> Mesh {
    let mesh = Mesh::new(&THREE.map(|name| (name, protocol)), "").await;
    govern(&mesh, spec).await;
    mesh
}

async fn govern(mesh: &Mesh, spec: &str) {
    mesh.apply(&format!("{}{}", policy("a", spec), mesh.endpoints("bank/a", &THREE[1..]))).await;
}

fn counts(mesh: &Mesh) -> [usize; 3] {
    THREE.map(|name| mesh.app(name).count())
}

async fn get(mesh: &Mesh, path: &str, more: &str) -> String {
    mesh.web.call("GET", &format!("http://a.bank{path}"), more).await
}

/// How many of `n` calls were answered by 200.
async fn good(mesh: &Mesh, n: usize) -> usize {
    let mut good = 0;
    for _ in 0..n {
        good += usize::from(status(&get(mesh, "/", "").await) == 200);
    }
    good
}

const EJECT: &str =
    "loadBalancing: {algorithm: LeastRequest}, outlierDetection: {consecutiveFailures: 3, ejectFor: 1h}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_in_a_row_gets_no_more_calls_and_the_others_take_them() {
    for protocol in ["http", "http2"] {
        let mesh = three(protocol, EJECT).await;
        mesh.app("bank/b").will(&[Next::Status(503); 500]);
        for _ in 0..1000 {
            if mesh.web.side.metrics.ejected_consecutive.get() == 1 {
                break;
            }
            get(&mesh, "/", "").await;
        }
        assert_eq!((counts(&mesh)[1], mesh.web.side.metrics.ejected_consecutive.get()), (3, 1), "{protocol}");
        assert_eq!(good(&mesh, 30).await, 30, "{protocol}");
        assert_eq!(counts(&mesh)[1], 3, "{protocol}");
        let shown = mesh.web.client.connections();
        let ejected: Vec<bool> = shown["services"][0]["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|endpoint| !endpoint["ejected_for_ms"].is_null())
            .collect();
        assert_eq!(ejected.iter().filter(|ejected| **ejected).count(), 1, "{shown}");
        assert_eq!(mesh.web.client.in_force()["services"][0]["traffic"]["policy"], "TrafficPolicy/bank/p");

        govern(&mesh, &EJECT.replace("ejectFor: 1h", "ejectFor: 30m")).await;
        assert_eq!(good(&mesh, 10).await, 10, "{protocol}: a new snapshot forgets nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ejected_endpoint_comes_back_and_is_well_again() {
    let spec = "loadBalancing: {algorithm: LeastRequest}, outlierDetection: {consecutiveFailures: 3, ejectFor: 400ms}";
    let mesh = three("http", spec).await;
    mesh.app("bank/c").will(&[Next::Status(500); 3]);
    let ejections = &mesh.web.side.metrics.ejected_consecutive;
    while ejections.get() == 0 {
        get(&mesh, "/", "").await;
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while counts(&mesh)[2] == 3 {
        assert!(tokio::time::Instant::now() < deadline, "the endpoint was not asked again in 20 s");
        assert_eq!(status(&get(&mesh, "/", "").await), 200);
    }
    assert_eq!((good(&mesh, 20).await, ejections.get()), (20, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_denied_does_not_make_an_endpoint_look_broken() {
    let mesh = three("http", "outlierDetection: {consecutiveFailures: 2, ejectFor: 1h}").await;
    for _ in 0..20 {
        assert_eq!(status(&get(&mesh, "/forbidden", "").await), 403);
    }
    assert_eq!(mesh.web.side.metrics.ejected_consecutive.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_endpoints_ejected_all_are_used_unless_panic_is_switched_off() {
    let eject = "outlierDetection: {consecutiveFailures: 1, ejectFor: 1h, maxEjected: 100}";
    for (threshold, expected) in [(1, 200), (0, 503)] {
        let mesh = three("http", &format!("loadBalancing: {{panicThreshold: {threshold}}}, {eject}")).await;
        THREE.iter().for_each(|name| mesh.app(name).will(&[Next::Status(503)]));
        for _ in 0..3 {
            assert_eq!(status(&get(&mesh, "/", "").await), 503);
        }
        assert_eq!((counts(&mesh), mesh.web.side.metrics.ejected_consecutive.get()), ([1, 1, 1], 3));
        let answer = get(&mesh, "/", "").await;
        let error = (expected == 503).then_some("no_healthy_endpoints");
        assert_eq!((status(&answer), header(&answer, "x-signet-error")), (expected, error), "{answer}");
        assert_eq!(mesh.web.side.metrics.panicked.get(), u64::from(expected == 200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_failures_count_whether_they_stand_in_head_or_trailers() {
    for fails in [Next::Grpc(14), Next::GrpcEnd(13)] {
        let spec = "outlierDetection: {consecutiveFailures: 2, ejectFor: 1h}";
        let mesh = Mesh::new(&[("bank/pay", "grpc")], &policy("pay", spec)).await;
        let app = mesh.app("bank/pay");
        app.will(&[fails, Next::GrpcEnd(5), fails]);
        for _ in 0..3 {
            grpc::call(&mesh, "/bank.Pay/Pay", &[]).await;
        }
        let ejections = &mesh.web.side.metrics.ejected_consecutive;
        assert_eq!(ejections.get(), 0, "{fails:?}: NOT_FOUND between them is a good answer");
        app.will(&[fails]);
        grpc::call(&mesh, "/bank.Pay/Pay", &[]).await;
        wait("the ejection", || (ejections.get() == 1).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_one_connection_and_those_over_the_limit_of_waiting_are_503_that_says_so() {
    let mesh =
        Mesh::new(&[("bank/a", "http")], &policy("a", "circuitBreaker: {maxConnections: 1, maxPending: 1}")).await;
    mesh.app("bank/a").will(&[Next::Late(Duration::from_millis(1500))]);
    let first = get(&mesh, "/", "");
    let others = async {
        wait("the first call at the app", || (mesh.app("bank/a").count() == 1).then_some(())).await;
        tokio::join!(get(&mesh, "/", ""), get(&mesh, "/", ""))
    };
    let (first, (second, third)) = tokio::join!(first, others);
    assert_eq!(status(&first), 200, "{first}");
    let mut codes = [&second, &third].map(|answer| (status(answer), header(answer, "x-signet-error")));
    codes.sort();
    assert_eq!(codes, [(200, None), (503, Some("circuit_pending"))], "{second}\n{third}");
    let metrics = &mesh.web.side.metrics;
    assert_eq!((metrics.pool_opened.get(), metrics.limits_met(Limit::Pending)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_gets_no_connection_in_time_is_503_that_names_connections() {
    let mesh = Mesh::new(&[("bank/a", "http")], &policy("a", "circuitBreaker: {maxConnections: 1}")).await;
    mesh.app("bank/a").will(&[Next::Late(Duration::from_secs(60))]);
    tokio::select! {
        _ = get(&mesh, "/", "") => panic!("the app answers later"),
        answer = async {
            wait("the first call at the app", || (mesh.app("bank/a").count() == 1).then_some(())).await;
            get(&mesh, "/", "").await
        } => {
            assert_eq!((status(&answer), header(&answer, "x-signet-error")), (503, Some("circuit_connections")));
        }
    }
    assert_eq!(mesh.app("bank/a").count(), 1);
    assert_eq!(mesh.web.side.metrics.limits_met(Limit::Connections), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_are_bounded_on_one_connection_too_and_grpc_is_unavailable() {
    let spec = "circuitBreaker: {maxRequests: 1}";
    let mesh = Mesh::new(&[("bank/pay", "grpc")], &policy("pay", spec)).await;
    mesh.app("bank/pay").will(&[Next::Late(Duration::from_millis(1500))]);
    let second = async {
        let requests = || mesh.web.client.connections()["services"][0]["requests"].as_u64();
        wait("the first call in flight", || (requests() == Some(1)).then_some(())).await;
        grpc::call(&mesh, "/bank.Pay/Pay", &[]).await
    };
    let ((first, ..), (second, ..)) = tokio::join!(grpc::call(&mesh, "/bank.Pay/Pay", &[]), second);
    assert_eq!(text(&first, "x-served-by"), Some("bank/pay"));
    assert_eq!((text(&second, "grpc-status"), text(&second, "x-signet-error")), (Some("14"), Some("circuit_requests")));
    let (third, ..) = grpc::call(&mesh, "/bank.Pay/Pay", &[]).await;
    assert_eq!(text(&third, "x-served-by"), Some("bank/pay"), "what has ended counts no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_connection_over_the_limit_is_refused_at_once() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mesh = Mesh::new(&[("bank/raw", "tcp")], &policy("raw", "circuitBreaker: {maxConnections: 1}")).await;
    let connect = b"CONNECT raw:80 HTTP/1.1\r\nhost: raw:80\r\n\r\n";
    let mut first = tokio::net::TcpStream::connect(mesh.web.outbound).await.unwrap();
    first.write_all(connect).await.unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let second =
        exchange(mesh.web.outbound, b"CONNECT raw:80 HTTP/1.1\r\nhost: raw:80\r\nconnection: close\r\n\r\n").await;
    assert_eq!((status(&second), header(&second, "x-signet-error")), (503, Some("circuit_connections")), "{second}");
    drop(first);
    let open = || mesh.web.client.connections()["services"][0]["endpoints"][0]["connections"].as_u64();
    wait("the end of the first", || (open() == Some(0)).then_some(())).await;
    let mut third = tokio::net::TcpStream::connect(mesh.web.outbound).await.unwrap();
    third.write_all(connect).await.unwrap();
    third.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_in_flight_are_bounded_and_who_gets_none_has_the_answer_that_there_is() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: bank}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: a}]\n  rules: [{retry: {codes: [503], attempts: 1, \
                 backoff: 1500ms}, backendRefs: [{name: a, port: 80}]}]\n---\n";
    let mesh =
        Mesh::new(&[("bank/a", "http")], &format!("{route}{}", policy("a", "circuitBreaker: {maxRetries: 1}"))).await;
    mesh.app("bank/a").will(&[Next::Status(503), Next::Status(503)]);
    let second = async {
        let retries = || mesh.web.client.connections()["services"][0]["retries"].as_u64();
        wait("the first call before its retry", || (retries() == Some(1)).then_some(())).await;
        get(&mesh, "/", "").await
    };
    let (first, second) = tokio::join!(get(&mesh, "/", ""), second);
    assert_eq!((status(&first), status(&second)), (200, 503), "{first}\n{second}");
    assert_eq!((mesh.app("bank/a").count(), mesh.web.side.metrics.limits_met(Limit::Retries)), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_header_leads_to_the_same_endpoint_for_every_caller() {
    let mesh = three("http", "loadBalancing: {algorithm: ConsistentHash, hashOn: {header: x-account}}").await;
    let shop = mesh.caller_in("shop").await;
    let served_by = |answer: &str| answer.split("served by ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let mut places = std::collections::BTreeSet::new();
    for account in 0..12 {
        let more = format!("x-account: {account}\r\n");
        let first = served_by(&get(&mesh, "/", &more).await);
        for _ in 0..3 {
            assert_eq!(served_by(&get(&mesh, "/", &more).await), first, "account {account}");
        }
        let other = shop.call("GET", "http://a.bank/", &more).await;
        assert_eq!(served_by(&other), first, "account {account}: another caller");
        places.insert(first);
    }
    assert!(places.len() > 1, "twelve accounts at one endpoint of three: {places:?}");
}
