//! Break-glass through the command line: what a signed grant opens, who sees it, and that nothing opens it again.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use http::Method;
use signet_tests::cli::Output;
use signet_tests::demo::Demo;
use signet_tests::{calls, cli, records, wait};

use crate::Test;
use crate::policy_changes::{git, make_key, revert, write};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("a_signed_grant_opens_what_a_policy_holds_back_until_it_is_revoked", |demo| Box::pin(granted(demo)))];

const ENTRIES: &str = "http://ledger.bank.svc.cluster.local/accounts/1/entries";
const HELD_BACK: &str = r#"
@id("test-web-writes-in-an-emergency")
@owner("bank")
permit (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:POST",
  resource in Mesh::Service::"east.bank.example/bank/ledger"
)
when { context has break_glass && context.break_glass.ticket like "INC-*" };
"#;

async fn post(demo: &Demo) -> anyhow::Result<calls::Answer> {
    let web = demo.workload("east/bank/web")?;
    let headers = [("content-type", "application/json")];
    calls::through(&web.outbound, Method::POST, ENTRIES, &headers, r#"{"amount": 0}"#).await
}

async fn until(demo: &Demo, status: u16) -> anyhow::Result<()> {
    wait::until(&format!("web's POST to be answered {status}"), Duration::from_secs(10), || async {
        Ok((post(demo).await?.status == status).then_some(()))
    })
    .await
}

fn break_glass(demo: &Demo, arguments: &[&str]) -> anyhow::Result<Output> {
    cli::signet(demo, &[&["policy", "break-glass"], arguments].concat())
}

async fn granted(demo: &Demo) -> anyhow::Result<()> {
    write(demo, "policies/test-emergency.cedar", HELD_BACK)?;
    git(demo, &["add", "--all"])?;
    git(demo, &["commit", "--quiet", "-S", "-m", "Let web write in an emergency"])?;
    let commit = git(demo, &["rev-parse", "HEAD"])?;
    let dir = tempfile::tempdir()?;
    let outcome = open_and_close(demo, &commit, dir.path()).await;
    let revoked = break_glass(demo, &["list", "-o", "json"])?;
    revert(demo).await?;
    outcome?;
    assert_eq!(revoked.stdout.trim(), "[]");
    Ok(())
}

async fn open_and_close(demo: &Demo, commit: &str, dir: &Path) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    wait::until("the commit to be in force", Duration::from_secs(10), || async {
        let answer = post(demo).await?;
        assert_eq!(answer.status, 403, "without a grant nothing is open");
        let id = answer.decision()?;
        Ok((records::of_decision(&pool, id).await?.policy_commit == commit).then_some(()))
    })
    .await?;

    let (file, key) = (dir.join("grant.json"), dir.join("stranger"));
    let (file, own) = (file.display().to_string(), demo.endpoints().policy_signing_key.display().to_string());
    let prepared = break_glass(
        demo,
        &[
            "prepare",
            "--cluster",
            "east",
            "--caller",
            "east.bank.example/bank/web",
            "--service",
            "east.bank.example/bank/ledger",
            "--minutes",
            "30",
            "--ticket",
            "INC-4711",
            "--reason",
            "entries were lost",
        ],
    )?;
    ensure!(prepared.code == 0, "prepare: {}", prepared.stderr);
    std::fs::write(&file, &prepared.stdout)?;

    // Nobody's signature, and a stranger's.
    let refused = break_glass(demo, &["grant", &file])?;
    assert!(refused.code == 1 && refused.stderr.contains("grant.json.sig"), "{}", refused.stderr);
    make_key(&key)?;
    let signed = break_glass(demo, &["sign", &file, "--key", &key.display().to_string()])?;
    ensure!(signed.code == 0, "sign: {}", signed.stderr);
    assert!(signed.stderr.contains("INC-4711") && signed.stderr.contains("bank/ledger"), "{}", signed.stderr);
    let refused = break_glass(demo, &["grant", &file])?;
    assert!(refused.code == 1 && refused.stderr.contains("untrusted_signer"), "{}", refused.stderr);
    std::fs::remove_file(format!("{file}.sig"))?;

    let signed = break_glass(demo, &["sign", &file, "--key", &own])?;
    ensure!(signed.code == 0, "sign: {}", signed.stderr);
    // Other words than those that were signed.
    std::fs::write(&file, prepared.stdout.replace("entries were lost", "entries were lost!"))?;
    let refused = break_glass(demo, &["grant", &file])?;
    assert!(refused.code == 1 && refused.stderr.contains("bad_signature"), "{}", refused.stderr);
    assert_eq!(post(demo).await?.status, 403);
    std::fs::write(&file, &prepared.stdout)?;
    let given = break_glass(demo, &["grant", &file, "-o", "json"])?;
    ensure!(given.code == 0, "grant: {}", given.stderr);
    let given: serde_json::Value = serde_json::from_str(&given.stdout)?;
    let id = given[0]["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(given[0]["approvers"], serde_json::json!(["policy@bank.example"]));

    until(demo, 201).await?;
    let decision = wait::until("a record of what the grant opened", Duration::from_secs(5), || async {
        let query = "SELECT decision_id::text FROM decisions WHERE policy_commit = $1 AND 'test-web-writes-in-an-emergency' = ANY(policy_ids)";
        Ok(sqlx::query_scalar::<_, String>(query).bind(commit).fetch_optional(&pool).await?)
    })
    .await?;
    let status = cli::signet(demo, &["policy", "status"])?;
    assert!(status.stdout.contains(&format!("break-glass {id} for INC-4711 holds until")), "{}", status.stdout);
    let told = cli::signet(demo, &["why", &decision])?.stdout;
    for part in [
        "Decided by test-web-writes-in-an-emergency",
        &format!(
            "decided by the break-glass grant {id} for INC-4711, approved by policy@bank.example; without it: deny"
        ),
        "Computed again from the recorded commit and context: the same.",
    ] {
        assert!(told.contains(part), "`{part}` is not in {told}");
    }

    let ended = break_glass(demo, &["revoke", &id, "--reason", "it is mended"])?;
    ensure!(ended.code == 0, "revoke: {}", ended.stderr);
    until(demo, 403).await?;
    let refused = break_glass(demo, &["grant", &file])?;
    assert!(refused.code == 1 && refused.stderr.contains("replayed"), "{}", refused.stderr);
    assert_eq!(post(demo).await?.status, 403);
    for (action, reason, part) in [
        ("break_glass:grant", "signed", "entries were lost"),
        ("break_glass:refuse", "untrusted_signer", "not among the trusted signers"),
        ("break_glass:refuse", "bad_signature", "does not fit"),
        ("break_glass:end", "revoked", "it is mended"),
        ("break_glass:refuse", "replayed", &id),
    ] {
        wait::until(&format!("the record of {action} {reason}"), Duration::from_secs(10), || async {
            let query =
                "SELECT count(*) FROM events WHERE action = $1 AND reason = $2 AND detail::text LIKE '%' || $3 || '%'";
            let count: i64 = sqlx::query_scalar(query).bind(action).bind(reason).bind(part).fetch_one(&pool).await?;
            Ok((count > 0).then_some(()))
        })
        .await?;
    }
    Ok(())
}
