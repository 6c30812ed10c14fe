//! A commit is a policy change: a good one is enforced within two seconds, a bad one reaches no sidecar.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use http::Method;
use serde_json::Value;
use signet_tests::demo::Demo;
use signet_tests::{calls, cli, records, wait};

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_signed_commit_is_enforced_within_two_seconds_and_so_is_its_revert", |demo| Box::pin(enforced(demo))),
    ("an_unsigned_commit_changes_nothing_and_is_recorded_as_refused", |demo| Box::pin(unsigned(demo))),
    ("a_commit_signed_with_a_strangers_key_changes_nothing", |demo| Box::pin(strangers(demo))),
    ("a_commit_that_does_not_parse_validate_or_pass_its_tests_changes_nothing", |demo| Box::pin(broken(demo))),
    ("a_shadow_policy_is_decided_and_recorded_but_not_enforced", |demo| Box::pin(shadow(demo))),
    ("a_policy_that_denies_everything_is_undone_by_the_next_commit", |demo| Box::pin(cut_off(demo))),
    ("a_bundle_that_breaks_traffic_is_taken_back_and_an_announced_denial_is_not", |demo| Box::pin(taken_back(demo))),
];

const ENTRIES: &str = "http://ledger.bank.svc.cluster.local/accounts/1/entries";
const ACCOUNT: &str = "http://ledger.bank.svc.cluster.local/accounts/1";
/// Denies what the demo's policies permit: web may not read from the ledger.
const WEB_READS_NOT: &str = r#"
@id("test-web-reads-not")
@owner("bank")
forbid (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:GET",
  resource in Mesh::Service::"east.bank.example/bank/ledger"
);
"#;
/// Permits what the demo's policies deny: web may write to the ledger.
const WEB_WRITES: &str = r#"
@id("test-web-writes")
@owner("bank")
permit (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:POST",
  resource in Mesh::Service::"east.bank.example/bank/ledger"
);
"#;

pub(crate) fn git(demo: &Demo, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(&demo.endpoints().policy_repo).args(arguments);
    let output = cli::run(command)?;
    ensure!(output.code == 0, "git {arguments:?}: {}{}", output.stdout, output.stderr);
    Ok(output.stdout.trim().to_owned())
}

pub(crate) fn write(demo: &Demo, path: &str, text: &str) -> anyhow::Result<()> {
    let path = demo.endpoints().policy_repo.join(path);
    Ok(std::fs::write(path, text)?)
}

/// Puts the repository back to `head`, which the mesh still has active.
fn reset(demo: &Demo, head: &str) -> anyhow::Result<()> {
    git(demo, &["reset", "--quiet", "--hard", head]).map(drop)
}

