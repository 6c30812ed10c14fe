//! A WebSocket from web to fraud, through both clusters' sidecars and west's gateway, until a signed commit takes it back.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use signet_tests::demo::Demo;
use signet_tests::{records, wait};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Test;
use crate::policy_changes::{disable_tests, git, revert, write};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("a_websocket_across_clusters_is_recorded_and_closed_by_the_commit_that_forbids_it", |demo| {
        Box::pin(across_clusters(demo))
    })];

const FORBID: &str = r#"
@id("test-no-scores")
@owner("risk")
@reason("shows that open sockets end")
forbid (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:GET",
  resource in Mesh::Service::"west.bank.example/bank/fraud"
);
"#;

/// `text` in a client's frame, masked with zeros (RFC 6455, section 5.3, asks for random bytes against caches only).
fn frame(text: &str) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(text.len())?;
    Ok([&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat())
}

async fn message(stream: &mut TcpStream) -> anyhow::Result<String> {
    let read = async {
        ensure!(stream.read_u8().await? == 0x81, "a text message");
        let mut text = vec![0; usize::from(stream.read_u8().await?)];
        stream.read_exact(&mut text).await?;
        anyhow::Ok(String::from_utf8(text)?)
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.context("no message in 10 s")?
}

/// The sidecar's own; the gateway has one under this trace too when the call opened a tunnel rather than took one.
async fn record(pool: &PgPool, trace: &str, decision: &str) -> anyhow::Result<records::Row> {
    wait::until(&format!("the {decision} record of trace {trace}"), Duration::from_secs(10), || async {
        let mut rows = records::of_trace(pool, trace, 1).await?.into_iter();
        Ok(rows.find(|row| row.action == "http:GET" && row.decision == decision))
    })
    .await
}

async fn across_clusters(demo: &Demo) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(&demo.workload("east/bank/web")?.outbound).await?;
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let head = format!(
        "GET http://fraud.bank.svc.clusterset.local/score?account=1 HTTP/1.1\r\nhost: fraud.bank.svc.clusterset.local\r\n\
         traceparent: 00-{trace}-00f067aa0ba902b7-01\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.with_context(|| String::from_utf8_lossy(&answer).into_owned())?);
    }
    let answer = String::from_utf8(answer)?;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    for account in ["1", "77"] {
        stream.write_all(&frame(account)?).await?;
        let score = message(&mut stream).await?;
        assert!(score.contains(&format!("\"account\":{account}")), "{score}");
    }
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let opening = record(&pool, &trace, "allow").await?;
    assert_eq!(opening.path.as_deref(), Some("/score"), "the path without its query: {opening:?}");

    write(demo, "policies/test-no-scores.cedar", FORBID)?;
    disable_tests(demo)?;
    git(demo, &["add", "--all"])?;
    git(demo, &["commit", "--quiet", "-S", "-m", "No scores for web"])?;
    let committed = Instant::now();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    let took = committed.elapsed();
    revert(demo).await?;
    let _ = ended.context("the socket did not end in 10 s")?;
    assert!(rest.is_empty(), "nothing is said after the decision: {rest:?}");
    // A commit is in force within two seconds, and open sockets end within one of it.
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    let closed = record(&pool, &trace, "deny").await?;
    assert_eq!(closed.reason, "forbidden", "{closed:?}");
    assert!(closed.policy_ids.iter().any(|id| id.contains("test-no-scores")), "{closed:?}");
    let web = &demo.workload("east/bank/web")?.outbound;
    wait::until("scores to be given again", Duration::from_secs(10), || async {
        let uri = "http://fraud.bank.svc.clusterset.local/score?account=1";
        Ok((signet_tests::calls::through(web, http::Method::GET, uri, &[], "").await?.status == 200).then_some(()))
    })
    .await
}
