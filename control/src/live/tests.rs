//! What is wanted of proxies, what of theirs is believed, and how it is summed and handed on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use futures::StreamExt as _;
use prometheus_client::registry::Registry;
use signet_api::control::{FlowCounts, TapDrops, TapRequest, TopRequest};
use signet_mtls::SpiffeId;
use signet_spool::{Durability, OnFull, Spool, SpoolConfig};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::sum::Sum;
use super::*;
use crate::events::Events;
use crate::metrics::Metrics;

const WEB: &str = "spiffe://east.bank.example/ns/bank/sa/web";
const LEDGER: &str = "east.bank.example/bank/ledger";
const PROXY: &str = "spiffe://east.bank.example/ns/bank/proxy/ledger";

fn flow(source: &str, destination: &str, requests: u64) -> FlowCounts {
    FlowCounts {
        direction: "inbound".into(),
        source: source.into(),
        destination: destination.into(),
        requests,
        durations: vec![requests, 0],
        ..FlowCounts::default()
    }
}

fn report(flows: Vec<FlowCounts>) -> Sightings {
    Sightings { flows: Some(FlowReport { window_us: 1_000_000, flows, bounds_us: vec![25] }), ..Sightings::default() }
}

fn call(tap: u64, destination: &str) -> TappedCall {
    TappedCall { tap, source: WEB.into(), destination: destination.into(), ..TappedCall::default() }
}

fn of_ledger() -> Scope {
    Scope::for_tests(Some("spiffe://east.bank.example/ns/bank/sa/ledger"), &[LEDGER])
}

struct Place {
    events: Events,
    operator: SpiffeId,
    spool: Spool,
    _dir: tempfile::TempDir,
}

fn place(max_bytes: u64) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let config =
        SpoolConfig { dir: dir.path().join("spool"), durability: Durability::Disk, on_full: OnFull::Deny, max_bytes };
    let own: SpiffeId = "spiffe://east.bank.example/signet/control".parse().unwrap();
    let spool = Spool::open(config, own.as_str()).unwrap();
    let events = Events::new(spool.clone(), &own, Metrics::register(&mut Registry::default()));
    Place { events, operator: "spiffe://east.bank.example/signet/operator".parse().unwrap(), spool, _dir: dir }
}

#[test]
fn proxies_are_asked_for_what_somebody_watches_and_for_no_longer() {
    let hub = LiveHub::new();
    let wanted = hub.wanted();
    let now = || wanted.borrow().clone();
    assert_eq!(now(), Wanted::default());
    let (first, second) = (hub.watch().ok().unwrap(), hub.watch().ok().unwrap());
    let tap = hub.tap(TapFilter { decision: "deny".into(), ..TapFilter::default() }, 5).ok().unwrap();
    assert_eq!((now().flows_every_ms, now().taps.len(), now().taps[0].per_second), (1_000, 1, 5));
    drop((first, tap));
    assert_eq!((now().flows_every_ms, now().taps.len()), (1_000, 0));
    drop(second);
    assert_eq!(now(), Wanted::default());
}

#[test]
fn only_so_many_may_watch_at_once() {
    let hub = LiveHub::new();
    let taps: Vec<_> = (0..MAX_TAPS).map(|_| hub.tap(TapFilter::default(), 1).ok().unwrap()).collect();
    let tops: Vec<_> = (0..MAX_TOPS).map(|_| hub.watch().ok().unwrap()).collect();
    assert_eq!(hub.tap(TapFilter::default(), 1).err(), Some(TooMany));
    assert_eq!(hub.watch().err(), Some(TooMany));
    drop((taps, tops));
    assert!(hub.tap(TapFilter::default(), 1).is_ok() && hub.watch().is_ok());
}

#[test]
fn a_proxy_is_believed_about_its_own_workload_and_services_alone() {
    let scope = of_ledger();
    let payments = "east.bank.example/bank/payments";
    for (source, destination, believed) in [
        (WEB, LEDGER, true),
        ("spiffe://east.bank.example/ns/bank/sa/ledger", payments, true),
        ("other", "other", true),
        (WEB, payments, false),
        (WEB, "unknown", false),
        ("other", payments, false),
    ] {
        assert_eq!(scope.covers(source, destination), believed, "{source} -> {destination}");
    }
    let hub = LiveHub::new();
    let mut watching = hub.watch().ok().unwrap();
    let mut tap = hub.tap(TapFilter::default(), 10).ok().unwrap();
    hub.sighted(PROXY, &scope, report(vec![flow(WEB, payments, 7), flow(WEB, LEDGER, 1)]));
    assert_eq!(watching.reports.try_recv().unwrap().report.flows, [flow(WEB, LEDGER, 1)]);
    let calls = vec![call(tap.id, payments), call(tap.id, LEDGER), call(99, LEDGER)];
    hub.sighted(PROXY, &scope, Sightings { calls, ..Sightings::default() });
    let shown = tap.calls.try_recv().unwrap();
    assert_eq!((shown.destination.as_str(), shown.proxy.as_str()), (LEDGER, PROXY), "the proxy is named by its SVID");
    assert!(tap.calls.try_recv().is_err());
}

