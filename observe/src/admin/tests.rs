//! The admin listener over a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::Admin;

async fn get(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(std::time::Duration::from_secs(5), stream.read_to_string(&mut text))
        .await
        .expect("no answer within 5 s")
        .unwrap();
    text
}

#[tokio::test]
async fn serves_probes_metrics_and_configuration() {
    let mut registry = prometheus_client::registry::Registry::default();
    let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
    registry.register("signet_test_things", "things", counter.clone());
    counter.inc();
    let admin = Admin::new(registry).config_json(serde_json::json!({"listen": "x"}));
    let condition = admin.readiness().condition("identity");
    let bound = admin.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let (address, cancel) = (bound.local_addr(), CancellationToken::new());
    let served = tokio::spawn(bound.run(cancel.clone()));

    assert!(get(address, "GET /livez").await.starts_with("HTTP/1.1 200"));
    let waiting = get(address, "GET /readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503") && waiting.contains("identity: not there yet"), "{waiting}");
    condition.set(Ok::<_, String>(()));
    assert!(get(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    condition.set(Err("expired"));
    assert!(get(address, "GET /readyz").await.contains("identity: expired"));
    assert!(get(address, "GET /metrics").await.contains("signet_test_things_total 1"));
    assert!(get(address, "GET /config").await.contains("\"listen\": \"x\""));
    assert!(get(address, "POST /config").await.starts_with("HTTP/1.1 405"));
    assert!(get(address, "GET /nothing").await.starts_with("HTTP/1.1 404"));

    cancel.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(5), served).await.expect("did not end within 5 s").unwrap();
}

#[tokio::test]
async fn refuses_to_bind_beyond_loopback() {
    let admin = Admin::new(prometheus_client::registry::Registry::default());
    assert!(admin.bind(([0, 0, 0, 0], 0).into()).await.is_err());
}
