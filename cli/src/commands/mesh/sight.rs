//! What proxies counted of one flow, as rates, and both ends' view of it as one.

use std::collections::BTreeMap;

use serde::Serialize;
use signet_api::control::{FlowCounts, TopUpdate};

/// Whom a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) source: String,
    pub(super) destination: String,
    /// Where rows are by route. The two ends name routes differently.
    pub(super) route: Option<String>,
}

/// One flow in one window, as seen by one kind of proxy or by both ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Sight {
    #[serde(rename = "seen_by")]
    pub(super) direction: String,
    pub(super) requests: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    pub(super) connections: u64,
    pub(super) connections_denied: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) requests_per_second: f64,
    pub(super) connections_per_second: f64,
    pub(super) denied_per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) received_bytes_per_second: f64,
    pub(super) sent_bytes_per_second: f64,
    #[serde(skip)]
    durations: Vec<u64>,
    #[serde(skip)]
    bounds_us: Vec<u64>,
}

impl Sight {
    /// The flows of one update, routes together unless they are asked for.
    pub(super) fn of_each(update: &TopUpdate, by_route: bool) -> Vec<(Key, Self)> {
        let mut sights: BTreeMap<(Key, &str), Self> = BTreeMap::new();
        for flow in &update.flows {
            let key = Key {
                source: flow.source.clone(),
                destination: flow.destination.clone(),
                route: by_route.then(|| flow.route.clone()),
            };
            let sight = sights.entry((key, flow.direction.as_str())).or_default();
            sight.direction.clone_from(&flow.direction);
            sight.bounds_us.clone_from(&update.bounds_us);
            sight.add(flow);
        }
        let window = seconds(update.window_us);
        sights.into_iter().map(|((key, _), sight)| (key, sight.over(window))).collect()
    }

    /// What both ends saw of one flow. A call that never arrived is known to its source alone, and that it was denied or
    /// how long the app took to its destination.
    pub(super) fn join(sights: Vec<Self>) -> Option<Self> {
        let (mut inbound, mut outbound) = (None, None);
        for sight in sights {
            match sight.direction.as_str() {
                "inbound" => inbound = Some(sight),
                "outbound" => outbound = Some(sight),
                _ => {}
            }
        }
        let (Some(mut joined), Some(outbound)) = (inbound.clone(), outbound.clone()) else {
            return inbound.or(outbound);
        };
        joined.direction = "both".to_owned();
        for (one, other) in [
            (&mut joined.requests, outbound.requests),
            (&mut joined.failed, outbound.failed),
            (&mut joined.connections, outbound.connections),
        ] {
            *one = (*one).max(other);
        }
        for (one, other) in [
            (&mut joined.requests_per_second, outbound.requests_per_second),
            (&mut joined.failed_per_second, outbound.failed_per_second),
            (&mut joined.connections_per_second, outbound.connections_per_second),
        ] {
            *one = one.max(other);
        }
        Some(joined)
    }

    /// Calls and connections that were neither denied nor failed; none without any.
    pub(super) fn success_percent(&self) -> Option<f64> {
        let all = self.requests + self.connections;
        let bad = self.denied + self.connections_denied + self.failed;
        (all > 0).then(|| 100.0 * per(all.saturating_sub(bad), exact(all)))
    }

    /// The time that a share `q` of calls took at most, interpolated within its bucket.
    pub(super) fn quantile_ms(&self, q: f64) -> Option<f64> {
        let all: u64 = self.durations.iter().sum();
        if all == 0 {
            return None;
        }
        let rank = q * exact(all);
        let (mut below, mut from) = (0.0, 0);
        for (index, count) in self.durations.iter().enumerate() {
            // What is beyond the last bound is that long at least.
            let Some(to) = self.bounds_us.get(index) else { break };
            let count = exact(*count);
            if count > 0.0 && below + count >= rank {
                let within = (rank - below) / count;
                return Some((exact(from) + exact(to - from) * within) / 1_000.0);
            }
            (below, from) = (below + count, *to);
        }
        Some(exact(from) / 1_000.0)
    }

