//! The command line's conventions (DESIGN, section 9), and each command on the running mesh.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::Value;
use signet_tests::cli::{self, signet};
use signet_tests::demo::{Demo, program};
use signet_tests::wait::until;
use signet_tests::{calls, records};

use crate::policy_changes::{git, until_head_is_enforced};
use crate::{Running, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("check_passes_on_a_healthy_mesh", check),
    ("can_exits_0_for_what_is_allowed_and_3_for_what_is_not", can),
    ("why_explains_an_allow_a_deny_and_a_default_deny", |demo| Box::pin(why(demo))),
    ("identities_services_and_links_are_listed", lists),
    ("the_context_may_stand_before_or_after_the_command", context_position),
    ("errors_say_what_where_and_the_next_step_with_the_right_exit_code", errors),
    ("policy_check_works_on_a_directory_without_a_mesh", policy_check),
    ("policy_status_names_the_commit_that_each_proxy_enforces", policy_status),
    ("audit_query_filters_and_pages", audit_query),
    ("audit_status_fails_on_a_failing_part_and_on_nothing_else", audit_status),
    ("an_altered_invite_is_refused_and_the_links_stay", invites),
    ("an_unlinked_cluster_is_called_no_more_until_it_is_linked_again", unlink),
];

fn check(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let output = signet(demo, &["check"])?;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let json: Value = serde_json::from_str(&signet(demo, &["check", "-o", "json"])?.stdout)?;
        assert_eq!(json["ok"], true);
        Ok(())
    })
}

fn can(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let table: &[(&[&str], i32)] = &[
            (&["can", "east/bank/web", "http:GET", "east/bank/ledger"], 0),
            (
                &[
                    "can",
                    "spiffe://east.bank.example/ns/bank/sa/web",
                    "http:GET",
                    "east.bank.example/bank/ledger",
                    "--path",
                    "/accounts/1",
                ],
                0,
            ),
            (&["can", "east/bank/web", "http:POST", "east/bank/ledger"], 3),
            (&["can", "east/bank/payments", "http:POST", "east/bank/ledger"], 0),
            (&["can", "east/bank/web", "grpc:call", "east/bank/payments", "--path", "bank.v1.Payments/Pay"], 0),
            (&["can", "east/bank/web", "grpc:call", "east/bank/payments", "--path", "bank.v1.Payments/Refund"], 3),
            (&["can", "east/bank/ledger", "tcp:connect", "east/bank/ledger-db"], 0),
            (&["can", "east/bank/web", "tcp:connect", "east/bank/ledger-db"], 3),
            (&["can", "west/bank/reporting", "http:GET", "east/bank/ledger"], 0),
            (&["can", "nobody", "http:GET", "east/bank/ledger"], 2),
        ];
        for (arguments, code) in table {
            let output = signet(demo, arguments)?;
            assert_eq!(output.code, *code, "{arguments:?}: {}{}", output.stdout, output.stderr);
        }
        Ok(())
    })
}

