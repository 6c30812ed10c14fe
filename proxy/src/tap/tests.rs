//! Which calls a tap shows, and what becomes of those that it cannot.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn call() -> wire::TappedCall {
    wire::TappedCall {
        source: "spiffe://east.bank.example/ns/bank/sa/web".into(),
        destination: "east.bank.example/bank/ledger".into(),
        route: "GET /accounts/{id}".into(),
        action: "http:GET".into(),
        path: "/accounts/1".into(),
        ..wire::TappedCall::default()
    }
}

fn tap(id: u64, per_second: u32, filter: wire::TapFilter) -> wire::Tap {
    wire::Tap { id, filter: Some(filter), per_second }
}

fn show(taps: &Taps, times: u32) {
    for _ in 0..times {
        if let Some(tapped) = taps.take(call(), true) {
            tapped.answered(Decided::Allow, 200, Duration::from_micros(7));
        }
    }
}

#[test]
fn a_tap_shows_what_fits_all_of_its_filter() {
    let any = wire::TapFilter::default;
    let cases = [
        (any(), true),
        (wire::TapFilter { source: call().source, decision: "allow".into(), ..any() }, true),
        (wire::TapFilter { source: "spiffe://east.bank.example/ns/bank/sa/we".into(), ..any() }, false),
        (wire::TapFilter { destination: call().destination, path_prefix: "/accounts/".into(), ..any() }, true),
        (wire::TapFilter { destination: "east.bank.example/bank/payments".into(), ..any() }, false),
        (wire::TapFilter { path_prefix: "/accounts/1/".into(), ..any() }, false),
        (wire::TapFilter { route: call().route, ..any() }, true),
        (wire::TapFilter { route: "GET /score".into(), ..any() }, false),
        (wire::TapFilter { decision: "deny".into(), ..any() }, false),
    ];
    for (filter, shown) in cases {
        let (queue, mut calls) = mpsc::channel(4);
        let taps = Taps::default();
        taps.set(&[tap(3, 10, filter.clone())], &queue);
        show(&taps, 1);
        let seen = calls.try_recv().ok();
        assert_eq!(seen.is_some(), shown, "{filter:?}");
        if let Some(seen) = seen {
            assert_eq!((seen.tap, seen.status, seen.allow, seen.latency_us), (3, 200, true, 7));
        }
    }
}

#[test]
fn what_goes_over_the_rate_or_finds_the_queue_full_is_counted_and_never_waits() {
    let (queue, mut calls) = mpsc::channel(4);
    let taps = Taps::default();
    taps.set(&[tap(1, 3, wire::TapFilter::default()), tap(2, 100, wire::TapFilter::default())], &queue);
    show(&taps, 10);
    // The queue holds four of them: the first two calls for both taps.
    let drops = taps.drops();
    assert_eq!(drops.iter().map(|drops| drops.calls).collect::<Vec<_>>(), [8, 8]);
    assert!(taps.drops().is_empty(), "each drop is told once");
    assert_eq!(std::iter::from_fn(|| calls.try_recv().ok()).count(), 4);
}

#[test]
fn the_rate_is_of_each_second() {
    let (rate, start) = (Rate::new(2), Instant::now());
    let taken = |at: Duration| (0..3).filter(|_| rate.take(start + at)).count();
    assert_eq!(taken(Duration::from_millis(10)), 2);
    assert_eq!(taken(Duration::from_millis(900)), 0);
    assert_eq!(taken(Duration::from_millis(1_100)), 2);
}

#[test]
fn a_tap_that_is_no_longer_wanted_sees_nothing_and_others_go_on() {
    let (queue, mut calls) = mpsc::channel(8);
    let taps = Taps::default();
    assert!(!taps.is_on());
    let [first, second] = [1, 2].map(|id| tap(id, 1, wire::TapFilter::default()));
    taps.set(&[first, second.clone()], &queue);
    show(&taps, 1);
    taps.set(&[second], &queue);
    show(&taps, 1);
    assert_eq!(std::iter::from_fn(|| calls.try_recv().ok()).map(|call| call.tap).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(taps.drops().len(), 1, "the second had used up its rate already");
    taps.set(&[], &queue);
    assert!(!taps.is_on() && taps.take(call(), true).is_none());
}

#[test]
fn more_taps_than_the_bound_are_not_served() {
    let (queue, mut calls) = mpsc::channel(64);
    let taps = Taps::default();
    let wanted: Vec<_> = (0..40).map(|id| tap(id, 5_000_000, wire::TapFilter::default())).collect();
    taps.set(&wanted, &queue);
    show(&taps, 1);
    assert_eq!(std::iter::from_fn(|| calls.try_recv().ok()).count(), MAX_TAPS);
}