    fn add(&mut self, flow: &FlowCounts) {
        for (count, more) in [
            (&mut self.requests, flow.requests),
            (&mut self.denied, flow.denied),
            (&mut self.failed, flow.failed),
            (&mut self.connections, flow.connections),
            (&mut self.connections_denied, flow.connections_denied),
            (&mut self.received_bytes, flow.received_bytes),
            (&mut self.sent_bytes, flow.sent_bytes),
        ] {
            *count = count.saturating_add(more);
        }
        self.durations.resize(self.durations.len().max(flow.durations.len()), 0);
        for (bucket, more) in self.durations.iter_mut().zip(&flow.durations) {
            *bucket = bucket.saturating_add(*more);
        }
    }

    fn over(mut self, window: f64) -> Self {
        self.requests_per_second = per(self.requests, window);
        self.connections_per_second = per(self.connections, window);
        self.denied_per_second = per(self.denied + self.connections_denied, window);
        self.failed_per_second = per(self.failed, window);
        self.received_bytes_per_second = per(self.received_bytes, window);
        self.sent_bytes_per_second = per(self.sent_bytes, window);
        self
    }
}

pub(super) fn seconds(us: u64) -> f64 {
    exact(us) / 1_000_000.0
}

fn per(count: u64, of: f64) -> f64 {
    if of > 0.0 { exact(count) / of } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn exact(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::float_cmp, reason = "tests")]

    use super::*;

    fn counts(direction: &str, route: &str, requests: u64) -> FlowCounts {
        FlowCounts {
            direction: direction.into(),
            source: "a".into(),
            destination: "b".into(),
            route: route.into(),
            requests,
            durations: vec![requests, 0, 0],
            ..FlowCounts::default()
        }
    }

    fn update(flows: Vec<FlowCounts>) -> TopUpdate {
        TopUpdate { window_us: 2_000_000, flows, bounds_us: vec![1_000, 2_000], ..TopUpdate::default() }
    }

    #[test]
    fn routes_are_one_row_unless_they_are_asked_for() {
        let update = update(vec![counts("inbound", "GET /a", 4), counts("inbound", "GET /b", 6)]);
        let together = Sight::of_each(&update, false);
        assert_eq!((together.len(), together[0].1.requests, together[0].1.requests_per_second), (1, 10, 5.0));
        assert_eq!(Sight::of_each(&update, true).len(), 2);
    }

    #[test]
    fn calls_that_never_arrived_count_as_failed_and_denials_are_the_destinations() {
        let inbound = FlowCounts { denied: 2, sent_bytes: 9, ..counts("inbound", "", 8) };
        let outbound = FlowCounts { failed: 2, ..counts("outbound", "", 10) };
        let sights = Sight::of_each(&update(vec![inbound, outbound]), false).into_iter().map(|(_, sight)| sight);
        let joined = Sight::join(sights.collect()).unwrap();
        assert_eq!((joined.direction.as_str(), joined.requests, joined.denied, joined.failed), ("both", 10, 2, 2));
        assert_eq!((joined.requests_per_second, joined.sent_bytes), (5.0, 9));
        assert_eq!(joined.success_percent(), Some(60.0));
        assert_eq!(Sight::join(Vec::new()), None);
    }

    #[test]
    fn quantiles_are_interpolated_and_end_at_the_last_bound() {
        let of = |durations: Vec<u64>| Sight { durations, bounds_us: vec![1_000, 2_000], ..Sight::default() };
        for (durations, q, ms) in [
            (vec![10, 0, 0], 0.5, Some(0.5)),
            (vec![0, 10, 0], 0.5, Some(1.5)),
            (vec![5, 5, 0], 0.5, Some(1.0)),
            (vec![99, 0, 1], 0.99, Some(1.0)),
            (vec![0, 0, 3], 0.5, Some(2.0)),
            (vec![0, 0, 0], 0.5, None),
        ] {
            assert_eq!(of(durations.clone()).quantile_ms(q), ms, "{durations:?} {q}");
        }
    }
}