async fn why(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let ledger = "http://ledger.bank.svc.cluster.local";
    let json = [("content-type", "application/json")];
    let denied = calls::through(
        &demo.workload("east/bank/web")?.outbound,
        Method::POST,
        &format!("{ledger}/accounts/1/entries"),
        &json,
        r#"{"amount": 1}"#,
    )
    .await?
    .decision()?;
    let row = records::of_decision(&pool, denied).await?;
    let output = signet(demo, &["why", &denied.to_string()])?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    for word in ["DENY", &row.policy_commit, "spiffe://east.bank.example/ns/bank/sa/web", "the same"] {
        assert!(output.stdout.contains(word), "`{word}` in: {}", output.stdout);
    }

    let allowed: uuid::Uuid = sqlx::query_scalar(
        "SELECT decision_id FROM decisions WHERE decision = 'allow' AND action = 'http:GET' ORDER BY time DESC LIMIT 1",
    )
    .fetch_one(&pool)
    .await?;
    let row = records::of_decision(&pool, allowed).await?;
    let output = signet(demo, &["why", &allowed.to_string()])?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains(&row.policy_ids[0]) && output.stdout.contains(".cedar:"), "{}", output.stdout);

    // No policy speaks of ledger calling payments.
    let default: uuid::Uuid = sqlx::query_scalar(
        "SELECT decision_id FROM decisions WHERE decision = 'deny' AND action = 'grpc:call' \
         AND source_spiffe_id = 'spiffe://east.bank.example/ns/bank/sa/ledger' ORDER BY time DESC LIMIT 1",
    )
    .fetch_one(&pool)
    .await?;
    assert!(records::of_decision(&pool, default).await?.policy_ids.is_empty());
    let output = signet(demo, &["why", &default.to_string(), "-o", "json"])?;
    let json: Value = serde_json::from_str(&output.stdout)?;
    let nearest = &json["nearest"][0];
    assert!(nearest["policy"]["id"].is_string() && nearest["failed"][0]["text"].is_string(), "{}", output.stdout);

    // Each failed clause with what the request had instead, in the text as well, and as `can` says it.
    let clause = &nearest["failed"][0];
    let had = clause["actual"].as_str().filter(|actual| !actual.is_empty()).context("a value")?;
    let text = signet(demo, &["why", &default.to_string()])?.stdout;
    assert!(text.contains(clause["text"].as_str().context("a text")?) && text.contains(had), "{text}");
    let can = ["can", "east/bank/ledger", "bank.v1.Payments/Pay", "east/bank/payments", "-o", "json"];
    let asked: Value = serde_json::from_str(&signet(demo, &can)?.stdout)?;
    let would = &asked["answers"][0]["nearest"][0];
    assert_eq!(would["policy"]["id"], nearest["policy"]["id"], "{asked}");
    assert_eq!((&would["failed"][0]["text"], &would["failed"][0]["actual"]), (&clause["text"], &clause["actual"]));

    let nothing = signet(demo, &["why", "00000000-0000-7000-8000-000000000000"])?;
    assert_eq!(nothing.code, 1);
    assert!(nothing.stderr.contains("next:"), "{}", nothing.stderr);
    Ok(())
}

fn lists(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let identities: Value = serde_json::from_str(&signet(demo, &["identity", "list", "-o", "json"])?.stdout)?;
        let identities = identities.to_string();
        for workload in demo.endpoints().workloads.values() {
            assert!(identities.contains(&workload.spiffe_id), "{} in {identities}", workload.spiffe_id);
        }
        let web = demo.workload("east/bank/web")?.spiffe_id.clone();
        let shown: Value = serde_json::from_str(&signet(demo, &["identity", "show", &web, "-o", "json"])?.stdout)?;
        assert_eq!((&shown["spiffe_id"], &shown["cluster"]), (&Value::from(web), &Value::from("east")));
        let kinds: Vec<_> = shown["authorities"].as_array().unwrap().iter().map(|signer| &signer["kind"]).collect();
        assert!(kinds.contains(&&Value::from("root")) && kinds.contains(&&Value::from("intermediate")), "{shown}");
        for (nobody, code) in
            [("spiffe://east.bank.example/ns/bank/sa/nobody", 1), ("spiffe://north.example/x", 1), ("web", 2)]
        {
            let output = signet(demo, &["identity", "show", nobody])?;
            assert_eq!(output.code, code, "{nobody}: {}", output.stderr);
        }
        let services: Value = serde_json::from_str(&signet(demo, &["mesh", "services", "-o", "json"])?.stdout)?;
        let services = services.as_array().expect("a list");
        let fraud =
            |service: &&Value| service["cluster"] == "east" && service["service"] == "west.bank.example/bank/fraud";
        assert_eq!(services.iter().find(fraud).expect("east knows fraud")["via"], "west.bank.example");
        assert!(!services.iter().any(|service| service["cluster"] == "east" && service["service"] == "west.bank.example/bank/reporting"));
        let links = signet(demo, &["federation", "status", "-o", "json"])?;
        assert_eq!(links.code, 0, "{}{}", links.stdout, links.stderr);
        let links: Value = serde_json::from_str(&links.stdout)?;
        assert_eq!(links.as_array().map(Vec::len), Some(2));
        assert_eq!(signet(demo, &["completion", "bash"])?.code, 0);
        Ok(())
    })
}

fn context_position(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let file = demo.context_file().display().to_string();
        for arguments in [["--context", &file, "federation", "list"], ["federation", "list", "--context", &file]] {
            let mut command = Command::new(program("signet")?);
            command.args(arguments).env_remove("SIGNET_CONTEXT");
            let output = cli::run(command)?;
            assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
            assert!(output.stdout.contains("west.bank.example"));
        }
        Ok(())
    })
}

