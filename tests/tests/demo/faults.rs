//! Neighbours killed under load: nothing is lost, nothing doubled, and what died is back at the same address.

use std::time::{Duration, Instant};

use anyhow::Context;
use http::Method;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use signet_tests::demo::{Demo, is_alive, signal};
use signet_tests::{calls, records, wait};
use sqlx::PgPool;

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_killed_audit_service_loses_and_doubles_no_record", |demo| Box::pin(kill_under_load(demo, "east/audit"))),
    ("a_killed_postgresql_loses_and_doubles_no_record", |demo| Box::pin(kill_under_load(demo, "postgres"))),
    ("a_sidecar_without_descriptors_lets_nothing_through_and_serves_again_by_itself", |demo| {
        Box::pin(without_descriptors(demo))
    }),
    ("every_component_that_dies_is_back_within_two_seconds_and_calls_go_on", |demo| Box::pin(kill_each(demo))),
    ("the_log_is_consistent_and_complete_after_all_that", |demo| Box::pin(log_is_whole(demo))),
];

const CALLS: usize = 300;

/// Calls with one trace id each while `victim` is killed twice; then every call has exactly one record.
async fn kill_under_load(demo: &Demo, victim: &str) -> anyhow::Result<()> {
    let web = &demo.workload("east/bank/web")?.outbound;
    let prefix = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
    let mut allowed = 0_i64;
    for n in 0..CALLS {
        if n == CALLS / 3 || n == 2 * CALLS / 3 {
            let pid = demo.endpoints_now()?.pids.get(victim).copied().with_context(|| format!("no pid of {victim}"))?;
            signal(pid, Signal::KILL)?;
        }
        let traceparent = format!("00-{prefix}{n:016x}-00f067aa0ba902b7-01");
        let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
        let answer = calls::through(web, Method::GET, uri, &[("traceparent", &traceparent)], "").await?;
        assert_eq!(answer.status, 200, "call {n}: {}", answer.text());
        allowed += 1;
    }
    let pool = pool_again(demo).await?;
    let pattern = format!("{prefix}%");
    let count = "SELECT count(*) FROM decisions WHERE trace_id LIKE $1 AND decision = 'allow' AND action = 'http:GET'";
    let found = wait::until("a record of every call", Duration::from_secs(20), || async {
        let found: i64 = sqlx::query_scalar(count).bind(&pattern).fetch_one(&pool).await?;
        Ok((found >= allowed).then_some(found))
    })
    .await?;
    assert_eq!(found, allowed, "no record is doubled");
    let distinct: i64 = sqlx::query_scalar("SELECT count(DISTINCT trace_id) FROM decisions WHERE trace_id LIKE $1")
        .bind(&pattern)
        .fetch_one(&pool)
        .await?;
    assert_eq!(distinct, allowed);
    Ok(())
}

/// Strangers take all descriptors that a sidecar may have, the caller's and then the callee's.
async fn without_descriptors(demo: &Demo) -> anyhow::Result<()> {
    let web = demo.workload("east/bank/web")?.outbound.clone();
    let inbound = demo.workload("east/bank/ledger")?.inbound.clone();
    for (name, listener) in [("east/bank/web", &web), ("east/bank/ledger", &inbound)] {
        let pid = demo.endpoints_now()?.workloads[name].pid;
        let process = Pid::from_raw(pid).context("a pid")?;
        let open = || Ok::<_, anyhow::Error>(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        let few = u64::try_from(open()?)? + 8;
        let before = prlimit(Some(process), Resource::Nofile, Rlimit { current: Some(few), ..limits_of(pid)? })?;
        let mut taken = Vec::new();
        for _ in 0..100 {
            taken.push(tokio::net::TcpStream::connect(listener).await?);
        }
        wait::until(&format!("{name} to have no descriptor left"), Duration::from_secs(5), || async {
            Ok((u64::try_from(open()?)? >= few).then_some(()))
        })
        .await?;
        let headers = [("content-type", "application/json")];
        let uri = "http://ledger.bank.svc.cluster.local/accounts/1/entries";
        let denied = calls::through(&web, Method::POST, uri, &headers, r#"{"amount": 1}"#);
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), denied).await {
            assert!(answer.status == 403 || answer.status.is_server_error(), "{name}: {}", answer.text());
        }
        drop(taken);
        // The limit is as low as it was: what was taken is free again.
        let served = wait::until(&format!("{name} to serve again"), Duration::from_secs(20), || async {
            let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
            Ok(calls::through(&web, Method::GET, uri, &[], "").await.ok().filter(|answer| answer.status == 200))
        })
        .await;
        prlimit(Some(process), Resource::Nofile, before)?;
        served?;
        assert_eq!(demo.endpoints_now()?.workloads[name].pid, pid, "{name} lives on");
    }
    Ok(())
}

