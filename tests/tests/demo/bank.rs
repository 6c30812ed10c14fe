//! The demo's table (DESIGN, section 8): what each call comes to, and what is recorded of it.

use http::Method;
use signet_tests::demo::Demo;
use signet_tests::{calls, records};

use crate::{Running, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("http_calls_come_out_as_the_table_says_and_are_recorded", |demo| Box::pin(http_calls(demo))),
    ("a_denied_tcp_call_delivers_no_byte_of_the_server", tcp_calls),
    ("a_cross_cluster_call_is_recorded_by_gateway_and_sidecar_in_one_trace", |demo| Box::pin(cross_cluster(demo))),
    ("an_answer_names_the_decision_and_nothing_of_the_policy", |demo| Box::pin(answers_name_no_policy(demo))),
    ("a_host_header_names_the_service_as_well_as_an_absolute_uri", |demo| Box::pin(host_form(demo))),
    ("the_app_sees_the_path_that_was_decided", |demo| Box::pin(paths(demo))),
    ("a_sidecar_shows_who_has_connections_open_to_its_workload", |demo| Box::pin(connections(demo))),
    ("a_host_outside_of_the_mesh_cannot_be_reached", |demo| Box::pin(outside(demo))),
];

struct Call {
    source: &'static str,
    method: Method,
    uri: &'static str,
    body: &'static str,
    status: u16,
    service: &'static str,
    action: &'static str,
}

const LEDGER: &str = "east.bank.example/bank/ledger";

fn table() -> Vec<Call> {
    let call = |source, method, uri, body, status, service, action| Call {
        source,
        method,
        uri,
        body,
        status,
        service,
        action,
    };
    let (get, post) = (Method::GET, Method::POST);
    let entry = r#"{"amount": 1}"#;
    let (own, other) = ("http://ledger.bank.svc.cluster.local", "http://ledger.bank.svc.clusterset.local");
    let uri = |host: &str, path: &str| -> &'static str { Box::leak(format!("{host}{path}").into_boxed_str()) };
    vec![
        call("east/bank/web", get.clone(), uri(own, "/accounts/1"), "", 200, LEDGER, "http:GET"),
        call("east/bank/payments", post.clone(), uri(own, "/accounts/1/entries"), entry, 201, LEDGER, "http:POST"),
        call("east/bank/web", post.clone(), uri(own, "/accounts/1/entries"), entry, 403, LEDGER, "http:POST"),
        call("west/bank/reporting", get.clone(), uri(other, "/accounts/1"), "", 200, LEDGER, "http:GET"),
        call("west/bank/reporting", post, uri(other, "/accounts/1/entries"), entry, 403, LEDGER, "http:POST"),
        call(
            "east/bank/web",
            get.clone(),
            "http://fraud.bank.svc.clusterset.local/score?account=1",
            "",
            200,
            "west.bank.example/bank/fraud",
            "http:GET",
        ),
        call(
            "east/bank/web",
            get,
            "http://reporting.bank.svc.clusterset.local/daily",
            "",
            403,
            "reporting.bank.svc.clusterset.local",
            "http:GET",
        ),
    ]
}

/// A trace id that no other test uses.
fn trace_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn traceparent(trace_id: &str) -> String {
    format!("00-{trace_id}-00f067aa0ba902b7-01")
}

async fn http_calls(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    for call in table() {
        let workload = demo.workload(call.source)?;
        let trace = trace_id();
        let headers = [("traceparent", traceparent(&trace)), ("content-type", "application/json".to_owned())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = calls::through(&workload.outbound, call.method.clone(), call.uri, &headers, call.body).await?;
        let name = format!("{} {} {}", call.source, call.method, call.uri);
        assert_eq!(answer.status.as_u16(), call.status, "{name}: {}", answer.text());

        let rows = records::of_trace(&pool, &trace, 1).await?;
        let row = rows.iter().find(|row| row.action == call.action).unwrap_or_else(|| panic!("{name}: {rows:?}"));
        assert_eq!(row.decision, if call.status == 403 { "deny" } else { "allow" }, "{name}");
        assert_eq!(row.source_spiffe_id.as_deref(), Some(workload.spiffe_id.as_str()), "{name}");
        assert!(row.destination_service.ends_with(call.service), "{name}: {}", row.destination_service);
        assert_eq!(row.policy_commit.len(), 40, "{name}: {}", row.policy_commit);
        let path = call.uri.splitn(4, '/').nth(3).map(|path| format!("/{}", path.split('?').next().unwrap()));
        assert_eq!(row.path, path, "{name}");
        if call.status == 403 {
            assert_eq!(row.decision_id, answer.decision()?, "{name}");
        } else {
            assert!(!row.policy_ids.is_empty(), "{name}: an allow names its policy");
            assert!(row.destination_spiffe_id.is_some(), "{name}");
            assert!(row.tls.contains("TLSv1.3") && row.tls.contains("X25519MLKEM768"), "{name}: {}", row.tls);
        }
    }
    Ok(())
}

/// PostgreSQL's SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

fn tcp_calls(demo: &Demo) -> Running<'_> {
    Box::pin(async move {
        let database = "ledger-db.bank.svc.cluster.local:5432";
        let ledger = calls::tcp(&demo.workload("east/bank/ledger")?.outbound, database, &SSL_REQUEST).await?;
        assert_eq!(ledger, b"N", "the ledger reaches its database");
        let web = calls::tcp(&demo.workload("east/bank/web")?.outbound, database, &SSL_REQUEST).await?;
        assert!(web.is_empty(), "web got {web:?}");
        Ok(())
    })
}

