//! Reading is a record too: every answer to a person is in the log that it came from, and without that there is none.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use signet_tests::cli::signet;
use signet_tests::demo::{Demo, program};
use signet_tests::{calls, records, wait};
use sqlx::PgPool;

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("each_answer_of_the_command_line_is_in_the_log_that_it_came_from", |demo| Box::pin(command_line(demo))),
    ("a_tail_is_two_records_in_the_log_that_it_follows", |demo| Box::pin(tail(demo))),
    ("each_answer_of_the_dashboard_is_in_the_log_that_it_came_from", |demo| Box::pin(dashboard(demo))),
    ("nothing_is_answered_from_a_log_that_does_not_record_it", |demo| Box::pin(unrecorded(demo))),
];

const APPEAR: Duration = Duration::from_secs(10);

/// What the logs have recorded of one purpose since `since` leaves of each: log, reason, detail.
async fn recorded(pool: &PgPool, purpose: &str, since: &Sizes) -> anyhow::Result<Vec<(String, String, Value)>> {
    let rows: Vec<(String, i64, String, String)> = sqlx::query_as(
        "SELECT log, leaf_index, reason, detail FROM signet.entries WHERE kind = 'event' AND action = $1 ORDER BY time, log",
    )
    .bind(format!("audit:{purpose}"))
    .fetch_all(pool)
    .await?;
    let new = rows.into_iter().filter(|(log, leaf, ..)| since.iter().any(|(of, size)| of == log && leaf >= size));
    new.map(|(log, _, reason, detail)| Ok((log, reason, serde_json::from_str(&detail)?))).collect()
}

type Sizes = Vec<(String, i64)>;

async fn sizes(pool: &PgPool) -> anyhow::Result<Sizes> {
    Ok(sqlx::query_as("SELECT origin, size FROM signet.logs").fetch_all(pool).await?)
}

async fn command_line(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let before = sizes(&pool).await?;
    let arguments = ["audit", "query", "--decision", "deny", "--limit", "7", "-o", "json"];
    let output = signet(demo, &arguments)?;
    ensure!(output.code == 0, "{}", output.stderr);
    let rows: Vec<Value> = serde_json::from_str(&output.stdout)?;
    assert_eq!(rows.len(), 7, "the load is denied all the time");
    let events = recorded(&pool, "query", &before).await?;
    assert_eq!(events.len(), 2, "one in each log: {events:?}");
    for (log, reason, detail) in &events {
        assert_eq!(reason, "answered");
        assert_eq!(detail["records"], rows.iter().filter(|row| row["log"] == log.as_str()).count());
        assert_eq!(detail["asked"]["filter"]["allow"], false);
        assert_eq!(detail["asked"]["limit"], 7);
    }

    let first = rows[0]["decision_id"].as_str().context("an id")?;
    let output = signet(demo, &["why", first, "-o", "json"])?;
    ensure!(output.code == 0, "{}", output.stderr);
    let events = recorded(&pool, "why", &before).await?;
    assert_eq!(events.len(), 1, "the record's log alone: {events:?}");
    assert_eq!(
        (&events[0].0, &events[0].2["records"]),
        (&rows[0]["log"].as_str().context("a log")?.to_owned(), &1.into())
    );
    assert_eq!(events[0].2["asked"]["id"], first);

    // Not finding is an answer too, of every log.
    let output = signet(demo, &["why", "01932e4a-0000-7000-8000-000000000001"])?;
    assert_eq!(output.code, 1, "{}", output.stderr);
    let none = recorded(&pool, "why", &before).await?;
    assert_eq!(none.iter().filter(|(.., detail)| detail["records"] == 0).count(), 2, "{none:?}");

    // Who read is the operator, by the identity that the agent gave; and what was recorded is in the tree.
    let reader: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT source_spiffe_id FROM signet.entries WHERE action IN ('audit:query', 'audit:why') AND reason = 'answered' \
         AND detail NOT LIKE '%dashboard%' ORDER BY 1",
    )
    .fetch_all(&pool)
    .await?;
    assert_eq!(reader, ["spiffe://east.bank.example/signet/operator", "spiffe://west.bank.example/signet/operator"]);
    Ok(())
}

async fn tail(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let before = sizes(&pool).await?;
    let mut child = Command::new(program("signet")?)
        .args(["audit", "tail", "--cluster", "east", "-o", "jsonl"])
        .env("SIGNET_CONTEXT", demo.context_file())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut seen = 0_u64;
    for line in lines.by_ref().take(20) {
        let row: Value = serde_json::from_str(&line?)?;
        assert_eq!(row["log"], demo.cluster("east")?.log_origin.as_str());
        seen += 1;
    }
    let began = recorded(&pool, "tail", &before).await?;
    assert_eq!(began.len(), 1, "{began:?}");
    assert_eq!((began[0].1.as_str(), &began[0].2["records"]), ("began", &Value::Null));
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a pid")?;
    kill_process(pid, Signal::INT)?;
    seen += lines.count() as u64;
    assert!(child.wait()?.success());
    let both = recorded(&pool, "tail", &before).await?;
    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!((both[1].1.as_str(), &both[1].2["records"]), ("ended", &seen.into()));
    Ok(())
}

