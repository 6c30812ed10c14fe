//! What needs a demo of its own: its end, a second one beside it, its summary, and rotation under load.

use std::time::{Duration, Instant};

use http::Method;
use signet_tests::demo::{Demo, is_alive};
use signet_tests::{calls, records};

use crate::OwnTest;

pub(crate) const TESTS: &[(&str, OwnTest)] = &[
    ("ctrl_c_ends_all_that_the_demo_started_and_not_the_demo_beside_it", two_beside_each_other),
    ("a_timed_demo_ends_by_itself_with_a_summary_that_adds_up", timed),
    ("ten_thousand_calls_over_a_minute_of_rotation_do_not_fail", rotation),
];

fn two_beside_each_other() -> anyhow::Result<()> {
    let mut first = Demo::start(&["--rate", "5"])?;
    let second = Demo::start(&["--rate", "0"])?;
    let endpoints = first.endpoints_now()?;
    let pids: Vec<i32> =
        endpoints.pids.values().copied().chain(endpoints.workloads.values().map(|workload| workload.pid)).collect();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    let asked = Instant::now();
    let status = first.interrupt()?;
    assert!(status.success(), "{status}: {}", first.output()?);
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
    let left: Vec<&i32> = pids.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "still there: {left:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let web = second.workload("east/bank/web")?;
        let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
        let answer = calls::through(&web.outbound, Method::GET, uri, &[], "").await?;
        assert_eq!(answer.status, 200, "the other demo runs on: {}", answer.text());
        anyhow::Ok(())
    })
}

fn timed() -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--rate", "40", "--seconds", "8"])?;
    let status = demo.wait(Duration::from_secs(60))?;
    let output = demo.output()?;
    assert!(status.success(), "{status}: {output}");
    for word in ["calls allowed", "denied", "across clusters", "records in PostgreSQL"] {
        assert!(output.contains(word), "`{word}` in: {output}");
    }
    Ok(())
}

/// SVIDs of 20 s are renewed at half their life: in a minute each sidecar changes its own several times.
fn rotation() -> anyhow::Result<()> {
    const CALLS: u32 = 10_000;
    let demo = Demo::start(&["--rate", "0", "--svid-ttl", "20"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let uris = [
            ("east/bank/web", "http://ledger.bank.svc.cluster.local/accounts/1"),
            ("east/bank/web", "http://fraud.bank.svc.clusterset.local/score?account=1"),
            ("west/bank/reporting", "http://ledger.bank.svc.clusterset.local/accounts/1"),
        ];
        let started = tokio::time::Instant::now();
        let mut under_way = tokio::task::JoinSet::new();
        for n in 0..CALLS {
            tokio::time::sleep_until(started + Duration::from_secs(60) * n / CALLS).await;
            let (source, uri) = uris[n as usize % uris.len()];
            let outbound = demo.workload(source)?.outbound.clone();
            under_way.spawn(async move {
                let answer = calls::through(&outbound, Method::GET, uri, &[], "").await;
                answer.map(|answer| (n, answer.status.as_u16(), answer.text()))
            });
            while under_way.len() > 64 {
                expect_allowed(under_way.join_next().await)?;
            }
        }
        while let Some(done) = under_way.join_next().await {
            expect_allowed(Some(done))?;
        }
        let pool = records::connect(&demo.endpoints().postgres).await?;
        let denied: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM decisions WHERE decision = 'deny' AND destination_spiffe_id IS NOT NULL",
        )
        .fetch_one(&pool)
        .await?;
        assert_eq!(denied, 0);
        anyhow::Ok(())
    })
}

type Called = Result<anyhow::Result<(u32, u16, String)>, tokio::task::JoinError>;

fn expect_allowed(done: Option<Called>) -> anyhow::Result<()> {
    let Some(done) = done else { return Ok(()) };
    let (n, status, text) = done??;
    assert_eq!(status, 200, "call {n}: {text}");
    Ok(())
}
