//! HTTP through a pair.

use std::time::Duration;

use signet_proxy::snapshot::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps;
use crate::harness::{HOST, LEDGER, NOTHING, Pair, SERVICE, WEB, bundle, call, exchange, header, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permitted_call_reaches_the_app_and_is_recorded() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let answer = call(pair.outbound, "GET", &format!("http://{HOST}/accounts/1?secret=x"), "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.contains("GET /accounts/1?secret=x"), "{answer}");
    assert!(answer.contains(&format!("x-signet-source: {WEB}")), "{answer}");
    assert_eq!(reached.count(), 1);
    let record = pair.ledger.audit.record("the call's record", |r| r.action == "http:GET").await;
    assert!(record.allow);
    assert_eq!(record.source_spiffe_id.as_deref(), Some(WEB));
    assert_eq!(record.destination_spiffe_id.as_deref(), Some(LEDGER));
    assert_eq!(record.destination_service, SERVICE);
    assert_eq!(record.path.as_deref(), Some("/accounts/1"));
    assert_eq!(record.policy_ids.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["web-reads"]);
    assert_eq!(record.policy_commit, "a".repeat(40));
    assert_eq!(record.tls, "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384");
    assert!(record.trace_id.is_some() && record.latency_us.is_some());
    assert!(record.context.iter().any(|(k, v)| k == "dst_port" && v == "80"), "{:?}", record.context);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forbidden_call_is_403_with_its_recorded_decision_and_never_reaches_the_app() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let answer =
        call(pair.outbound, "POST", &format!("http://{HOST}/accounts/1/entries"), "content-length: 2\r\n").await;
    // The body was left out on purpose: a denial does not wait for it.
    assert_eq!(status(&answer), 403, "{answer}");
    let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").expect("a decision")).await;
    assert!(!record.allow);
    assert_eq!((record.action.as_str(), record.reason.as_str()), ("http:POST", "no_permit"));
    assert_eq!(reached.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_snapshot_is_denied_and_recorded_by_the_outbound_side() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    for host in ["reporting.bank.svc.clusterset.local", "example.com", "127.0.0.1:22", &format!("{HOST}:81")] {
        let answer = call(pair.outbound, "GET", &format!("http://{host}/daily"), "").await;
        assert_eq!(status(&answer), 403, "{host}: {answer}");
        let record = pair.web.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
        assert_eq!((record.allow, record.reason.as_str()), (false, "unknown_service"));
        assert_eq!(record.source_spiffe_id.as_deref(), Some(WEB));
        assert_eq!(record.policy_commit, "a".repeat(40));
        assert_eq!(record.destination_service, host.split(':').next().unwrap());
        let connect = exchange(
            pair.outbound,
            format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await;
        // CONNECT needs a port; without one it is not even a request.
        assert!([400, 403].contains(&status(&connect)), "{connect}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_form_and_short_names_find_the_service() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    for host in ["ledger", "LEDGER", HOST, &format!("{HOST}:80"), &format!("{HOST}.")] {
        let head = format!("GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(status(&exchange(pair.outbound, head.as_bytes()).await), 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggling_and_forged_headers_do_not_pass() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let url = format!("http://{HOST}/accounts/1");
    let forged = "x-signet-source: spiffe://east.bank.example/ns/bank/sa/admin\r\nconnection: x-secret\r\n\
                  x-secret: 1\r\nkeep-alive: timeout=5\r\nte: gzip\r\n";
    let answer = call(pair.outbound, "GET", &url, forged).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert!(!body.contains("admin") && !body.contains("x-secret") && !body.contains("keep-alive"), "{body}");
    // What the app says about decisions and its own hop does not pass either.
    assert_eq!(header(&answer, "x-signet-decision"), None, "{answer}");
    assert_eq!(header(&answer, "x-hop"), None, "{answer}");
    let before = reached.count();
    for bad in [
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "host: other\r\n",
        "upgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    ] {
        let answer = call(pair.outbound, "GET", &url, bad).await;
        assert!([400, 501].contains(&status(&answer)), "{bad}: {answer}");
    }
    assert_eq!(reached.count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_path_that_was_decided_is_the_path_that_the_app_gets() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let answer = call(pair.outbound, "GET", &format!("http://{HOST}/a/../accounts//%31?q=%2F"), "").await;
    assert!(answer.contains("GET /accounts/1?q=%2F"), "{answer}");
    let answer = call(pair.outbound, "GET", &format!("http://{HOST}/accounts/%2e%2e/%2e%2e/etc"), "").await;
    assert_eq!(status(&answer), 403, "{answer}");
    let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
    assert_eq!(record.reason, "bad_path");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_and_a_restarted_app_side_fail_no_call() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let outbound = pair.outbound;
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(outbound).await.unwrap();
                for _ in 0..150 {
                    let head = format!("GET /accounts/1 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let mut answer = Vec::new();
                    while !String::from_utf8_lossy(&answer).contains("body: 0\n") {
                        let mut chunk = [0; 4096];
                        let n = stream.read(&mut chunk).await.unwrap();
                        assert_ne!(n, 0, "closed after {}", String::from_utf8_lossy(&answer));
                        answer.extend_from_slice(&chunk[..n]);
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
                }
            })
        })
        .collect();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        pair.rotate();
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(reached.count(), 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_bundle_counts_for_the_next_request_on_an_open_connection() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let url = format!("http://{HOST}/accounts/1");
    assert_eq!(status(&call(pair.outbound, "GET", &url, "").await), 200);
    pair.change(|s| s.bundle = Some(bundle(NOTHING, 'b')));
    let denied = async {
        loop {
            let answer = call(pair.outbound, "GET", &url, "").await;
            if status(&answer) == 403 {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), denied).await.expect("the new bundle in force");
    let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
    assert_eq!((record.reason.as_str(), record.policy_commit), ("forbidden", "b".repeat(40)));
    // Without a bundle nothing is allowed.
    pair.change(|s| s.bundle = None);
    let none = async {
        loop {
            let answer = call(pair.outbound, "GET", &url, "").await;
            let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
            if record.reason == "no_bundle" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), none).await.expect("no bundle, no call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_inside_connect_is_parsed_and_decided_per_request() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    stream.write_all(format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 256];
    let n = stream.read(&mut head).await.unwrap();
    assert!(head[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head[..n]));
    stream
        .write_all(format!("DELETE /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 403, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_context_is_continued_and_recorded() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let more = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
    let answer = call(pair.outbound, "GET", &format!("http://{HOST}/t"), &more).await;
    assert!(answer.contains(trace), "{answer}");
    let record = pair.ledger.audit.record("the traced call", |r| r.path.as_deref() == Some("/t")).await;
    assert_eq!(record.trace_id.as_deref(), Some(trace));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_down_is_a_502_after_an_allowed_decision() {
    let dead = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let pair = Pair::new(Protocol::Http, 80, dead).await;
    let answer = call(pair.outbound, "GET", &format!("http://{HOST}/"), "").await;
    assert_eq!((status(&answer), header(&answer, "x-signet-error")), (502, Some("app_unreachable")), "{answer}");
}
