//! Limits and ejections on a clock of the test's own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use prometheus_client::registry::Registry;

use super::*;
use crate::snapshot::traffic::{Balancing, Breaker};

fn traffic(outlier: Option<Outlier>, breaker: Breaker) -> Arc<Traffic> {
    let balancing = Balancing::default();
    Arc::new(Traffic { policy: "TrafficPolicy/bank/p".into(), balancing, outlier, breaker, faults: None })
}

fn ward(outlier: Option<Outlier>, breaker: Breaker) -> Arc<Ward> {
    let metrics = Metrics::register(&mut Registry::default());
    Ward::new("east.example/bank/ledger".into(), traffic(outlier, breaker), metrics)
}

const OUTLIER: Outlier = Outlier {
    consecutive_failures: 3,
    deviations_milli: 0,
    minimum_calls: 10,
    interval: Duration::from_secs(10),
    eject: Duration::from_secs(30),
    max_ejected_percent: 50,
};

fn members(ward: &Arc<Ward>, n: usize, now: Instant) -> Vec<Arc<Member>> {
    let members: Vec<_> = (0..n).map(|i| Member::new(Arc::clone(ward), format!("endpoint-{i}"), now)).collect();
    ward.regroup(vec![members.clone()]);
    members
}

fn fail(member: &Member, times: u32, now: Instant) {
    (0..times).for_each(|_| member.judged(false, now));
}

fn ejected(members: &[Arc<Member>], now: Instant) -> Vec<usize> {
    (0..members.len()).filter(|i| members[*i].ejected_for(now).is_some()).collect()
}

#[test]
fn failures_in_a_row_eject_and_others_do_not() {
    let now = Instant::now();
    let members = members(&ward(Some(OUTLIER), Breaker::default()), 4, now);
    for _ in 0..10 {
        fail(&members[0], 2, now);
        members[0].judged(true, now);
    }
    assert!(ejected(&members, now).is_empty());
    fail(&members[0], 3, now);
    assert_eq!(ejected(&members, now), [0]);
    assert_eq!(ejected(&members, now + Duration::from_secs(29)), [0]);
    assert!(ejected(&members, now + Duration::from_secs(31)).is_empty());
}

#[test]
fn one_that_is_back_and_fails_at_once_goes_for_longer_until_it_has_been_well() {
    let mut now = Instant::now();
    let members = members(&ward(Some(OUTLIER), Breaker::default()), 4, now);
    fail(&members[0], 3, now);
    for times in 2..5 {
        now += members[0].ejected_for(now).unwrap();
        fail(&members[0], 1, now);
        assert_eq!(members[0].ejected_for(now), Some(Duration::from_secs(30 * times)));
    }
    now += members[0].ejected_for(now).unwrap();
    members[0].judged(true, now);
    fail(&members[0], 2, now);
    assert_eq!(ejected(&members, now), [0_usize; 0], "a good answer ends its probation");
    members[0].judged(true, now);
    // Four in a row are forgiven one by one, each after half a minute, by whoever reports then.
    for _ in 0..6 {
        now += Duration::from_secs(31);
        members[1].judged(true, now);
    }
    fail(&members[0], 3, now);
    assert_eq!(members[0].ejected_for(now), Some(Duration::from_secs(30)));
}

#[test]
fn no_more_than_the_share_is_ejected_and_always_one_may_be() {
    let now = Instant::now();
    let ward = ward(Some(Outlier { max_ejected_percent: 25, ..OUTLIER }), Breaker::default());
    let many = members(&ward, 8, now);
    many.iter().for_each(|member| fail(member, 3, now));
    assert_eq!(ejected(&many, now).len(), 2);
    assert_eq!((ward.metrics.ejected_consecutive.get(), ward.metrics.ejections_spared.get()), (2, 6));
    let one = members(&ward, 1, now);
    fail(&one[0], 3, now);
    assert_eq!(ejected(&one, now), [0]);
}

#[test]
fn one_far_below_the_mean_is_ejected_when_the_interval_ends_and_one_with_few_calls_is_not() {
    let now = Instant::now();
    let outlier = Outlier { consecutive_failures: 0, deviations_milli: 1900, ..OUTLIER };
    let members = members(&ward(Some(outlier), Breaker::default()), 6, now);
    members[0].judged(true, now);
    for (i, member) in members.iter().enumerate() {
        let calls = if i == 5 { 9 } else { 20 };
        for call in 0..calls {
            member.judged(if i == 1 { call % 2 == 0 } else { i != 5 }, now + Duration::from_secs(1));
        }
    }
    assert!(ejected(&members, now + Duration::from_secs(9)).is_empty());
    let end = now + Duration::from_secs(11);
    members[0].judged(true, end);
    assert_eq!(ejected(&members, end), [1]);
    // The next interval begins with nothing: what was is not held against anybody twice.
    let later = end + Duration::from_secs(31);
    members[0].judged(true, later);
    assert!(ejected(&members, later).is_empty());
}

#[test]
fn a_limit_refuses_what_exceeds_it_counts_that_and_follows_a_new_word() {
    let limits = |requests| Breaker { requests: Some(requests), ..Breaker::default() };
    let ward = ward(None, limits(2));
    let held = [ward.ticket(Limit::Requests).unwrap(), ward.ticket(Limit::Requests).unwrap()];
    assert_eq!(ward.ticket(Limit::Requests).unwrap_err(), Limit::Requests);
    assert_eq!((ward.now(Limit::Requests), ward.metrics.limits_met(Limit::Requests)), (2, 1));
    assert!(ward.ticket(Limit::Pending).is_ok(), "each has a limit of its own");
    ward.follow(&traffic(None, limits(3)));
    let third = ward.ticket(Limit::Requests).unwrap();
    ward.follow(&traffic(None, limits(1)));
    assert!(ward.ticket(Limit::Requests).is_err());
    drop((held, third));
    assert_eq!(ward.now(Limit::Requests), 0);
    assert!(ward.ticket(Limit::Requests).is_ok());
}

#[tokio::test]
async fn a_connection_that_ends_makes_place_for_who_waits() {
    let ward = ward(None, Breaker { connections: Some(1), ..Breaker::default() });
    let [member] = &members(&ward, 1, Instant::now())[..] else { unreachable!() };
    let slot = member.slot().unwrap();
    assert!(member.slot().is_none());
    assert_eq!(member.open(), 1);
    let waiting = member.freed.notified();
    drop(slot);
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
    assert!(member.slot().is_some());
    assert_eq!(member.open(), 0);
}