async fn post_as_web(demo: &Demo) -> anyhow::Result<u16> {
    let web = demo.workload("east/bank/web")?;
    let headers = [("content-type", "application/json")];
    Ok(calls::through(&web.outbound, Method::POST, ENTRIES, &headers, r#"{"amount": 0}"#).await?.status.as_u16())
}

async fn until_status(demo: &Demo, status: u16) -> anyhow::Result<Duration> {
    let started = Instant::now();
    wait::until(&format!("web's POST to be answered {status}"), Duration::from_secs(10), || async {
        Ok((post_as_web(demo).await? == status).then_some(()))
    })
    .await?;
    Ok(started.elapsed())
}

async fn enforced(demo: &Demo) -> anyhow::Result<()> {
    assert_eq!(post_as_web(demo).await?, 403);
    write(demo, "policies/test-web-writes.cedar", WEB_WRITES)?;
    git(demo, &["add", "--all"])?;
    // The repository's own tests speak of this call, too; they are part of the commit.
    disable_tests(demo)?;
    git(demo, &["commit", "--quiet", "-S", "-m", "Let web write"])?;
    let commit = git(demo, &["rev-parse", "HEAD"])?;
    let took = until_status(demo, 201).await?;
    git(demo, &["revert", "--no-edit", "-S", "HEAD"])?;
    let back = until_status(demo, 403).await?;
    assert!(took < Duration::from_secs(2), "the commit took {took:?}");
    assert!(back < Duration::from_secs(2), "the revert took {back:?}");

    let pool = records::connect(&demo.endpoints().postgres).await?;
    let row = wait::until("a record under the new commit", Duration::from_secs(5), || async {
        let query = "SELECT count(*) FROM decisions WHERE policy_commit = $1 AND 'test-web-writes' = ANY(policy_ids)";
        let count: i64 = sqlx::query_scalar(query).bind(&commit).fetch_one(&pool).await?;
        Ok((count > 0).then_some(count))
    });
    row.await?;
    Ok(())
}

/// Waits until every proxy of every cluster enforces the head, and gives what `policy status` says then. A commit of another
/// test may just be on its way, or a sidecar that it ended on its way back.
pub(crate) async fn until_head_is_enforced(demo: &Demo) -> anyhow::Result<Value> {
    let head = git(demo, &["rev-parse", "HEAD"])?;
    wait::until("every proxy to enforce the head", Duration::from_secs(20), || async {
        let output = cli::signet(demo, &["policy", "status", "-o", "json"])?;
        let json: Value = serde_json::from_str(&output.stdout)?;
        let at_head = |cluster: &Value| {
            let mut proxies = cluster["proxies"].as_array().into_iter().flatten();
            cluster["commit"] == *head
                && proxies.all(|proxy| proxy["state"] == "current" && proxy["policy_commit"] == *head)
        };
        let at_head = json.as_array().is_some_and(|all| all.iter().all(at_head));
        Ok((output.code == 0 && at_head).then_some(json))
    })
    .await
}

/// Takes the last commit back, and waits until every proxy does without it: the next test finds the demo as it was.
pub(crate) async fn revert(demo: &Demo) -> anyhow::Result<()> {
    git(demo, &["revert", "--no-edit", "-S", "HEAD"])?;
    until_head_is_enforced(demo).await.map(drop)
}

/// Takes the repository's tests out of the coming commit.
pub(crate) fn disable_tests(demo: &Demo) -> anyhow::Result<()> {
    git(demo, &["rm", "--quiet", "-r", "--ignore-unmatch", "tests"]).map(drop)
}

/// Commits what `prepare` wrote with these arguments, waits until both control planes have refused it, and asserts that
/// nothing changed.
async fn refused(demo: &Demo, commit: &[&str], expect: &str) -> anyhow::Result<()> {
    let head = git(demo, &["rev-parse", "HEAD"])?;
    assert_eq!(post_as_web(demo).await?, 403);
    git(demo, &["add", "--all"])?;
    git(demo, commit)?;
    let bad = git(demo, &["rev-parse", "HEAD"])?;
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let outcome = wait::until(&format!("the refusal of {bad} to be recorded"), Duration::from_secs(10), || async {
        let query = "SELECT concat_ws(' ', action, reason, detail) FROM events WHERE NOT succeeded AND concat_ws(' ', object, policy_commit, detail) LIKE '%' || $1 || '%'";
        Ok(sqlx::query_scalar::<_, String>(query).bind(&bad).fetch_optional(&pool).await?)
    })
    .await;
    let status = post_as_web(demo).await;
    reset(demo, &head)?;
    let event = outcome?;
    assert!(event.contains(expect), "the event should say `{expect}`: {event}");
    assert_eq!(status?, 403, "the last good bundle stays");
    Ok(())
}

async fn unsigned(demo: &Demo) -> anyhow::Result<()> {
    write(demo, "policies/test-web-writes.cedar", WEB_WRITES)?;
    disable_tests(demo)?;
    refused(demo, &["-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "Unsigned"], "unsigned").await
}

async fn strangers(demo: &Demo) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("stranger");
    make_key(&key)?;
    write(demo, "policies/test-web-writes.cedar", WEB_WRITES)?;
    disable_tests(demo)?;
    let signing_key = format!("user.signingkey={}", key.display());
    refused(demo, &["-c", &signing_key, "commit", "--quiet", "-S", "-m", "A stranger's"], "untrusted_signer").await
}

pub(crate) fn make_key(path: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    let output = cli::run(command)?;
    ensure!(output.code == 0, "ssh-keygen: {}", output.stderr);
    Ok(())
}

async fn broken(demo: &Demo) -> anyhow::Result<()> {
    let commit = ["commit", "--quiet", "-S", "-m", "Broken"];
    write(demo, "policies/test-broken.cedar", "@id(\"x\") permit (principal, action")?;
    refused(demo, &commit, "policies/test-broken.cedar:1").await?;
    let unknown = "@id(\"x\") @owner(\"bank\") permit (principal, action, resource) when { context.nonsense == 1 };";
    write(demo, "policies/test-broken.cedar", unknown)?;
    refused(demo, &commit, "policies/test-broken.cedar:1").await?;
    // With its tests in place, permitting what they deny fails them.
    write(demo, "policies/test-web-writes.cedar", WEB_WRITES)?;
    refused(demo, &commit, "tests_failed").await
}

async fn shadow(demo: &Demo) -> anyhow::Result<()> {
    write(demo, "policies/test-web-writes.cedar", &WEB_WRITES.replace("@owner", "@mode(\"shadow\")\n@owner"))?;
    git(demo, &["add", "--all"])?;
    git(demo, &["commit", "--quiet", "-S", "-m", "Try web's writes in the shadow"])?;
    let commit = git(demo, &["rev-parse", "HEAD"])?;
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let web = demo.workload("east/bank/web")?;
    let headers = [("content-type", "application/json")];
    let explained = wait::until("a shadow decision under the new commit", Duration::from_secs(10), || async {
        let answer = calls::through(&web.outbound, Method::POST, ENTRIES, &headers, r#"{"amount": 0}"#).await?;
        assert_eq!(answer.status, 403, "a shadow policy permits nothing");
        let id = answer.decision()?;
        if records::of_decision(&pool, id).await?.policy_commit != commit {
            return Ok(None);
        }
        Ok(Some(cli::signet(demo, &["audit", "query", "--commit", &commit, "--decision", "deny", "-o", "json"])?))
    })
    .await;
    // History moves forward only: what was accepted is taken back by a new commit.
    revert(demo).await?;
    let explained = explained?;
    assert!(explained.stdout.contains("test-web-writes"), "the record names the shadow policy: {}", explained.stdout);
    Ok(())
}

async fn get_as_web(demo: &Demo) -> anyhow::Result<u16> {
    let web = demo.workload("east/bank/web")?;
    Ok(calls::through(&web.outbound, Method::GET, ACCOUNT, &[], "").await?.status.as_u16())
}

async fn until_get(demo: &Demo, status: u16) -> anyhow::Result<()> {
    // Every look is a call, so the limit of lost calls is passed by looking.
    wait::until(&format!("web's GET to be answered {status}"), Duration::from_secs(30), || async {
        Ok((get_as_web(demo).await? == status).then_some(()))
    })
    .await
}

async fn taken_back(demo: &Demo) -> anyhow::Result<()> {
    let start = git(demo, &["rev-parse", "HEAD"])?;
    let outcome = take_back(demo).await;
    // Forward to the files of before, whatever happened.
    git(demo, &["reset", "--quiet", "--hard"])?;
    git(demo, &["rm", "--quiet", "-r", "."])?;
    git(demo, &["checkout", "--quiet", &start, "--", "."])?;
    git(demo, &["commit", "--quiet", "--allow-empty", "-S", "-m", "As before"])?;
    until_get(demo, 200).await?;
    outcome
}

async fn take_back(demo: &Demo) -> anyhow::Result<()> {
    let settings = std::fs::read_to_string(demo.endpoints().policy_repo.join("signet.yaml"))?;
    let on = settings.replace("automatic_return: false", "automatic_return: true");
    ensure!(on != settings, "the demo's settings should say that no bundle is taken back");
    write(demo, "signet.yaml", &on)?;
    disable_tests(demo)?;
    git(demo, &["commit", "--quiet", "-a", "-S", "-m", "Let bundles be taken back"])?;
    let good = git(demo, &["rev-parse", "HEAD"])?;
    wait::until("the sidecars to enforce it", Duration::from_secs(10), || async {
        Ok((cli::signet(demo, &["policy", "status"])?.stdout.contains(good.get(..12).unwrap_or(&good))).then_some(()))
    })
    .await?;

    write(demo, "policies/test-web-reads-not.cedar", WEB_READS_NOT)?;
    git(demo, &["add", "--all"])?;
    git(demo, &["commit", "--quiet", "-S", "-m", "Close the ledger by mistake"])?;
    let bad = git(demo, &["rev-parse", "HEAD"])?;
    until_get(demo, 403).await?;
    until_get(demo, 200).await?;
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let detail = wait::until("the return to be recorded", Duration::from_secs(10), || async {
        let query = "SELECT detail::text FROM events WHERE action = 'policy:return' AND concat_ws(' ', object, policy_commit) LIKE '%' || $1 || '%'";
        Ok(sqlx::query_scalar::<_, String>(query).bind(&good).fetch_optional(&pool).await?)
    })
    .await?;
    assert!(detail.contains(&bad) && detail.contains("sa/web http:GET east.bank.example/bank/ledger"), "{detail}");
    let status = cli::signet(demo, &["policy", "status"])?;
    let told = format!("{}{}", status.stdout, status.stderr);
    assert!(told.contains("returned: it denied"), "{told}");

    // The same again, on purpose: what is announced stays denied, however often it is called.
    let message = "Close the ledger to web\n\nSignet-Denies: spiffe://east.bank.example/ns/bank/sa/web http:GET east.bank.example/bank/ledger";
    git(demo, &["commit", "--quiet", "--allow-empty", "-S", "-m", message])?;
    until_get(demo, 403).await?;
    // Longer than two reports of lost calls take, with more calls than the limit.
    let ends = Instant::now() + Duration::from_secs(3);
    let mut calls = 0;
    while Instant::now() < ends || calls < 100 {
        assert_eq!(get_as_web(demo).await?, 403, "after {calls} calls");
        calls += 1;
    }
    Ok(())
}

/// Signet's own calls (snapshots, records, identities, bundles of linked clusters) are authorised by who calls, never by
/// policy, so that no policy can cut the mesh off from its repair.
async fn cut_off(demo: &Demo) -> anyhow::Result<()> {
    disable_tests(demo)?;
    write(
        demo,
        "policies/test-nothing.cedar",
        "@id(\"test-nothing\") @owner(\"bank\") forbid (principal, action, resource);\n",
    )?;
    git(demo, &["add", "--all"])?;
    git(demo, &["commit", "--quiet", "-S", "-m", "Deny everything, Signet's own identities included"])?;
    let commit = git(demo, &["rev-parse", "HEAD"])?;
    let outcome = denied_and_recorded(demo, &commit).await;
    git(demo, &["revert", "--no-edit", "-S", "HEAD"])?;
    until_get(demo, 200).await?;
    outcome
}

async fn denied_and_recorded(demo: &Demo, commit: &str) -> anyhow::Result<()> {
    until_get(demo, 403).await?;
    // The records of these denials still arrive, from both clusters.
    let pool = records::connect(&demo.endpoints().postgres).await?;
    wait::until("both logs to hold denials under the commit", Duration::from_secs(20), || async {
        let query = "SELECT count(DISTINCT log) FROM decisions WHERE policy_commit = $1 AND decision = 'deny'";
        let logs: i64 = sqlx::query_scalar(query).bind(commit).fetch_one(&pool).await?;
        Ok((logs == 2).then_some(()))
    })
    .await?;
    let check = cli::signet(demo, &["check"])?;
    ensure!(check.code == 0, "every part should work: {}", check.stdout);
    Ok(())
}
