//! Watching the mesh live: `signet mesh top` and `signet mesh tap`.

use std::cell::RefCell;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use http::Method;
use serde_json::Value;
use signet_tests::cli::signet;
use signet_tests::demo::{Demo, program};
use signet_tests::wait::until;
use signet_tests::{calls, records};

use crate::{Running, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("top_shows_rates_denials_and_times_of_both_clusters", |demo| Box::pin(top(demo))),
    ("tap_shows_calls_without_queries_and_is_recorded", |demo| Box::pin(tap(demo))),
    ("tap_counts_what_it_does_not_show", |demo| Box::pin(drops(demo))),
    ("diagnostics_hold_every_component_and_no_secret", diagnostics),
];

const LEDGER: &str = "http://ledger.bank.svc.cluster.local";

async fn top(demo: &Demo) -> anyhow::Result<()> {
    let output = signet(demo, &["mesh", "top", "--once", "--interval", "3", "-o", "json"])?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let update: Value = serde_json::from_str(&output.stdout)?;
    assert!(update["proxies"].as_u64() >= Some(6), "{update}");
    assert!((2.0..5.0).contains(&update["window_seconds"].as_f64().unwrap()), "{update}");
    let flow = |source: &str, destination: &str| {
        let flows = update["flows"].as_array().unwrap();
        let found = flows.iter().find(|flow| flow["source"] == source && flow["destination"] == destination);
        found.with_context(|| format!("no flow {source} -> {destination} in {update}")).cloned()
    };
    let web = "spiffe://east.bank.example/ns/bank/sa/web";
    // The load generator has web read accounts and try to write entries, which is denied.
    let ledger = flow(web, "east.bank.example/bank/ledger")?;
    assert!(ledger["requests"].as_u64() > ledger["denied"].as_u64(), "{ledger}");
    assert!(ledger["denied"].as_u64() > Some(0) && ledger["p99_ms"].as_f64() >= ledger["p50_ms"].as_f64(), "{ledger}");
    assert!((1.0..100.0).contains(&ledger["success_percent"].as_f64().unwrap()), "{ledger}");
    // Across clusters each end reports to its own control plane; here they are one row.
    let fraud = flow(web, "west.bank.example/bank/fraud")?;
    assert_eq!(fraud["seen_by"], "both", "{fraud}");
    let db = flow("spiffe://east.bank.example/ns/bank/sa/ledger", "east.bank.example/bank/ledger-db")?;
    assert!(db["connections"].as_u64() > Some(0) && db["sent_bytes"].as_u64() > Some(0), "{db}");

    let table = signet(demo, &["mesh", "top", "east/bank/ledger", "--once", "--interval", "2"])?;
    assert!(table.stdout.contains("east/bank/web") && table.stdout.contains("CALLS/S"), "{}", table.stdout);
    let rows = table.stdout.lines().skip(1);
    assert!(rows.clone().count() > 0 && rows.clone().all(|row| row.contains("east/bank/ledger")), "{}", table.stdout);
    let gateway = signet(demo, &["mesh", "top", "--seen-by", "gateway", "--once", "--interval", "2", "-o", "json"])?;
    assert_eq!(gateway.code, 0, "{}", gateway.stderr);
    assert_eq!(signet(demo, &["mesh", "top", "--interval", "0"])?.code, 2);
    assert_eq!(signet(demo, &["mesh", "top", "--once", "--cluster", "north"])?.code, 2);
    Ok(())
}

/// Runs `signet mesh tap` with these arguments.
fn start(demo: &Demo, arguments: &[&str]) -> anyhow::Result<Child> {
    let mut command = Command::new(program("signet")?);
    command.args(["mesh", "tap", "-o", "jsonl"]).args(arguments).env("SIGNET_CONTEXT", demo.context_file());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot run `signet mesh tap`")
}

