//! Unmodified clients in workloads' namespaces: curl, a gRPC client, psql.

use anyhow::{Context as _, ensure};
use signet_tests::calls;
use signet_tests::demo::{Demo, program};
use signet_tests::records::{self, Row};
use signet_tests::wait;
use std::time::Duration;

use crate::space;
use crate::{Running, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("curl_gets_what_the_table_says_and_each_call_has_its_record", |demo| Box::pin(curl(demo))),
    ("a_grpc_client_and_the_rest_of_the_table_need_no_proxy_settings", |demo| Box::pin(table(demo))),
    ("psql_reaches_its_own_database_and_nobody_elses", psql),
    ("what_no_service_owns_is_denied_visibly_and_recorded", |demo| Box::pin(unowned(demo))),
    ("nobody_reaches_an_app_around_its_sidecar", |demo| Box::pin(around(demo))),
    ("explicit_listeners_and_admin_answer_from_the_host", |demo| Box::pin(host(demo))),
];

const WEB: &str = "east/bank/web";

/// Status, decision and body of one call by curl.
fn call(demo: &Demo, from: &str, arguments: &[&str]) -> anyhow::Result<(u16, Option<uuid::Uuid>, String)> {
    let output = space::of(demo, from, &[&["curl", "-sS", "-i", "-m", "10"], arguments].concat())?;
    let (head, body) = output.stdout.split_once("\r\n\r\n").with_context(|| format!("curl: {}", output.stderr))?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let decision =
        head.lines().find_map(|line| line.strip_prefix("x-signet-decision: ")).map(str::parse).transpose()?;
    Ok((status, decision, body.to_owned()))
}

async fn curl(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let traced = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
    let (status, _, body) = call(demo, WEB, &["-H", &traced, "http://ledger.bank.svc.cluster.local/accounts/1"])?;
    ensure!(status == 200 && body.contains("balance"), "{status} {body}");
    let row: &Row = &records::of_trace(&pool, &trace, 1).await?[0];
    ensure!(row.decision == "allow" && row.tls.contains("TLSv1.3"), "{row:?}");
    ensure!(row.source_spiffe_id.as_ref() == Some(&demo.workload(WEB)?.spiffe_id));
    ensure!(row.destination_service == "east.bank.example/bank/ledger");

    // By short name and by HTTP/2 with prior knowledge too: the address decides.
    for arguments in [&["http://ledger/accounts/2"][..], &["-H", "host: payments", "http://ledger.bank/accounts/2"]] {
        ensure!(call(demo, WEB, arguments)?.0 == 200, "{arguments:?}");
    }
    for (from, expected, arguments) in [
        (WEB, 403, &["-d", "{\"amount\": 5}", "http://ledger.bank.svc.cluster.local/accounts/1/entries"][..]),
        (WEB, 200, &["http://fraud.bank.svc.clusterset.local/score?account=1"]),
        (WEB, 403, &["http://reporting.bank.svc.clusterset.local/daily"]),
        ("west/bank/reporting", 200, &["http://ledger.bank.svc.clusterset.local/accounts/1"]),
        // Its own service, by name: a call like any other.
        (WEB, 403, &["http://web.bank.svc.cluster.local/"]),
    ] {
        let (status, decision, body) = call(demo, from, arguments)?;
        ensure!(status == expected, "{from} {arguments:?}: {status} {body}");
        if status == 403 {
            let row = records::of_decision(&pool, decision.context("no x-signet-decision")?).await?;
            ensure!(row.decision == "deny" && row.source_spiffe_id.as_ref() == Some(&demo.workload(from)?.spiffe_id));
        }
    }
    Ok(())
}

/// The bank's load generator is an ordinary gRPC, HTTP and TCP client there.
async fn table(demo: &Demo) -> anyhow::Result<()> {
    let bank = program("signet-bank")?;
    let bank = bank.to_string_lossy();
    for (from, calls, rows) in [
        (WEB, "14", &["web-payments-pay", "web-payments-refund", "web-ledger-db", "web-fraud-get"][..]),
        ("east/bank/ledger", "4", &["ledger-ledger-db", "ledger-payments-pay"]),
        ("east/bank/payments", "2", &["payments-ledger-post"]),
    ] {
        let stats = demo.dir().join(format!("{}.json", from.replace('/', "-")));
        let path = stats.to_string_lossy();
        // Standard input stays open until all calls are made: a pipe that this very process could write to.
        let script =
            "mkfifo \"$3.in\" && exec \"$0\" load --from \"$1\" --rate 40 --calls \"$2\" --stats \"$3\" 0<>\"$3.in\"";
        let output = space::of(demo, from, &["bash", "-c", script, &bank, from, calls, &path])?;
        ensure!(output.code == 0, "{}", output.stderr);
        let stats: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&stats)?)?;
        for row in rows {
            let count = &stats["rows"][row];
            ensure!(count["calls"] == 2 && count["as_expected"] == 2, "{row}: {count}");
        }
    }
    Ok(())
}

