//! What flows count, how many there are at most, and what `/metrics` shows of them.
#![allow(clippy::unwrap_used, reason = "tests")]

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;

const WEB: &str = "spiffe://east.bank.example/ns/bank/sa/web";
const LEDGER: &str = "east.bank.example/bank/ledger";

fn key<'k>(source: &'k str, route: &'k str) -> FlowKey<'k> {
    FlowKey { direction: Direction::Inbound, source, destination: LEDGER, route }
}

fn shown(flows: &Arc<Flows>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(flows)));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn a_flow_is_looked_up_by_all_parts_of_its_key() {
    let flows = Flows::default();
    let flow = flows.get(key(WEB, "GET /accounts/{id}"));
    assert!(Arc::ptr_eq(&flow, &flows.get(key(WEB, "GET /accounts/{id}"))));
    let others = [
        key(WEB, ""),
        key("", "GET /accounts/{id}"),
        FlowKey { destination: "east.bank.example/bank/payments", ..flow.key() },
        FlowKey { direction: Direction::Outbound, ..flow.key() },
    ];
    for other in others {
        assert!(!Arc::ptr_eq(&flow, &flows.get(other)), "{other:?}");
    }
    assert_eq!(flows.len(), 5);
    assert_eq!(flows.get(key("", "")).key().source, "unauthenticated");
    assert!(Arc::ptr_eq(&flows.get(key("", "")), &flows.get(key("", ""))), "found again by the key that was asked for");
}

#[test]
fn flows_beyond_the_limit_are_counted_together_and_the_lookups_too() {
    let flows = Arc::new(Flows::with_limit(3));
    for n in 0..10 {
        let source = format!("spiffe://east.bank.example/ns/bank/sa/w{n}");
        flows.get(key(&source, "")).answered(Decided::Allow, 200, Duration::from_micros(30));
    }
    flows.get(FlowKey { direction: Direction::Forward, ..key(WEB, "") }).connected(Decided::Deny);
    assert_eq!(flows.len(), 3);
    assert_eq!(flows.overflowed.get(), 8);
    let text = shown(&flows);
    let other = r#"source="other",source_cluster="",destination="other",destination_cluster="",route="other""#;
    for line in [
        format!(r#"signet_flow_requests_total{{direction="inbound",{other},decision="allow",code="2xx"}} 7"#),
        format!(r#"signet_flow_connections_total{{direction="forward",{other},decision="deny"}} 1"#),
        "signet_flow_overflow_total 8".to_owned(),
        "signet_flows 3".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "`{line}` in\n{text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("signet_flow_requests_total{")).count(), 4);
}

#[test]
fn numbers_are_exact() {
    let flows = Arc::new(Flows::default());
    let flow = flows.get(key(WEB, "GET /accounts/{id}"));
    for (decided, status, us) in [
        (Decided::Allow, 200, 25),
        (Decided::Allow, 204, 26),
        (Decided::Allow, 503, 2_000),
        (Decided::Deny, 403, 60),
        (Decided::Allow, 200, 11_000_000),
    ] {
        flow.answered(decided, status, Duration::from_micros(us));
    }
    flow.moved(100, 2_000);
    flow.sent(1);
    let counts = flow.counts();
    assert_eq!(counts.requests(), 5);
    assert_eq!(counts.answered, [[0, 3, 0, 0, 1], [0, 0, 0, 1, 0], [0; 5]]);
    assert_eq!(counts.failed, 1);
    assert_eq!(counts.duration_us, 11_002_111);
    let text = shown(&flows);
    let labels = format!(
        r#"direction="inbound",source="{WEB}",source_cluster="east.bank.example",destination="{LEDGER}",destination_cluster="east.bank.example",route="GET /accounts/{{id}}""#
    );
    for line in [
        format!(r#"signet_flow_requests_total{{{labels},decision="allow",code="2xx"}} 3"#),
        format!(r#"signet_flow_requests_total{{{labels},decision="allow",code="5xx"}} 1"#),
        format!(r#"signet_flow_requests_total{{{labels},decision="deny",code="4xx"}} 1"#),
        format!(r#"signet_flow_request_seconds_bucket{{le="0.000025",{labels}}} 1"#),
        format!(r#"signet_flow_request_seconds_bucket{{le="0.0001",{labels}}} 3"#),
        format!(r#"signet_flow_request_seconds_bucket{{le="10.0",{labels}}} 4"#),
        format!(r#"signet_flow_request_seconds_bucket{{le="+Inf",{labels}}} 5"#),
        format!("signet_flow_request_seconds_count{{{labels}}} 5"),
        format!("signet_flow_request_seconds_sum{{{labels}}} 11.002111"),
        format!("signet_flow_failures_total{{{labels}}} 1"),
        format!("signet_flow_received_bytes_total{{{labels}}} 100"),
        format!("signet_flow_sent_bytes_total{{{labels}}} 2001"),
    ] {
        assert!(text.lines().any(|l| l == line), "`{line}` in\n{text}");
    }
}

#[test]
fn nothing_is_lost_between_threads() {
    let flows = Arc::new(Flows::with_limit(8));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..1_000 {
                    let route = format!("GET /{}", n % 16);
                    flows.get(key(WEB, &route)).answered(Decided::Allow, 200, Duration::ZERO);
                }
            });
        }
    });
    assert_eq!(flows.len(), 8);
    let sum: u64 = flows.all().iter().map(|flow| flow.counts().requests()).sum();
    assert_eq!(sum, 4_000);
}