async fn dashboard(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let before = sizes(&pool).await?;
    let address = demo.endpoints().dashboard.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let bearer = format!("Bearer {}", demo.endpoints().dashboard_token);
    let ask = async |path: &str| -> anyhow::Result<Value> {
        let answer = calls::get(&address, path, &[("authorization", &bearer)]).await?;
        ensure!(answer.status.is_success(), "{path}: {}", answer.text());
        Ok(serde_json::from_slice(&answer.body)?)
    };
    let page = ask("/api/decisions?decision=deny&limit=5").await?;
    let items = page["items"].as_array().context("items")?;
    assert_eq!(items.len(), 5);
    let by_token =
        |(.., detail): &&(String, String, Value)| detail["on_behalf_of"] == "holder of the dashboard token, by program";
    let events = recorded(&pool, "query", &before).await?;
    let events: Vec<_> = events.iter().filter(by_token).collect();
    assert_eq!(events.len(), 2, "{events:?}");
    for (log, _, detail) in &events {
        assert_eq!(detail["records"], items.iter().filter(|item| item["log"] == log.as_str()).count());
        assert_eq!(detail["asked"]["filter"]["allow"], false);
    }
    let id = items[0]["id"].as_str().context("an id")?;
    ask(&format!("/api/decisions/{id}/why")).await?;
    ask("/api/events?limit=3").await?;
    // Counts and states are no records.
    ask("/api/posture").await?;
    ask("/api/services").await?;
    let why = recorded(&pool, "why", &before).await?;
    assert_eq!(why.iter().filter(by_token).count(), 2, "{why:?}");
    let queries = recorded(&pool, "query", &before).await?;
    assert_eq!(queries.iter().filter(by_token).count(), 4, "{queries:?}");

    // A live list: one record in each log when it opens, one when it closes.
    let mut stream = tokio::net::TcpStream::connect(&address).await?;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = format!("GET /api/decisions/stream HTTP/1.1\r\nhost: {address}\r\nauthorization: {bearer}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    tokio::time::timeout(APPEAR, async {
        while !String::from_utf8_lossy(&read).contains("event: decisions") {
            ensure!(stream.read_buf(&mut read).await? > 0, "the stream ended: {}", String::from_utf8_lossy(&read));
        }
        Ok(())
    })
    .await
    .context("no decision in the live list")??;
    let open = recorded(&pool, "stream", &before).await?;
    let open: Vec<_> = open.iter().filter(by_token).collect();
    assert!(open.len() == 2 && open.iter().all(|(_, reason, _)| reason == "began"), "{open:?}");
    drop(stream);
    let closed = wait::until("the end of the live list in both logs", APPEAR, || async {
        let events = recorded(&pool, "stream", &before).await?;
        let ended: Vec<Value> =
            events.into_iter().filter(|(_, reason, _)| reason == "ended").map(|(.., detail)| detail).collect();
        Ok((ended.len() == 2).then_some(ended))
    })
    .await?;
    assert!(closed.iter().filter_map(|detail| detail["records"].as_u64()).sum::<u64>() > 0, "{closed:?}");
    Ok(())
}

/// A process that is stopped, and goes on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i32) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(pid).context("a pid")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

async fn unrecorded(demo: &Demo) -> anyhow::Result<()> {
    let address = demo.endpoints().dashboard.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let bearer = format!("Bearer {}", demo.endpoints().dashboard_token);
    let pids = demo.endpoints_now()?.pids;
    let stopped = Stopped::new(*pids.get("west/audit").context("west's audit service")?)?;
    // The rows are there for the taking, in PostgreSQL; what is missing is the record of it.
    let output = signet(demo, &["audit", "query", "-o", "json"])?;
    assert_eq!((output.code, output.stdout.as_str()), (4, ""), "{}", output.stderr);
    assert!(output.stderr.contains("did not record this access"), "{}", output.stderr);
    let answer = calls::get(&address, "/api/decisions", &[("authorization", &bearer)]).await?;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("access_not_recorded"), "{}", answer.text());
    // The other log is read as ever.
    let output = signet(demo, &["audit", "query", "--cluster", "east", "-o", "json"])?;
    ensure!(output.code == 0, "{}", output.stderr);
    let origin = &demo.cluster("east")?.log_origin;
    let rows: Vec<Value> = serde_json::from_str(&output.stdout)?;
    assert!(!rows.is_empty() && rows.iter().all(|row| row["log"] == origin.as_str()));
    drop(stopped);
    let again = wait::until("the dashboard to answer again", APPEAR, || async {
        let answer = calls::get(&address, "/api/decisions", &[("authorization", &bearer)]).await?;
        Ok(answer.status.is_success().then_some(answer))
    });
    again.await.map(|_| ())
}