async fn cross_cluster(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let web = demo.workload("east/bank/web")?;
    let trace = trace_id();
    let header = traceparent(&trace);
    // A new connection to the gateway is opened with the first call that needs it; later ones share it.
    for _ in 0..2 {
        let uri = "http://fraud.bank.svc.clusterset.local/score?account=1";
        let answer = calls::through(&web.outbound, Method::GET, uri, &[("traceparent", &header)], "").await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let rows = records::of_trace(&pool, &trace, 2).await?;
    assert!(rows.iter().all(|row| row.decision == "allow" && row.source_spiffe_id.as_deref() == Some(&web.spiffe_id)));
    let forwarded: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM decisions WHERE action = 'gateway:forward' AND decision = 'allow' AND source_spiffe_id = $1 \
         AND destination_service = 'west.bank.example/bank/fraud' AND proxy = 'spiffe://west.bank.example/signet/gateway'",
    )
    .bind(&web.spiffe_id)
    .fetch_one(&pool)
    .await?;
    assert!(forwarded > 0, "the gateway records what it forwards");
    Ok(())
}

async fn answers_name_no_policy(demo: &Demo) -> anyhow::Result<()> {
    let web = demo.workload("east/bank/web")?;
    let uri = "http://ledger.bank.svc.cluster.local/accounts/1/entries";
    let headers = [("content-type", "application/json")];
    let answer = calls::through(&web.outbound, Method::POST, uri, &headers, r#"{"amount": 1}"#).await?;
    assert_eq!(answer.status, 403);
    answer.decision()?;
    let text = format!("{:?} {}", answer.headers, answer.text());
    for word in ["permit", "forbid", "cedar", "policies/"] {
        assert!(!text.contains(word), "the answer speaks of policy: {text}");
    }
    Ok(())
}

async fn host_form(demo: &Demo) -> anyhow::Result<()> {
    let web = demo.workload("east/bank/web")?;
    let host = [("host", "ledger.bank.svc.cluster.local")];
    let answer = calls::get(&web.outbound, "/accounts/1", &host).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(())
}

async fn paths(demo: &Demo) -> anyhow::Result<()> {
    let web = demo.workload("east/bank/web")?;
    for path in ["/accounts/2/../1", "/accounts/%2e%2e/accounts/1", "//accounts//1"] {
        let uri = format!("http://ledger.bank.svc.cluster.local{path}");
        let answer = calls::through(&web.outbound, Method::GET, &uri, &[], "").await?;
        // Either it is refused, or decided and passed on as the same normal path; never passed on as it came.
        let normal = answer.status == 200 && answer.text().contains("\"id\":1");
        assert!(normal || matches!(answer.status.as_u16(), 400 | 403), "{path}: {} {}", answer.status, answer.text());
    }
    Ok(())
}

async fn outside(demo: &Demo) -> anyhow::Result<()> {
    let web = demo.workload("east/bank/web")?;
    for uri in ["http://example.com/", "http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data/"] {
        let answer = calls::through(&web.outbound, Method::GET, uri, &[], "").await?;
        assert_eq!(answer.status, 403, "{uri}: {}", answer.text());
        answer.decision()?;
    }
    Ok(())
}

async fn connections(demo: &Demo) -> anyhow::Result<()> {
    let (web, ledger) = (demo.workload("east/bank/web")?, demo.workload("east/bank/ledger")?);
    let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
    assert_eq!(calls::through(&web.outbound, Method::GET, uri, &[], "").await?.status, 200);
    let page: serde_json::Value = serde_json::from_slice(&calls::get(&ledger.admin, "/connections", &[]).await?.body)?;
    let port = page["inbound"].as_array().into_iter().flatten().find(|port| port["services"][0] == LEDGER);
    let peers = port.and_then(|port| port["peers"].as_array()).cloned().unwrap_or_default();
    let of_web = peers.iter().find(|peer| peer["peer"] == web.spiffe_id.as_str() && peer["protocol"] == "signet/http1");
    assert!(of_web.is_some_and(|peer| peer["connections"].as_u64() >= Some(1)), "{page}");
    Ok(())
}
