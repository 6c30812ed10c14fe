//! Recorded traffic of the running demo, decided again under a change before it is merged.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;
use signet_tests::cli::{self, signet};
use signet_tests::demo::Demo;
use signet_tests::records;

use crate::{Running, Test, policy_changes};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("traffic_of_an_export_and_of_the_store_is_decided_again_and_flips_are_shown", |demo| Box::pin(flips(demo))),
    ("a_recorded_decision_comes_out_again_under_its_own_commit", agrees),
];

const FILE: &str = "policies/ledger.cedar";
const WEB: &str = "spiffe://east.bank.example/ns/bank/sa/web";
const LEDGER: &str = "east.bank.example/bank/ledger";

/// A clone of the demo's policy repository, which stays as it is.
fn clone(demo: &Demo, into: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("git");
    command.args(["clone", "--quiet"]).arg(&demo.endpoints().policy_repo).arg(into);
    let output = cli::run(command)?;
    ensure!(output.code == 0, "{}", output.stderr);
    Ok(())
}

/// Decides records again under the working tree of `repository`.
fn replay(demo: &Demo, repository: &Path, records: &[&str]) -> anyhow::Result<Value> {
    let mut arguments = vec!["policy", "replay", "-o", "json", "--repository", repository.to_str().context("a path")?];
    arguments.extend(records);
    let output = signet(demo, &arguments)?;
    ensure!(output.code == 0, "{}{}", output.stdout, output.stderr);
    Ok(serde_json::from_str(&output.stdout)?)
}

/// How web's reading of the ledger flips.
fn of_web(found: &Value) -> Option<&Value> {
    let flips = found["flips"].as_array()?;
    flips.iter().find(|flip| flip["source"] == WEB && flip["destination"] == LEDGER && flip["action"] == "http:GET")
}

async fn flips(demo: &Demo) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let repository = directory.path().join("policies");
    clone(demo, &repository)?;
    let file = directory.path().join("records.jsonl");
    let exported = file.to_str().context("a path")?;
    let output = signet(demo, &["audit", "export", "--format", "jsonl", "--out", exported])?;
    ensure!(output.code == 0, "{}", output.stderr);
    // Web may not read any more.
    let policies = std::fs::read_to_string(repository.join(FILE))?;
    let start = policies.find("@id(\"web-reads-accounts\")").context("the policy")?;
    let (before, rest) = policies.split_at(start);
    std::fs::write(repository.join(FILE), format!("{before}{}", rest.replacen("permit", "forbid", 1)))?;
    for records in [&[exported][..], &["--days", "1"], &["--days", "1", "--cluster", "east"]] {
        let found = replay(demo, &repository, records)?;
        let flip = of_web(&found).with_context(|| format!("{records:?}: web's reading flips: {found}"))?;
        assert_eq!((&flip["was"], &flip["now"]["effect"]), (&"allow".into(), &"deny".into()), "{found}");
        assert_eq!(flip["now"]["policies"], serde_json::json!(["web-reads-accounts"]));
        assert!(flip["count"].as_u64() > Some(0) && flip["last_seen"].as_str() > Some("2020"), "{flip}");
        // The load names all that a decision needs: whatever a policy decided could be decided again.
        assert_eq!(found["not_replayed"], serde_json::json!({}), "{records:?}");
    }
    // West's own log says nothing of it.
    assert_eq!(of_web(&replay(demo, &repository, &["--days", "1", "--cluster", "west"])?), None);
    // That records were read is a record.
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let query = "SELECT count(DISTINCT log) FROM events WHERE action = 'audit:replay' AND succeeded";
    let logs: i64 = sqlx::query_scalar(query).fetch_one(&pool).await?;
    assert_eq!(logs, 2);
    Ok(())
}

fn agrees(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        let repository = directory.path().join("policies");
        clone(demo, &repository)?;
        let file = directory.path().join("records.jsonl");
        let exported = file.to_str().context("a path")?;
        let commit = policy_changes::git(demo, &["rev-parse", "HEAD"])?;
        let export = ["audit", "export", "--format", "jsonl", "--out", exported, "--commit", &commit];
        let output = signet(demo, &export)?;
        ensure!(output.code == 0, "{}", output.stderr);
        let found = replay(demo, &repository, &[exported])?;
        assert!(found["decided"].as_u64() > Some(10), "{found}");
        assert_eq!(
            (&found["flips"], &found["not_replayed"]),
            (&serde_json::json!([]), &serde_json::json!({})),
            "{found}"
        );
        Ok(())
    })
}
