//! Where calls go: by tier, by weight, by health, by algorithm.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use prometheus_client::registry::Registry;

use super::*;
use crate::balance::{InFlight, Reach, hash};
use crate::metrics::Metrics;
use crate::snapshot::traffic::{Breaker, HashOn, Outlier, Traffic};

const ONE_FAILURE: Outlier = Outlier {
    consecutive_failures: 1,
    deviations_milli: 0,
    minimum_calls: 1,
    interval: Duration::from_secs(10),
    eject: Duration::from_secs(30),
    max_ejected_percent: 100,
};

struct Service {
    spread: Spread,
    now: Instant,
}

impl Service {
    /// Endpoints are numbered through all groups; each group is a weight and a number of endpoints.
    fn new(balancing: Balancing, tiers: &[&[(u32, usize)]]) -> Self {
        let now = Instant::now();
        let metrics = Metrics::register(&mut Registry::default());
        let traffic = Traffic {
            policy: "TrafficPolicy/bank/p".into(),
            balancing,
            outlier: Some(ONE_FAILURE),
            breaker: Breaker::default(),
            faults: None,
        };
        let ward = Ward::new("east.example/bank/ledger".into(), Arc::new(traffic), metrics);
        let mut endpoints = Vec::new();
        let mut groups = Vec::new();
        for tier in tiers {
            let tier = tier.iter().map(|(weight, size)| {
                let first = endpoints.len();
                for index in first..first + size {
                    let member = Member::new(Arc::clone(&ward), format!("10.0.0.{index}:80"), now);
                    endpoints.push((member, Arc::new(Load::new(now))));
                }
                Group::new(*weight, (first..first + size).collect())
            });
            groups.push(tier.collect());
        }
        Self { spread: Spread::new(ward, endpoints, groups), now }
    }

    fn eject(&self, index: usize) {
        self.spread.endpoints[index].0.judged(false, self.now);
    }

    /// How often each endpoint is taken in 4,000 calls.
    fn hits(&self, avoid: Option<usize>) -> Vec<u32> {
        let mut hits = vec![0; self.spread.endpoints.len()];
        for _ in 0..4000 {
            hits[self.spread.pick(self.now, &avoid.map(Tried::at).unwrap_or_default(), None).unwrap()] += 1;
        }
        hits
    }
}

#[test]
fn the_first_tier_takes_all_calls_until_too_few_of_it_are_healthy() {
    let service = Service::new(Balancing::default(), &[&[(1, 4)], &[(1, 2)]]);
    let own = |hits: Vec<u32>| hits[..4].iter().sum::<u32>();
    assert_eq!(own(service.hits(None)), 4000);
    service.eject(0);
    service.eject(1);
    let hits = service.hits(None);
    assert_eq!((hits[0], hits[1], own(hits.clone())), (0, 0, 4000), "half is enough: {hits:?}");
    service.eject(2);
    let hits = service.hits(None);
    assert_eq!(own(hits.clone()), 0, "{hits:?}");
    assert_eq!(service.spread.ward.metrics().failed_over.get(), 4000);
    let back = Service { now: service.now + Duration::from_secs(31), ..service };
    assert_eq!(own(back.hits(None)), 4000, "and back");
}

#[test]
fn weights_share_a_tier_and_one_that_fails_leaves_its_part_to_the_others() {
    let service = Service::new(Balancing::default(), &[&[(3, 2), (1, 1)]]);
    let hits = service.hits(None);
    // Six standard deviations (27) around 3000.
    assert!((2835..3165).contains(&(hits[0] + hits[1])), "{hits:?}");
    service.eject(0);
    service.eject(1);
    assert_eq!(service.hits(None), [0, 0, 4000]);
}

#[test]
fn with_nothing_healthy_all_are_used_unless_the_policy_says_never() {
    let service = Service::new(Balancing::default(), &[&[(1, 3)]]);
    (0..3).for_each(|index| service.eject(index));
    assert!(service.hits(None).iter().all(|hits| *hits > 500));
    assert_eq!(service.spread.ward.metrics().panicked.get(), 4000);
    assert_eq!(service.hits(Some(1))[1], 0, "but not the one that just failed");
    let never = Service::new(Balancing { panic_percent: 0, ..Balancing::default() }, &[&[(1, 2)]]);
    never.eject(0);
    assert_eq!(never.hits(None), [0, 4000]);
    assert_eq!(never.spread.pick(never.now, &Tried::at(1), None), Some(1), "well, and there is no other");
    never.eject(1);
    assert_eq!(never.spread.pick(never.now, &Tried::default(), None), None);
}

#[test]
fn a_retry_goes_to_another_endpoint_or_another_tier_before_the_same() {
    let service = Service::new(Balancing::default(), &[&[(1, 2)]]);
    assert_eq!(service.hits(Some(0)), [0, 4000]);
    let tiers = Service::new(Balancing::default(), &[&[(1, 1)], &[(1, 1)]]);
    assert_eq!(tiers.hits(Some(0)), [0, 4000]);
    let alone = Service::new(Balancing::default(), &[&[(1, 1)]]);
    assert_eq!(alone.hits(Some(0)), [4000]);
    let nobody = Service::new(Balancing::default(), &[&[(1, 0)]]);
    assert_eq!(nobody.spread.pick(nobody.now, &Tried::default(), None), None);
}

#[test]
fn least_request_looks_at_calls_in_flight_and_not_at_latency() {
    let service = Service::new(Balancing { algorithm: Algorithm::LeastRequest, ..Balancing::default() }, &[&[(1, 2)]]);
    service.spread.endpoints[0].1.observe(service.now, Duration::from_secs(10));
    let hits = service.hits(None);
    assert!(hits.iter().all(|hits| (1600..2400).contains(hits)), "{hits:?}");
    let _busy = InFlight::start(&service.spread.endpoints[1].1, service.now);
    assert_eq!(service.hits(None), [4000, 0], "the one with fewer");
}

