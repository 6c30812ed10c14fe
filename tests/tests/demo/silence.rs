//! A sidecar that is killed together with its disk: nothing that it sent shows what it did not send, so its silence is told.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use signet_tests::cli::signet;
use signet_tests::demo::Demo;
use signet_tests::{records, wait};

use crate::OwnTest;

pub(crate) const TESTS: &[(&str, OwnTest)] =
    &[("a_sidecar_killed_with_its_disk_is_a_gap_and_an_alert_within_thirty_seconds", lost_with_its_disk)];

const BOUND: Duration = Duration::from_secs(30);
const FRAUD: &str = "spiffe://west.bank.example/ns/bank/proxy/fraud";

fn lost_with_its_disk() -> anyhow::Result<()> {
    let demo = Demo::start(&["--rate", "20"])?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let pool = records::connect(&demo.endpoints().postgres).await?;
        let spool = demo.dir().join("west/proxy-fraud/spool");
        wait::until("a record of its", BOUND, || async {
            let query = "SELECT leaf_index FROM signet.entries WHERE producer = $1 LIMIT 1";
            Ok(sqlx::query_scalar::<_, i64>(query).bind(FRAUD).fetch_optional(&pool).await?)
        })
        .await?;
        let raw = demo.endpoints_now()?.workloads.get("west/bank/fraud").context("fraud")?.pid;
        let pid = Pid::from_raw(raw).context("a pid")?;
        // Stopped first, so that nothing is written between losing the disk and dying.
        kill_process(pid, Signal::STOP)?;
        let files: Vec<_> = std::fs::read_dir(&spool)?.collect::<Result<_, _>>()?;
        ensure!(files.len() > 1, "{} holds no segment: {files:?}", spool.display());
        files.iter().try_for_each(|file| std::fs::remove_file(file.path()))?;
        kill_process(pid, Signal::KILL)?;
        let killed = Instant::now();

        let event = async |action: &str, reason: &str| -> anyhow::Result<Option<String>> {
            let query = "SELECT detail FROM signet.entries WHERE action = $1 AND reason = $2 AND source_spiffe_id = $3";
            Ok(sqlx::query_scalar(query).bind(action).bind(reason).bind(FRAUD).fetch_optional(&pool).await?)
        };
        let silence = wait::until("its silence", BOUND, || event("audit:silent", "epoch_silent")).await?;
        let silence: Value = serde_json::from_str(&silence)?;
        assert!(silence["last_sequence"].as_u64() > Some(0), "{silence}");
        wait::until("the alert", BOUND, || event("audit:alert", "records_missing")).await?;
        assert!(killed.elapsed() < BOUND, "it took {:?}", killed.elapsed());

        let status = signet(&demo, &["audit", "status", "-o", "json"])?;
        assert_eq!(status.code, 1, "{}{}", status.stdout, status.stderr);
        let report: Value = serde_json::from_str(&status.stdout)?;
        let findings = report["findings"].as_array().context("findings")?;
        let gaps: Vec<&Value> = findings.iter().filter(|finding| finding["state"] == "gap").collect();
        assert!(gaps.len() == 1 && gaps[0]["part"] == "silence" && gaps[0]["of"] == FRAUD, "{gaps:?}");
        // The sidecar that took its place records under an epoch of its own, and nobody else was called silent.
        let silences: i64 = sqlx::query_scalar("SELECT count(*) FROM signet.entries WHERE action = 'audit:silent'")
            .fetch_one(&pool)
            .await?;
        assert_eq!(silences, 1);
        Ok(())
    })
}
