//! Reports of flows. The stream itself is tested with a real control plane.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::flow::FlowKey;
use crate::metrics::Direction;

const LEDGER: &str = "east.bank.example/bank/ledger";

fn flow(flows: &Flows, source: &str) -> Arc<Flow> {
    flows.get(FlowKey { direction: Direction::Inbound, source, destination: LEDGER, route: "" })
}

#[test]
fn a_report_holds_what_changed_since_the_one_before() {
    let flows = Flows::default();
    let web = flow(&flows, "spiffe://east.bank.example/ns/bank/sa/web");
    web.answered(Decided::Allow, 200, Duration::from_micros(20));
    let start = Instant::now();
    let mut reports = Reports::wanted(None, 1_000, &flows, start).unwrap();
    let report = reports.next(&flows, start + Duration::from_secs(1));
    assert_eq!((report.window_us, report.flows.len(), report.bounds_us.len()), (1_000_000, 0, 17));

    web.answered(Decided::Allow, 503, Duration::from_micros(20));
    web.answered(Decided::Deny, 403, Duration::from_micros(30));
    web.moved(5, 7);
    flow(&flows, "").connected(Decided::Deny);
    let report = reports.next(&flows, start + Duration::from_millis(2_500));
    assert_eq!((report.window_us, report.flows.len()), (1_500_000, 2));
    let of = |source: &str| report.flows.iter().find(|flow| flow.source == source).unwrap();
    let changed = of("spiffe://east.bank.example/ns/bank/sa/web");
    assert_eq!((changed.requests, changed.denied, changed.failed), (2, 1, 1));
    assert_eq!(changed.durations.get(..3), Some([1, 1, 0].as_slice()));
    assert_eq!((changed.received_bytes, changed.sent_bytes), (5, 7));
    let changed = of("unauthenticated");
    assert_eq!((changed.requests, changed.connections, changed.connections_denied), (0, 1, 1));
    assert!(reports.next(&flows, start).flows.is_empty(), "each change is told once");
}

#[test]
fn reports_that_are_wanted_again_go_on_and_others_begin_anew() {
    let flows = Flows::default();
    let start = Instant::now();
    let later = start + Duration::from_millis(10);
    let first = Reports::wanted(None, 1_000, &flows, start);
    let same = Reports::wanted(first, 1_000, &flows, later).unwrap();
    assert_eq!(same.since, start);
    assert_eq!(Reports::wanted(Some(same), 2_000, &flows, later).unwrap().since, later);
    assert_eq!(Reports::wanted(None, 1, &flows, start).unwrap().every, SOONEST);
    assert!(Reports::wanted(None, 0, &flows, start).is_none());
}
