//! End users' tokens through a pair: whose are taken, what is recorded, and what ends with them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::SinkExt as _;
use futures::channel::mpsc;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use signet_policy::Bundle;
use signet_proxy::snapshot::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps;
use crate::harness::{HOST, Pair, SERVICE, bundle, bundle_with, call, header, status};

const ISSUER: &str = "https://login.bank.example";
/// Tellers read; whoever comes as `mallory` does nothing; `Ping` needs nobody.
const TELLERS: &str = r#"
@id("tellers-read")
permit(principal, action in [Mesh::Action::"read", Mesh::Action::"grpc:call"], resource)
when { context has jwt && context.jwt.groups.contains("tellers") };
@id("anybody-pings")
permit(principal, action == Mesh::Action::"grpc:call", resource) when { context.method == "Ping" };
@id("not-mallory")
forbid(principal, action in [Mesh::Action::"read", Mesh::Action::"grpc:call"], resource)
when { context has jwt && context.jwt.sub == "mallory" };
"#;

struct Login(Ed25519KeyPair);

impl Login {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    /// A bundle that declares this issuer for `services`.
    fn bundle(&self, services: &str, commit: char) -> Arc<Bundle> {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] }).to_string();
        let settings = format!(
            "version: 1\nend_users:\n  issuers:\n    - {{issuer: '{ISSUER}', audiences: [ledger], keys_file: keys/login.json, services: [{services}]}}\n"
        );
        bundle_with(TELLERS, commit, &settings, &[("keys/login.json", keys)])
    }

    fn token(&self, subject: &str, change: &Value) -> String {
        let mut payload =
            json!({ "iss": ISSUER, "sub": subject, "aud": "ledger", "exp": now() + 3600, "groups": ["tellers"] });
        for (name, value) in change.as_object().unwrap() {
            payload[name] = value.clone();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": "k" })), part(&payload));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap_or_else(|_| panic!("no {what} in 10 s"))
}

/// Waits until both sides have a bundle of `commit`, by asking.
async fn in_force(pair: &Pair, bundle: Arc<Bundle>) {
    let commit = bundle.commit().to_owned();
    pair.change(|s| s.bundle = Some(bundle));
    within("bundle in force", async {
        loop {
            let answer = call(pair.outbound, "DELETE", &format!("http://{HOST}/"), "").await;
            let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
            if record.policy_commit == commit {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_decide_and_are_recorded_and_the_token_is_not() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let login = Login::new();
    in_force(&pair, login.bundle(SERVICE, 'b')).await;
    let url = format!("http://{HOST}/accounts/1");
    let token = login.token("alice", &json!({ "scope": "read", "acr": "mfa" }));
    let answer = call(pair.outbound, "GET", &url, &format!("authorization: Bearer {token}\r\n")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    // The application may want to look for itself.
    assert!(answer.contains(&format!("authorization: Bearer {token}")), "{answer}");
    let record = pair.ledger.audit.record("the call's record", |r| r.allow).await;
    let value = |name: &str| record.context.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((value("jwt.iss"), value("jwt.sub")), (Some(ISSUER), Some("alice")));
    assert_eq!((value("jwt.groups"), value("jwt.scopes")), (Some(r#"["tellers"]"#), Some(r#"["read"]"#)));
    assert_eq!((value("jwt.acr"), value("method")), (Some("mfa"), Some("GET")));
    let signature = token.rsplit('.').next().unwrap();
    assert!(!format!("{record:?}").contains(signature), "{record:?}");

    // Nobody, and somebody whom a policy forbids: answers about the call, not about the token.
    for (more, why) in [
        (String::new(), "no_permit"),
        ("authorization: Basic YWxpY2U6eA==\r\n".to_owned(), "no_permit"),
        (format!("authorization: bearer {}\r\n", login.token("mallory", &json!({}))), "forbidden"),
        (format!("authorization: Bearer {}\r\n", login.token("bob", &json!({"groups": []}))), "no_permit"),
    ] {
        let answer = call(pair.outbound, "GET", &url, &more).await;
        assert_eq!(status(&answer), 403, "{more}: {answer}");
        let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
        assert_eq!(record.reason, why, "{more}");
    }
    assert_eq!(reached.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_does_not_verify_is_401_and_recorded_whatever_policy_says() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let (login, stranger) = (Login::new(), Login::new());
    in_force(&pair, login.bundle(SERVICE, 'b')).await;
    let url = format!("http://{HOST}/accounts/1");
    let good = login.token("alice", &json!({}));
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    for (more, why) in [
        (bearer(&stranger.token("alice", &json!({}))), "token_signature"),
        (bearer(&login.token("alice", &json!({ "exp": now() - 1 }))), "token_expired"),
        (bearer(&login.token("alice", &json!({ "nbf": now() + 600 }))), "token_not_yet_valid"),
        (bearer(&login.token("alice", &json!({ "aud": "payments" }))), "token_audience"),
        (bearer(&login.token("alice", &json!({ "iss": "https://evil.example" }))), "token_unknown_issuer"),
        (bearer(&login.token("alice", &json!({ "x": "x".repeat(20_000) }))), "token_oversized"),
        (bearer("opaque"), "token_malformed"),
        (bearer(&good).repeat(2), "token_ambiguous"),
        (format!("authorization: Basic YTpi\r\n{}", bearer(&good)), "token_ambiguous"),
        (bearer(&format!("{good}, Bearer {good}")), "token_malformed"),
    ] {
        let answer = call(pair.outbound, "GET", &url, &more).await;
        assert_eq!(status(&answer), 401, "{why}: {answer}");
        assert_eq!(header(&answer, "www-authenticate"), Some("Bearer error=\"invalid_token\""), "{answer}");
        let record = pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
        assert_eq!((record.allow, record.reason.as_str()), (false, why));
        assert!(record.context.iter().all(|(name, _)| !name.starts_with("jwt.")), "{record:?}");
    }
    assert_eq!(reached.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_issuer_is_declared_tokens_are_the_applications() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let more = "authorization: Bearer opaque\r\nauthorization: Bearer another\r\n";
    let url = format!("http://{HOST}/accounts/1");
    assert_eq!(status(&call(pair.outbound, "GET", &url, more).await), 200);
    in_force(&pair, Login::new().bundle("east.bank.example/bank/payments", 'b')).await;
    // Not a token that was refused: nobody permits it.
    assert_eq!(status(&call(pair.outbound, "GET", &url, more).await), 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_declared_counts_on_connections_that_are_open_already() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    let mut ask = async |token: &str| {
        let head = format!("GET /accounts/1 HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
            let mut chunk = [0; 4096];
            let n = within("answer", stream.read(&mut chunk)).await.unwrap();
            assert_ne!(n, 0, "closed after {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..n]);
        }
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(status(&ask("opaque").await), 200);
    let login = Login::new();
    in_force(&pair, login.bundle(SERVICE, 'b')).await;
    let before = reached.count();
    assert_eq!(status(&ask("opaque").await), 401);
    assert_eq!(reached.count(), before);
    assert_eq!(status(&ask(&login.token("alice", &json!({}))).await), 200);
}

type Sent = mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>;

async fn open(pair: &Pair, method: &str, token: &str) -> (Sent, Response<Incoming>) {
    let stream = TcpStream::connect(pair.outbound).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (mut tx, rx) = mpsc::channel(4);
    let request = Request::post(format!("http://{HOST}:50051/bank.v1.Payments/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .body(StreamBody::new(rx))
        .unwrap();
    tx.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    (tx, within("answer", sender.send_request(request)).await.unwrap())
}

/// A gRPC pair in which `login`'s tellers may call.
async fn grpc_pair(login: &Login) -> Pair {
    let (app, _) = apps::grpc().await;
    let pair = Pair::new(Protocol::Grpc, 50051, app).await;
    pair.change(|s| s.bundle = Some(login.bundle(SERVICE, 'b')));
    within("bundle in force", async {
        loop {
            let (_send, response) = open(&pair, "Pay", "opaque").await;
            if response.headers().get("grpc-status").is_some_and(|status| status == "16") {
                return;
            }
        }
    })
    .await;
    pair
}

async fn first(body: &mut Incoming) {
    let frame = within("echo", body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), Bytes::from_static(b"one"));
}

async fn ends(body: &mut Incoming) {
    let ended = within("end", body.frame()).await;
    assert!(ended.is_none_or(|frame| frame.is_err()), "the stream went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_token_that_it_needs_and_not_with_one_that_it_does_not() {
    let login = Login::new();
    let pair = grpc_pair(&login).await;
    let soon = json!({ "exp": now() + 2 });
    let token = login.token("alice", &soon);
    let (_needs, response) = open(&pair, "Pay", &token).await;
    let mut needs = response.into_body();
    first(&mut needs).await;
    let (mut send, response) = open(&pair, "Ping", &token).await;
    let mut needs_not = response.into_body();
    first(&mut needs_not).await;
    ends(&mut needs).await;
    let record = pair
        .ledger
        .audit
        .record("the closing", |r| !r.allow && r.detail.as_deref().is_some_and(|d| d.contains("token had ended")))
        .await;
    assert_eq!((record.reason.as_str(), record.path.as_deref()), ("no_permit", Some("bank.v1.Payments/Pay")));
    send.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    first(&mut needs_not).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_nobody_vouches_for_its_user_any_more_or_a_policy_forbids_him() {
    let login = Login::new();
    let pair = grpc_pair(&login).await;
    let (_send, response) = open(&pair, "Pay", &login.token("alice", &json!({}))).await;
    let mut pays = response.into_body();
    first(&mut pays).await;
    let (_send, response) = open(&pair, "Ping", &login.token("carol", &json!({}))).await;
    let mut pings = response.into_body();
    first(&mut pings).await;
    // Another key under the same name: what needed the old one ends.
    let other = Login::new();
    pair.change(|s| s.bundle = Some(other.bundle(SERVICE, 'c')));
    ends(&mut pays).await;
    pair.ledger.audit.record("the closing", |r| !r.allow && r.policy_commit.starts_with('c')).await;
    // No issuer at all any more, and a policy against her: she is still who she was.
    let against = format!(
        "{TELLERS}\n@id(\"not-carol\")\nforbid(principal, action == Mesh::Action::\"grpc:call\", resource) \
         when {{ context has jwt && context.jwt.sub == \"carol\" }};"
    );
    pair.change(|s| s.bundle = Some(bundle(&against, 'd')));
    ends(&mut pings).await;
    let record = pair.ledger.audit.record("the closing", |r| !r.allow && r.policy_commit.starts_with('d')).await;
    assert_eq!(record.reason, "forbidden");
    assert!(record.context.iter().any(|(name, value)| name == "jwt.sub" && value == "carol"), "{record:?}");
}