#[test]
fn sums_are_over_proxies_and_the_window_is_one_proxys() {
    let mut sum = Sum::default();
    for (proxy, requests) in [("a", 5), ("b", 7), ("a", 1)] {
        let report = FlowReport { window_us: 1_000_000, flows: vec![flow(WEB, LEDGER, requests)], bounds_us: vec![25] };
        sum.add(&Reported { proxy: proxy.into(), report });
    }
    let update = sum.take();
    assert_eq!((update.proxies, update.window_us, update.missed), (2, 1_500_000, 0));
    assert_eq!(update.flows, [flow(WEB, LEDGER, 13)]);
    assert_eq!(sum.take().flows, []);
}

#[test]
fn durations_are_summed_by_the_same_buckets_alone() {
    let mut sum = Sum::default();
    for bounds_us in [vec![25], vec![50]] {
        let report = FlowReport { window_us: 1_000_000, flows: vec![flow(WEB, LEDGER, 2)], bounds_us };
        sum.add(&Reported { proxy: "a".into(), report });
    }
    let update = sum.take();
    assert_eq!((update.flows[0].requests, update.flows[0].durations.as_slice()), (4, [2, 0].as_slice()));
    assert_eq!(update.bounds_us, [25]);
}

#[test]
fn an_update_is_bounded_and_says_what_it_left_out() {
    let mut sum = Sum::default();
    let flows = (0..6_000).map(|n| FlowCounts { durations: vec![0; 100], ..flow(&format!("s{n}"), LEDGER, 1) });
    sum.add(&Reported {
        proxy: "a".into(),
        report: FlowReport { window_us: 1, flows: flows.collect(), bounds_us: vec![25; 99] },
    });
    let update = sum.take();
    assert_eq!((update.flows.len(), update.missed), (5_000, 1_000));
    assert!(update.flows.iter().all(|flow| flow.durations.len() <= 32));
}

#[tokio::test]
async fn top_sends_what_came_in_each_interval() {
    let hub = LiveHub::new();
    let ask = |interval_ms| top(&hub, &TopRequest { interval_ms }, CancellationToken::new());
    assert_eq!(ask(10).err().unwrap().code(), Code::InvalidArgument);
    let mut updates = ask(0).unwrap();
    hub.sighted(PROXY, &of_ledger(), report(vec![flow(WEB, LEDGER, 3)]));
    let first = updates.next().await.unwrap().unwrap();
    assert_eq!((first.flows.len(), first.proxies), (1, 1));
}

#[tokio::test]
async fn a_tap_is_recorded_shows_calls_counts_drops_and_ends_in_time() {
    let (hub, place) = (LiveHub::new(), place(1 << 20));
    let request = TapRequest { seconds: 1, ..TapRequest::default() };
    let mut updates = tap(&hub, &place.events, &place.operator, request, CancellationToken::new()).unwrap();
    assert_eq!(place.spool.stats().appended, 1, "watching is recorded before anything is shown");
    let id = hub.wanted().borrow().taps[0].id;
    let sightings = Sightings { calls: vec![call(id, LEDGER); CALLS + 3], ..Sightings::default() };
    hub.sighted(PROXY, &of_ledger(), sightings);
    hub.sighted(PROXY, &of_ledger(), Sightings { drops: vec![TapDrops { tap: id, calls: 4 }], ..Sightings::default() });
    let (mut shown, mut dropped) = (0, 0);
    while let Some(update) = updates.next().await {
        let update = update.unwrap();
        shown += update.calls.len();
        dropped += update.dropped;
    }
    assert_eq!((shown, dropped), (CALLS, 7));
    drop(updates);
    assert_eq!(place.spool.stats().appended, 2, "and so is its end");
    assert!(hub.wanted().borrow().taps.is_empty());
}

#[tokio::test]
async fn nobody_watches_what_cannot_be_recorded() {
    let (hub, place) = (LiveHub::new(), place(1 << 20));
    place.spool.close().unwrap();
    let refused = tap(&hub, &place.events, &place.operator, TapRequest::default(), CancellationToken::new());
    assert_eq!(refused.err().unwrap().code(), Code::Unavailable);
    assert!(hub.wanted().borrow().taps.is_empty());
}

#[tokio::test]
async fn filters_that_make_no_sense_are_refused() {
    let (hub, place) = (LiveHub::new(), place(1 << 20));
    let with = |filter: TapFilter| TapRequest { filter: Some(filter), ..TapRequest::default() };
    for request in [
        with(TapFilter { decision: "maybe".into(), ..TapFilter::default() }),
        with(TapFilter { path_prefix: "/".repeat(600), ..TapFilter::default() }),
        TapRequest { seconds: 601, ..TapRequest::default() },
        TapRequest { per_second: 1_001, ..TapRequest::default() },
    ] {
        let refused = tap(&hub, &place.events, &place.operator, request, CancellationToken::new());
        assert_eq!(refused.err().unwrap().code(), Code::InvalidArgument);
    }
}