/// Calls until `child` ended, and gives the decisions that the calls named.
async fn call_until_ended(demo: &Demo, child: &mut Child, path: &str) -> anyhow::Result<Vec<String>> {
    let outbound = demo.workload("east/bank/web")?.outbound.clone();
    let decisions = RefCell::new(Vec::new());
    let ended = until("the end of `signet mesh tap`", Duration::from_secs(30), || {
        let ended = child.try_wait();
        let (outbound, uri) = (&outbound, format!("{LEDGER}{path}"));
        let decisions = &decisions;
        async move {
            let ended = ended?;
            let json = [("content-type", "application/json"), ("authorization", "Bearer hidden-token")];
            let answer = calls::through(outbound, Method::POST, &uri, &json, r#"{"amount": 987654}"#).await?;
            decisions.borrow_mut().push(answer.decision()?.to_string());
            Ok(ended)
        }
    })
    .await?;
    assert!(ended.success(), "{ended}");
    Ok(decisions.into_inner())
}

async fn tap(demo: &Demo) -> anyhow::Result<()> {
    let filter = ["--source", "east/bank/web", "--destination", "east/bank/ledger", "--decision", "deny"];
    let path = "/accounts/4242/entries";
    let mut child =
        start(demo, &[&filter[..], &["--path", "/accounts/4242", "--max", "3", "--cluster", "east"]].concat())?;
    let decisions = call_until_ended(demo, &mut child, &format!("{path}?secret=hidden-value")).await?;
    let output = child.wait_with_output()?;
    let (shown, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    for hidden in ["hidden-value", "hidden-token", "987654"] {
        assert!(!shown.contains(hidden) && !said.contains(hidden), "{shown}{said}");
    }
    let calls: Vec<Value> = shown.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(calls.len(), 3, "{shown}");
    for call in &calls {
        assert_eq!((&call["path"], &call["status"]), (&Value::from(path), &Value::from(403)), "{call}");
        assert_eq!((&call["decision"], &call["action"]), (&Value::from("deny"), &Value::from("http:POST")));
        assert_eq!(call["proxy"], "spiffe://east.bank.example/ns/bank/proxy/ledger");
        assert!(decisions.iter().any(|id| call["decision_id"] == id.as_str()), "{call} is one of {decisions:?}");
    }
    recorded(demo).await
}

/// Who watched, what, and how much of it was seen, is in the log.
async fn recorded(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let events = until("the records of the tap", Duration::from_secs(10), || async {
        let events: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT source_spiffe_id, reason, detail FROM signet.entries WHERE action = 'mesh:tap' ORDER BY leaf_index",
        )
        .fetch_all(&pool)
        .await?;
        Ok((events.len() >= 2).then_some(events))
    })
    .await?;
    assert_eq!(events.iter().map(|(_, reason, _)| reason.as_str()).collect::<Vec<_>>(), ["began", "ended"]);
    assert!(events.iter().all(|(who, ..)| who == "spiffe://east.bank.example/signet/operator"), "{events:?}");
    let began: Value = serde_json::from_str(&events[0].2)?;
    assert_eq!(began["filter"]["destination"], "east.bank.example/bank/ledger");
    let ended: Value = serde_json::from_str(&events[1].2)?;
    assert!(ended["shown"].as_u64() >= Some(3), "{ended}");
    Ok(())
}

fn diagnostics(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let directory = tempfile::tempdir()?;
        let out = directory.path().join("diagnostics");
        let path = out.to_str().context("a path in UTF-8")?;
        let output = signet(demo, &["diagnostics", "--out", path, "-o", "json"])?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let summary: Value = serde_json::from_str(&output.stdout)?;
        for item in summary["items"].as_array().unwrap() {
            assert_eq!(item["ok"], true, "{item}");
        }
        let endpoints = demo.endpoints();
        for name in ["east/control", "west/gateway", "east/bank/ledger"] {
            let metrics = std::fs::read_to_string(out.join(name).join("metrics.txt"))?;
            assert!(metrics.ends_with("# EOF\n"), "{name}: {metrics}");
            let _: Value = serde_json::from_str(&std::fs::read_to_string(out.join(name).join("config.json"))?)?;
        }
        let key = std::fs::read_to_string(&endpoints.policy_signing_key)?;
        let key = key.lines().nth(2).context("the second line of the key")?;
        let mut directories = vec![out.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path)?;
                for secret in [endpoints.dashboard_token.as_str(), key, "PRIVATE KEY"] {
                    assert!(!text.contains(secret), "{} holds a secret", path.display());
                }
            }
        }
        let again = signet(demo, &["diagnostics", "--out", path])?;
        assert_eq!(again.code, 1, "what is there is not written over");
        Ok(())
    })
}

async fn drops(demo: &Demo) -> anyhow::Result<()> {
    let filter = ["--source", "east/bank/web", "--destination", "east/bank/ledger", "--path", "/accounts/4243"];
    let mut child = start(demo, &[&filter[..], &["--rate", "1", "--seconds", "3", "--cluster", "east"]].concat())?;
    let decisions = call_until_ended(demo, &mut child, "/accounts/4243/entries").await?;
    let output = child.wait_with_output()?;
    let shown = String::from_utf8(output.stdout)?.lines().count();
    let said = String::from_utf8(output.stderr)?;
    assert!(decisions.len() > 10, "calls go on while the tap drops: {}", decisions.len());
    assert!((1..=4).contains(&shown) && said.contains("were not shown"), "{shown} shown; {said}");
    assert!(said.lines().last().is_some_and(|last| last.ends_with("not shown.")), "{said}");
    Ok(())
}
