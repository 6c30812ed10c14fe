//! Server, agent and a client over the real Workload API socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use hyper_util::rt::TokioIo;
use signet_api::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use support::{Cluster, WITHIN, entry, eventually, until};
use tonic::{Code, Request, transport::Channel};

const TD: &str = "east.bank.example";
const SHORT: &str = "svid_ttl_seconds: 4\nintermediate_ttl_seconds: 10\n";

async fn client(path: std::path::PathBuf) -> SpiffeWorkloadApiClient<Channel> {
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://agent");
    SpiffeWorkloadApiClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn svids_rotate_before_they_end_and_the_intermediate_with_them() {
    let mut cluster = Cluster::start(TD, &entry(TD, "/ns/bank/sa/web", "unix:socket:bank-web"), SHORT).await;
    cluster.write_token().await;
    cluster.start_agent().await;
    eventually("socket", async || support::exists(&cluster.path("w/bank-web.sock"))).await;
    let source = cluster.source("w/bank-web.sock").await;
    let mut watch = source.watch();
    let mut issuers = std::collections::BTreeSet::new();
    let mut last_end = 0;
    for _ in 0..5 {
        let identity = watch.borrow_and_update().clone();
        let svid = &identity.svids[0];
        assert_eq!(svid.id.to_string(), format!("spiffe://{TD}/ns/bank/sa/web"));
        assert!(svid.not_after >= last_end);
        last_end = svid.not_after;
        issuers.insert(svid.chain[1].to_vec());
        tokio::time::timeout(WITHIN, watch.changed()).await.expect("a rotation").unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(i64::try_from(now).unwrap() < last_end, "the old SVID had not ended when the new one came");
    }
    assert!(issuers.len() >= 2, "the intermediate rotated too");
    cluster.stop_agent().await;
    assert!(!support::exists(&cluster.path("w/bank-web.sock")), "sockets go with the agent");
    cluster.stop_server().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_serves_on_while_the_server_is_away_and_restarts_without_a_token() {
    let entries = entry(TD, "/ns/bank/sa/web", "unix:socket:web");
    let mut cluster = Cluster::start(TD, &entries, "").await;
    cluster.write_token().await;
    cluster.start_agent().await;
    eventually("socket", async || support::exists(&cluster.path("w/web.sock"))).await;
    cluster.source("w/web.sock").await;
    let listen = cluster.listen();
    cluster.stop_server().await;
    let source = cluster.source("w/web.sock").await;
    assert_eq!(source.current().svids.len(), 1);

    std::fs::remove_file(cluster.path("token")).unwrap();
    cluster.start_server("", &listen).await;
    cluster.stop_agent().await;
    cluster.start_agent().await;
    eventually("socket", async || support::exists(&cluster.path("w/web.sock"))).await;
    assert_eq!(cluster.source("w/web.sock").await.current().svids.len(), 1);
    let listed = cluster.operator().await.list_svids(signet_api::identity::ListSvidsRequest {}).await.unwrap();
    let listed = listed.into_inner();
    let web = listed.svids.iter().find(|svid| svid.spiffe_id.ends_with("/sa/web")).expect("listed");
    assert!(web.issued_total >= 2 && web.agent.contains("/signet/agent/"), "{web:?}");
    assert_eq!(listed.authorities.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_svid_ended_attests_again_with_a_new_token() {
    let mut cluster = Cluster::start(
        TD,
        &entry(TD, "/w", "unix:socket:w"),
        "svid_ttl_seconds: 2\nintermediate_ttl_seconds: 60\nagent_ttl_seconds: 2\n",
    )
    .await;
    cluster.write_token().await;
    cluster.start_agent().await;
    eventually("socket", async || support::exists(&cluster.path("w/w.sock"))).await;
    cluster.source("w/w.sock").await;
    cluster.stop_agent().await;
    let before = std::fs::read_to_string(cluster.path("agent/agent.json")).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // The old token is spent; the agent waits for a new one.
    cluster.start_agent().await;
    assert!(!cluster.agent.as_ref().unwrap().0.readiness.is_ready());
    cluster.write_token().await;
    eventually("readiness", async || cluster.agent.as_ref().unwrap().0.readiness.is_ready()).await;
    assert_ne!(std::fs::read_to_string(cluster.path("agent/agent.json")).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_come_and_go_with_their_file() {
    let mut cluster = Cluster::start(TD, &entry(TD, "/a", "unix:socket:a"), "").await;
    cluster.write_token().await;
    cluster.start_agent().await;
    eventually("socket", async || support::exists(&cluster.path("w/a.sock"))).await;
    let a = cluster.source("w/a.sock").await;
    let file = cluster.path("entries.yaml");
    let two = entry(TD, "/a", "unix:socket:a") + &entry(TD, "/b", "unix:socket:a") + &entry(TD, "/c", "unix:socket:c");
    std::fs::write(&file, &two).unwrap();
    until(&a, "second SVID on the socket", |identity| identity.svids.len() == 2).await;
    std::fs::write(&file, "nonsense: [").unwrap();
    eventually("third socket", async || support::exists(&cluster.path("w/c.sock"))).await;
    std::fs::write(&file, entry(TD, "/b", "unix:socket:a")).unwrap();
    until(&a, "withdrawal", |identity| identity.svids.len() == 1 && identity.svids[0].id.path() == "/b").await;
    eventually("end of the socket", async || !support::exists(&cluster.path("w/c.sock"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_socket_answers_as_the_standard_says() {
    let uid = rustix::process::geteuid().as_raw();
    let mut cluster = Cluster::start(TD, &entry(TD, "/signet/operator", "unix:uid:4242424"), "").await;
    cluster.start_agent().await;
    let mut api = client(cluster.path("agent.sock")).await;
    let code = |status: tonic::Status| status.code();
    let starting = api.fetch_x509svid(with_header(X509svidRequest {})).await.map(|_| ()).map_err(code);
    assert_eq!(starting, Err(Code::Unavailable), "not attested yet");
    cluster.write_token().await;
    eventually("readiness", async || cluster.agent.as_ref().unwrap().0.readiness.is_ready()).await;

    let bare = api.fetch_x509svid(Request::new(X509svidRequest {})).await.map(|_| ()).map_err(code);
    assert_eq!(bare, Err(Code::InvalidArgument));
    let mut wrong = Request::new(X509BundlesRequest {});
    wrong.metadata_mut().insert("workload.spiffe.io", "yes".parse().unwrap());
    assert_eq!(api.fetch_x509_bundles(wrong).await.map(|_| ()).map_err(code), Err(Code::InvalidArgument));
    let nobody = api.fetch_x509svid(with_header(X509svidRequest {})).await.map(|_| ()).map_err(code);
    assert_eq!(nobody, Err(Code::PermissionDenied));
    let nobody = api.fetch_x509_bundles(with_header(X509BundlesRequest {})).await.map(|_| ()).map_err(code);
    assert_eq!(nobody, Err(Code::PermissionDenied));
    let jwt = api.fetch_jwtsvid(with_header(JwtsvidRequest::default())).await.map(|_| ()).map_err(code);
    assert_eq!(jwt, Err(Code::Unimplemented));
    let jwt = api.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.map(|_| ()).map_err(code);
    assert_eq!(jwt, Err(Code::Unimplemented));
    let jwt = api.validate_jwtsvid(with_header(ValidateJwtsvidRequest::default())).await.map(|_| ()).map_err(code);
    assert_eq!(jwt, Err(Code::Unimplemented));

    std::fs::write(cluster.path("entries.yaml"), entry(TD, "/signet/operator", &format!("unix:uid:{uid}"))).unwrap();
    let source = cluster.source("agent.sock").await;
    assert_eq!(source.current().svids[0].id.path(), "/signet/operator");
    let mut bundles = api.fetch_x509_bundles(with_header(X509BundlesRequest {})).await.unwrap().into_inner();
    let first = tokio::time::timeout(WITHIN, bundles.message()).await.expect("a message").unwrap().unwrap();
    assert_eq!(first.bundles.keys().collect::<Vec<_>>(), [&format!("spiffe://{TD}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spiffe_crates_own_client_reads_it() {
    let mut cluster = Cluster::start(TD, &entry(TD, "/w", "unix:socket:w"), "").await;
    cluster.write_token().await;
    cluster.start_agent().await;
    eventually("socket", async || support::exists(&cluster.path("w/w.sock"))).await;
    let address = format!("unix:{}", cluster.path("w/w.sock").display());
    let source = tokio::time::timeout(WITHIN, spiffe::X509Source::builder().endpoint(address.as_str()).build())
        .await
        .expect("a source in time")
        .unwrap();
    assert_eq!(source.svid().unwrap().spiffe_id().to_string(), format!("spiffe://{TD}/w"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_recorded_and_kept_while_the_audit_service_is_away() {
    // Nobody listens on port 1; the records wait in the spool.
    let mut cluster = Cluster::start(TD, &entry(TD, "/w", "unix:socket:w"), "audit: 127.0.0.1:1\n").await;
    assert_eq!(cluster.metric("signet_spool_appended_total").await, "1", "the server's own SVID");
    std::fs::write(cluster.path("token"), "guessed").unwrap();
    cluster.start_agent().await;
    // Refused tokens are counted and recorded in aggregate.
    eventually("record of the refusal", async || {
        cluster.metric("signet_spool_appended_total").await.parse::<u64>().unwrap() >= 2
    })
    .await;
    cluster.write_token().await;
    eventually("readiness", async || cluster.agent.as_ref().unwrap().0.readiness.is_ready()).await;
    let recorded = cluster.metric("signet_spool_appended_total").await.parse::<u64>().unwrap();
    assert!(recorded >= 6, "token, attestation, two SVIDs besides: {recorded}");
    assert_eq!(cluster.metric("signet_identity_events_not_recorded_total").await, "0");
    cluster.stop_agent().await;
    cluster.stop_server().await;
}