fn psql(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let ask = |from: &str| {
            let url = "postgres://ledger:not-the-password@ledger-db.bank.svc.cluster.local/ledger?connect_timeout=5";
            space::of(demo, from, &["psql", "-X", "-At", "-c", "SELECT 1", url])
        };
        // The database itself answers the ledger, if only to say that the password is wrong ..
        let ledger = ask("east/bank/ledger")?;
        ensure!(ledger.stderr.contains("password authentication failed"), "{}", ledger.stderr);
        // .. and web never hears from it.
        let web = ask(WEB)?;
        ensure!(web.code == 2 && web.stderr.contains("server closed the connection"), "{}", web.stderr);
        let pool = records::connect(&demo.endpoints().postgres).await?;
        wait::until("the record of web's attempt", Duration::from_secs(5), || async {
            Ok(sqlx::query_scalar::<_, String>(
                "SELECT reason FROM decisions WHERE action = 'tcp:connect' AND decision = 'deny' \
                 AND source_spiffe_id LIKE '%/sa/web' AND destination_service = 'east.bank.example/bank/ledger-db'",
            )
            .fetch_optional(&pool)
            .await?)
        })
        .await?;
        Ok(())
    })
}

async fn unowned(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let (status, decision, _) = call(demo, WEB, &["-H", "host: tracker.example", "http://192.0.2.77/pixel"])?;
    ensure!(status == 403);
    let row = records::of_decision(&pool, decision.context("no x-signet-decision")?).await?;
    ensure!(row.reason == "unknown_service" && row.destination_service == "tracker.example", "{row:?}");
    // TLS cannot be answered; it is reset, and the name that it asked for is recorded.
    let tls = ["curl", "-skS", "-m", "5", "--resolve", "exfil.example:443:192.0.2.78", "https://exfil.example/"];
    let tls = space::of(demo, WEB, &tls)?;
    ensure!(tls.code != 0 && tls.stderr.to_lowercase().contains("reset"), "{}", tls.stderr);
    // A client that waits for the server to speak learns it at once, too.
    let silent = ["bash", "-c", "exec 3<>/dev/tcp/192.0.2.79/25; timeout 5 cat <&3; echo ended $?"];
    let started = std::time::Instant::now();
    let silent = space::of(demo, WEB, &silent)?;
    ensure!(silent.stdout.contains("ended 1") && started.elapsed() < Duration::from_secs(3), "{}", silent.stdout);
    for (service, port) in [("exfil.example", 443), ("192.0.2.79", 25)] {
        let reason = wait::until(&format!("the record of {service}:{port}"), Duration::from_secs(5), || async {
            Ok(sqlx::query_scalar::<_, String>(
                "SELECT reason FROM decisions WHERE action = 'tcp:connect' AND destination_service = $1 AND decision = 'deny'",
            )
            .bind(service)
            .fetch_optional(&pool)
            .await?)
        })
        .await?;
        ensure!(reason == "unknown_service", "{reason}");
    }
    Ok(())
}

/// The host, the other namespace and the sidecar's own ports: none leads to the app without a decision.
async fn around(demo: &Demo) -> anyhow::Result<()> {
    let ledger = demo.workload("east/bank/ledger")?;
    let address = ledger.inbound.rsplit_once(':').context("no port")?.0.to_owned();
    let before = calls::metric(&ledger.admin, "signet_proxy_refusals_total", &[]).await?;
    for url in [
        format!("http://{}/accounts/1", ledger.inbound),
        format!("http://{address}:8080/accounts/1"),
        format!("http://{address}:15006/accounts/1"),
    ] {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "-m", "5", &url]);
        let output = signet_tests::cli::run(curl)?;
        ensure!(output.code != 0 && !output.stdout.contains("balance"), "{url}: {}", output.stdout);
    }
    let after = calls::metric(&ledger.admin, "signet_proxy_refusals_total", &[]).await?;
    ensure!(after >= before + 3.0, "refusals: {before}, then {after}");
    // By the workload's address instead of the service's it is the same call, and decided.
    let url = format!("http://{}/accounts/1/entries", ledger.inbound);
    let (status, decision, _) = call(demo, WEB, &["-d", "{\"amount\": 5}", &url])?;
    ensure!(status == 403 && decision.is_some(), "{status}");
    // The listeners that rules lead to are no proxies for who connects to them without a rule.
    for port in ["15001", "15006"] {
        let url = format!("http://127.0.0.1:{port}/accounts/1");
        let output = space::of(demo, "east/bank/ledger", &["curl", "-sS", "-m", "5", &url])?;
        ensure!(output.code != 0 && output.stdout.is_empty(), "{port}: {}", output.stdout);
    }
    Ok(())
}

async fn host(demo: &Demo) -> anyhow::Result<()> {
    let web = demo.workload(WEB)?;
    let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
    ensure!(calls::through(&web.outbound, http::Method::GET, uri, &[], "").await?.status == 200);
    ensure!(calls::get(&web.admin, "/readyz", &[]).await?.status == 200);
    ensure!(calls::get(&web.app, "/healthz", &[]).await?.status == 200);
    Ok(())
}