#[test]
fn a_new_endpoint_takes_a_growing_share() {
    let algorithm = Algorithm::LeastRequest;
    let slow = Balancing { algorithm, slow_start: Duration::from_secs(100), ..Balancing::default() };
    let mut service = Service::new(slow, &[&[(1, 2)]]);
    let late = service.now + Duration::from_secs(1000);
    let ward = Arc::clone(service.spread.ward());
    service.spread.endpoints[1].0 = Member::new(ward, "10.0.0.9:80".to_owned(), late);
    let share = |service: &Service, after: u64| {
        let service = Service { now: late + Duration::from_secs(after), spread: Spread { ..again(&service.spread) } };
        service.hits(None)[1]
    };
    let (new, half, grown) = (share(&service, 0), share(&service, 50), share(&service, 100));
    // Of every second call a tenth, a half, all.
    assert!((120..280).contains(&new), "{new}");
    assert!((850..1150).contains(&half), "{half}");
    assert!((1800..2200).contains(&grown), "{grown}");
}

#[test]
fn what_cannot_be_reached_gets_no_calls_while_there_is_somewhere_else_to_go() {
    let service = Service::new(Balancing::default(), &[&[(1, 2)], &[(1, 1)]]);
    let member = |index: usize| &service.spread.endpoints[index].0;
    member(0).unreached(service.now);
    assert_eq!(service.hits(None), [0, 4000, 0]);
    member(1).unreached(service.now);
    assert_eq!(service.hits(None), [0, 0, 4000]);
    assert_eq!(service.spread.ward.metrics().unreachable.get(), 2);
    member(2).unreached(service.now);
    let hits = service.hits(None);
    assert!(hits[0] > 1000 && hits[1] > 1000 && hits[2] == 0, "nothing is well: the first tier, all of it: {hits:?}");
    member(1).reached();
    assert_eq!(service.hits(None), [0, 4000, 0], "half of the first tier is enough");
    member(0).reached();
    assert!(service.hits(None)[0] > 1000);
    let alone = Service::new(Balancing::default(), &[&[(1, 2)]]);
    alone.spread.endpoints[0].0.unreached(alone.now);
    assert!(alone.hits(None)[0] > 1000, "with one tier and one group there is nowhere else");
}

#[test]
fn a_lost_gateway_takes_its_cluster_out_and_not_the_endpoints_behind_it() {
    let mut service = Service::new(Balancing::default(), &[&[(1, 1)], &[(1, 1)]]);
    let gateway = Arc::new(Reach::default());
    let remote =
        Member::behind(Arc::clone(&gateway), Arc::clone(service.spread.ward()), "west".to_owned(), service.now);
    let (ward, mut endpoints) = (Arc::clone(service.spread.ward()), service.spread.endpoints.clone());
    endpoints[0].0 = remote;
    let tiers = vec![vec![Group::new(1, vec![0])], vec![Group::new(1, vec![1])]];
    service.spread = Spread::new(ward, endpoints, tiers);
    assert_eq!(service.hits(None), [4000, 0]);
    gateway.failed(service.now);
    assert_eq!(service.hits(None), [0, 4000]);
    service.spread.endpoints[0].0.unreached(service.now);
    assert!(gateway.reached());
    assert_eq!(service.hits(None), [4000, 0], "what failed while the gateway was lost is the gateway's fault");
}

#[test]
fn a_call_that_did_not_leave_is_tried_at_two_endpoints_of_each_tier() {
    let service = Service::new(Balancing::default(), &[&[(1, 5)], &[(1, 1)], &[(1, 3)]]);
    let mut tried = Tried::default();
    let mut at = Vec::new();
    loop {
        let index = service.spread.pick(service.now, &tried, None).unwrap();
        service.spread.endpoints[index].0.unreached(service.now);
        at.push(index);
        if !service.spread.unsent(&mut tried, index) {
            break;
        }
    }
    let tier = |index: usize| [0, 0, 0, 0, 0, 1, 2, 2, 2][index];
    assert_eq!(at.iter().map(|index| tier(*index)).collect::<Vec<_>>(), [0, 0, 1, 2], "{at:?}");
    assert!(at[0] != at[1]);
}

fn again(spread: &Spread) -> Spread {
    let groups = vec![vec![Group::new(1, (0..spread.endpoints.len()).collect())]];
    Spread::new(Arc::clone(&spread.ward), spread.endpoints.clone(), groups)
}

#[test]
fn the_same_key_goes_to_the_same_endpoint_and_elsewhere_only_when_that_is_ejected() {
    let on = HashOn::Header("x-account".parse().unwrap());
    let service =
        Service::new(Balancing { algorithm: Algorithm::ConsistentHash(on), ..Balancing::default() }, &[&[(1, 5)]]);
    let at = |key: u64| service.spread.pick(service.now, &Tried::default(), Some(key)).unwrap();
    let keys: Vec<u64> = (0..200).map(|n| hash(format!("account-{n}").as_bytes())).collect();
    let before: Vec<usize> = keys.iter().map(|key| at(*key)).collect();
    assert!((0..5).all(|index| before.contains(&index)));
    assert!(keys.iter().zip(&before).all(|(key, index)| at(*key) == *index));
    service.eject(2);
    for (key, index) in keys.iter().zip(&before) {
        assert_eq!(at(*key) == *index, *index != 2);
        assert_ne!(service.spread.pick(service.now, &Tried::at(*index), Some(*key)), Some(*index), "a retry goes on");
    }
    assert!(service.hits(None).iter().filter(|hits| **hits > 0).count() == 4, "without a key: to any");
}