fn errors(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let dir = tempfile::tempdir()?;
        let broken = dir.path().join("broken.json");
        std::fs::write(&broken, "{ \"dashboard\": 1 }")?;
        let away = dir.path().join("away.json");
        let text = std::fs::read_to_string(demo.context_file())?;
        std::fs::write(&away, text.replace(&demo.endpoints().postgres, "postgres://nobody@127.0.0.1:1/none"))?;
        let table: &[(&[&str], i32)] = &[
            (&["nonsense"], 2),
            (&["why", "not-a-uuid"], 2),
            (&["--context", broken.to_str().unwrap(), "federation", "list"], 1),
            (&["--context", "/nowhere.json", "federation", "list"], 1),
            (&["--context", away.to_str().unwrap(), "audit", "query"], 4),
            (&["federation", "invite", "--cluster", "north"], 2),
        ];
        for (arguments, code) in table {
            let output = signet(demo, arguments)?;
            assert_eq!(output.code, *code, "{arguments:?}: {}{}", output.stdout, output.stderr);
            assert!(output.stdout.is_empty(), "errors go to standard error: {}", output.stdout);
            assert!(*code == 2 || output.stderr.contains("next:"), "{arguments:?}: {}", output.stderr);
        }
        Ok(())
    })
}

fn policy_check(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let check = |dir: &std::path::Path| -> anyhow::Result<cli::Output> {
            let mut command = Command::new(program("signet")?);
            command.args(["policy", "check"]).current_dir(dir).env_remove("SIGNET_CONTEXT");
            cli::run(command)
        };
        let good = check(&demo.endpoints().policy_repo)?;
        assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("policies"))?;
        std::fs::write(dir.path().join("signet.yaml"), "version: 1\n")?;
        std::fs::write(
            dir.path().join("policies/a.cedar"),
            "permit (principal, action, resource);\n\npermit (principal",
        )?;
        let bad = check(dir.path())?;
        assert_eq!(bad.code, 1, "{}{}", bad.stdout, bad.stderr);
        assert!(bad.stdout.contains("policies/a.cedar:3:"), "{}", bad.stdout);
        Ok(())
    })
}

fn policy_status(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let clusters = until_head_is_enforced(demo).await?;
        assert_eq!(clusters.as_array().map(Vec::len), Some(2), "{clusters}");
        for cluster in clusters.as_array().into_iter().flatten() {
            let proxies = cluster["proxies"].as_array().cloned().unwrap_or_default();
            let kinds = |kind: &str| proxies.iter().filter(|proxy| proxy["kind"] == kind).count();
            assert!(kinds("sidecar") >= 2 && kinds("gateway") == 1, "{cluster}");
        }
        let table = signet(demo, &["policy", "status", "--cluster", "east"])?;
        let head = git(demo, &["rev-parse", "HEAD"])?;
        assert!(table.stdout.contains(&format!("east: {head}, signed by ")), "{}", table.stdout);
        assert!(!table.stdout.contains("west:"), "{}", table.stdout);
        Ok(())
    })
}

fn audit_query(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let output = signet(
            demo,
            &["audit", "query", "--decision", "deny", "--source", "east/bank/web", "--limit", "3", "-o", "json"],
        )?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let rows: Value = serde_json::from_str(&output.stdout)?;
        let rows = rows.as_array().expect("a list");
        assert_eq!(rows.len(), 3);
        assert!(
            rows.iter().all(|row| row["decision"] == "deny"
                && row["source_spiffe_id"] == "spiffe://east.bank.example/ns/bank/sa/web")
        );
        let next = output.stderr.split("--after ").nth(1).expect("there are more").trim();
        let more = signet(
            demo,
            &[
                "audit",
                "query",
                "--decision",
                "deny",
                "--source",
                "east/bank/web",
                "--limit",
                "3",
                "-o",
                "json",
                "--after",
                next,
            ],
        )?;
        let more: Value = serde_json::from_str(&more.stdout)?;
        assert!(more.as_array().expect("a list").iter().all(|row| !rows.contains(row)));
        Ok(())
    })
}