/// The limit of open files that a process has now.
fn limits_of(pid: i32) -> anyhow::Result<Rlimit> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = text.lines().find(|line| line.starts_with("Max open files")).context("a limit of open files")?;
    let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse().ok());
    Ok(Rlimit { current: numbers.next().flatten(), maximum: numbers.next().flatten() })
}

/// PostgreSQL may have been killed a moment ago.
async fn pool_again(demo: &Demo) -> anyhow::Result<PgPool> {
    wait::until("PostgreSQL", Duration::from_secs(15), || async {
        Ok(records::connect(&demo.endpoints().postgres).await.ok())
    })
    .await
}

async fn kill_each(demo: &Demo) -> anyhow::Result<()> {
    let before = demo.endpoints_now()?;
    let names: Vec<String> = before.pids.keys().filter(|name| *name != "load").cloned().collect();
    for name in names {
        let old = demo.endpoints_now()?.pids[&name];
        let killed = Instant::now();
        signal(old, Signal::KILL)?;
        let new = wait::until(&format!("{name} to be started again"), Duration::from_secs(5), || async {
            let new = demo.endpoints_now()?.pids[&name];
            Ok((new != old && is_alive(new)).then_some(new))
        })
        .await?;
        assert!(killed.elapsed() < Duration::from_secs(2), "{name} ({new}) took {:?}", killed.elapsed());
        let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
        let answer = calls::through(&demo.workload("east/bank/web")?.outbound, Method::GET, uri, &[], "").await?;
        assert_eq!(answer.status, 200, "after killing {name}: {}", answer.text());
    }
    let old = demo.endpoints_now()?.workloads["east/bank/ledger"].pid;
    signal(old, Signal::KILL)?;
    wait::until("the ledger's sidecar to serve again", Duration::from_secs(10), || async {
        let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
        let answer = calls::through(&demo.workload("east/bank/web")?.outbound, Method::GET, uri, &[], "").await?;
        let new = demo.endpoints_now()?.workloads["east/bank/ledger"].pid;
        Ok((answer.status == 200 && new != old).then_some(()))
    })
    .await?;
    let after = demo.endpoints_now()?;
    for (name, workload) in &before.workloads {
        assert_eq!(workload.outbound, after.workloads[name].outbound, "addresses stay");
    }
    Ok(())
}

async fn log_is_whole(demo: &Demo) -> anyhow::Result<()> {
    let pool = pool_again(demo).await?;
    wait::until("the producers' gaps to close", Duration::from_secs(20), || async {
        let missing: i64 =
            sqlx::query_scalar("SELECT COALESCE(sum(missing), 0)::bigint FROM signet.epochs").fetch_one(&pool).await?;
        Ok((missing == 0).then_some(()))
    })
    .await?;
    let doubled: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT decision_id FROM decisions GROUP BY decision_id HAVING count(*) > 1) AS doubled",
    )
    .fetch_one(&pool)
    .await?;
    assert_eq!(doubled, 0);
    Ok(())
}