fn audit_status(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let output = signet(demo, &["audit", "status", "-o", "json"])?;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let report: Value = serde_json::from_str(&output.stdout)?;
        assert_eq!((&report["ok"], report["logs"].as_array().map(Vec::len)), (&Value::Bool(true), Some(2)));
        for part in ["service", "checkpoint", "complete"] {
            let of_both = report["findings"].as_array().expect("a list").iter();
            assert_eq!(
                of_both.filter(|finding| finding["part"] == part && finding["state"] == "ok").count(),
                2,
                "{part}"
            );
        }

        // A mesh that is not what its context says.
        let dir = tempfile::tempdir()?;
        let status = |change: fn(&mut Value)| -> anyhow::Result<cli::Output> {
            let mut context: Value = serde_json::from_str(&std::fs::read_to_string(demo.context_file())?)?;
            change(&mut context);
            let file = dir.path().join("context.json");
            std::fs::write(&file, context.to_string())?;
            let mut command = Command::new(program("signet")?);
            command.args(["audit", "status", "--context"]).arg(file);
            cli::run(command)
        };
        let forged = status(|context| {
            let other = context["clusters"]["west"]["log_key"].clone();
            context["clusters"]["east"]["log_key"] = other;
        })?;
        assert_eq!(forged.code, 1, "{}", forged.stdout);
        assert!(
            forged.stdout.contains("FAILED") && forged.stderr.contains("next: east.bank.example"),
            "{}",
            forged.stderr
        );
        let absent = status(|context| context["clusters"]["east"]["log_origin"] = "no.such/log".into())?;
        assert!(absent.code == 1 && absent.stdout.contains("does not have this log"), "{}", absent.stdout);
        let down = status(|context| context["clusters"]["east"]["admin"]["audit"] = "127.0.0.1:1".into())?;
        assert!(down.code == 1 && down.stdout.contains("FAILED"), "{}", down.stdout);
        let unreachable = status(|context| context["postgres"] = "postgres://nobody@127.0.0.1:1/signet".into())?;
        assert_eq!(unreachable.code, 4, "{}", unreachable.stderr);
        Ok(())
    })
}

fn invites(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let dir = tempfile::tempdir()?;
        let invite = signet(demo, &["federation", "invite", "--cluster", "east"])?;
        assert_eq!(invite.code, 0, "{}", invite.stderr);
        assert!(invite.stderr.contains("Fingerprint"));
        let middle = invite.stdout.len() / 2;
        let mut altered = invite.stdout.clone().into_bytes();
        altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
        for (name, text) in [("altered", altered), ("empty", Vec::new()), ("noise", vec![0xff; 4096])] {
            let path = dir.path().join(name);
            std::fs::write(&path, text)?;
            let output = signet(demo, &["federation", "accept", path.to_str().unwrap()])?;
            assert_eq!(output.code, 1, "{name}: {}{}", output.stdout, output.stderr);
            assert!(output.stderr.contains("next:"), "{name}: {}", output.stderr);
        }
        let path = dir.path().join("good");
        std::fs::write(&path, &invite.stdout)?;
        let wrong = signet(demo, &["federation", "accept", path.to_str().unwrap(), "--fingerprint", "00 11"])?;
        assert_eq!(wrong.code, 1);
        let again = signet(demo, &["federation", "accept", path.to_str().unwrap()])?;
        assert_eq!(again.code, 0, "{}", again.stderr);
        assert_eq!(signet(demo, &["federation", "status"])?.code, 0);
        Ok(())
    })
}

/// What web gets of fraud, in the other cluster; `None` while there is no whole answer.
async fn call_across(demo: &Demo) -> Option<u16> {
    let uri = "http://fraud.bank.svc.clusterset.local/score?account=1";
    let web = &demo.workload("east/bank/web").ok()?.outbound;
    calls::through(web, Method::GET, uri, &[], "").await.ok().map(|answer| answer.status.as_u16())
}

fn unlink(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let reached = |wanted: bool, what: &'static str| {
            until(what, Duration::from_secs(20), move || async move {
                Ok(((call_across(demo).await == Some(200)) == wanted).then_some(()))
            })
        };
        reached(true, "a call across before").await?;
        let absent = signet(demo, &["federation", "remove", "north.bank.example", "--cluster", "east"])?;
        assert_eq!(absent.code, 1, "{}", absent.stderr);
        assert!(absent.stderr.contains("north.bank.example") && absent.stderr.contains("next:"), "{}", absent.stderr);

        let removed = signet(demo, &["federation", "remove", "west.bank.example"])?;
        assert_eq!(removed.code, 0, "{}", removed.stderr);
        reached(false, "east to call west no more").await?;
        let links: Value = serde_json::from_str(&signet(demo, &["federation", "list", "-o", "json"])?.stdout)?;
        assert_eq!(links.as_array().map(Vec::len), Some(1), "west still trusts east: {links}");

        let invite = signet(demo, &["federation", "invite", "--cluster", "west"])?;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("west.invite");
        std::fs::write(&path, &invite.stdout)?;
        let accepted = signet(demo, &["federation", "accept", path.to_str().unwrap()])?;
        assert_eq!(accepted.code, 0, "{}", accepted.stderr);
        reached(true, "a call across after linking again").await
    })
}
