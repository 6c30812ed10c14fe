//! Over which endpoints the calls of one governed service go, and which of them a call takes.
//!
//! Endpoints stand in groups with weights, groups in tiers. The first tier takes all calls in which a group has enough
//! endpoints that are well: not ejected, and, where there is somewhere else to go, not down. When no tier has, the first
//! takes them with whatever it has, well or not (panic): a guess about health that is wrong must not end a service.

use std::sync::Arc;
use std::time::Instant;

use super::member::{Member, ms};
use super::ring::Ring;
use super::ward::Ward;
use super::{Load, pick_by};
use crate::snapshot::traffic::{Algorithm, Balancing};

#[derive(Debug)]
pub(crate) struct Spread {
    ward: Arc<Ward>,
    endpoints: Vec<(Arc<Member>, Arc<Load>)>,
    tiers: Vec<Vec<Group>>,
}

/// Endpoints that share a weight.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) weight: u32,
    /// Indexes of endpoints.
    pub(crate) members: Vec<usize>,
    /// Set when a part of the request is hashed.
    ring: Option<Ring>,
    /// Whether it can be reached is not the endpoints' own matter.
    behind_gateways: bool,
}

impl Group {
    pub(crate) fn new(weight: u32, members: Vec<usize>) -> Self {
        Self { weight, members, ring: None, behind_gateways: false }
    }
}

impl Spread {
    /// Groups without members are left out.
    pub(crate) fn new(ward: Arc<Ward>, endpoints: Vec<(Arc<Member>, Arc<Load>)>, mut tiers: Vec<Vec<Group>>) -> Self {
        for tier in &mut tiers {
            tier.retain(|group| !group.members.is_empty());
        }
        tiers.retain(|tier| !tier.is_empty());
        for group in tiers.iter_mut().flatten() {
            let behind = |index: &usize| endpoints.get(*index).is_some_and(|(member, _)| member.has_gateway());
            group.behind_gateways = group.members.iter().any(behind);
        }
        ward.watch(tiers.iter().flatten().count() > 1);
        if matches!(ward.traffic().balancing.algorithm, Algorithm::ConsistentHash(_)) {
            for group in tiers.iter_mut().flatten() {
                let name = |index: &usize| endpoints.get(*index).map_or("", |(member, _)| member.name());
                group.ring = Some(Ring::new(group.members.iter().map(|index| (*index, name(index)))));
            }
        }
        let of = |group: &Group| {
            let members = group.members.iter().filter_map(|index| endpoints.get(*index));
            members.map(|(member, _)| Arc::clone(member)).collect()
        };
        ward.regroup(tiers.iter().flatten().map(of).collect());
        Self { ward, endpoints, tiers }
    }

    pub(crate) fn ward(&self) -> &Arc<Ward> {
        &self.ward
    }

    /// An endpoint for a call that was tried as `tried` says. `key` is the hash of what the call is to be spread by.
    pub(crate) fn pick(&self, now: Instant, tried: &Tried, key: Option<u64>) -> Option<usize> {
        let traffic = self.ward.traffic();
        let balancing = &traffic.balancing;
        let (at, avoid) = (ms(now), tried.last);
        let choosing = Choosing { spread: self, balancing, now, at, key };
        if avoid.is_none()
            && !self.ward.troubled(at)
            && let Some([only]) = self.tiers.first().map(Vec::as_slice)
            && !only.behind_gateways
        {
            return choosing.among(&only.members, only, |_| true);
        }
        let well = |index: &usize| self.endpoints.get(*index).is_some_and(|(member, _)| member.well(at));
        for (level, tier) in self.tiers.iter().enumerate().skip(tried.level) {
            let mut able = Vec::with_capacity(tier.len());
            for group in tier {
                let mut healthy: Vec<usize> = group.members.iter().copied().filter(well).collect();
                let share = healthy.len().saturating_mul(100) / group.members.len().max(1);
                healthy.retain(|index| Some(*index) != avoid);
                if !healthy.is_empty() && share >= usize::try_from(balancing.panic_percent).unwrap_or(100) {
                    able.push((group, healthy));
                }
            }
            if let Some((group, healthy)) = draw(&able) {
                if level > 0 {
                    self.ward.metrics().failed_over.inc();
                }
                return choosing.among(healthy, group, |index| Some(index) != avoid && well(&index));
            }
        }
        // What was to be avoided is well, and there is no other.
        if let Some(only) = avoid.filter(well) {
            return Some(only);
        }
        if balancing.panic_percent == 0 {
            return None;
        }
        let first = self.tiers.first()?;
        self.ward.metrics().panicked.inc();
        let all: Vec<(&Group, Vec<usize>)> = first.iter().map(|group| (group, group.members.clone())).collect();
        let (group, members) = draw(&all)?;
        let others: Vec<usize> = members.iter().copied().filter(|index| Some(*index) != avoid).collect();
        if others.is_empty() {
            return members.first().copied();
        }
        choosing.among(&others, group, |index| Some(index) != avoid)
    }

    /// Notes in `tried` that a call did not leave for `index`, and whether it may be tried at another endpoint at once: at
    /// two of each tier at most.
    pub(crate) fn unsent(&self, tried: &mut Tried, index: usize) -> bool {
        tried.last = Some(index);
        tried.times += 1;
        if tried.times.is_multiple_of(Tried::OF_A_TIER) {
            let holds = |tier: &Vec<Group>| tier.iter().any(|group| group.members.contains(&index));
            let level = self.tiers.iter().position(holds).unwrap_or_default();
            tried.level = level + 1;
        }
        tried.level < self.tiers.len()
    }
}

/// Where a call was tried already.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// The endpoint that it did not leave for, or whose answer is not to be the last word.
    last: Option<usize>,
    times: usize,
    /// The tier that is looked at first.
    level: usize,
}

impl Tried {
    const OF_A_TIER: usize = 2;

    #[cfg(test)]
    pub(crate) fn at(index: usize) -> Self {
        Self { last: Some(index), ..Self::default() }
    }

    /// The call begins again, and is not to go to `index` when there is another.
    pub(crate) fn again(&mut self, index: usize) {
        (self.last, self.level) = (Some(index), 0);
    }

    /// Without tiers: at two endpoints, where there are two.
    pub(crate) fn another_of(&mut self, endpoints: usize, index: usize) -> bool {
        self.last = Some(index);
        self.times += 1;
        endpoints > 1 && self.times < Self::OF_A_TIER
    }

    pub(crate) fn last(&self) -> Option<usize> {
        self.last
    }
}

/// One of `groups` by weight.
fn draw<'g, 'm>(groups: &'m [(&'g Group, Vec<usize>)]) -> Option<(&'g Group, &'m [usize])> {
    let total: u64 = groups.iter().map(|(group, _)| u64::from(group.weight)).sum();
    let mut at = if total == 0 { 0 } else { fastrand::u64(..total) };
    for (group, members) in groups {
        let weight = u64::from(group.weight);
        if at < weight || total == 0 {
            return Some((group, members));
        }
        at -= weight;
    }
    None
}

/// One call that looks for its endpoint.
struct Choosing<'s> {
    spread: &'s Spread,
    balancing: &'s Balancing,
    now: Instant,
    at: u64,
    key: Option<u64>,
}

impl Choosing<'_> {
    fn among(&self, members: &[usize], group: &Group, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if let (Some(ring), Some(key)) = (&group.ring, self.key) {
            return ring.find(key, usable);
        }
        let cost = |index: &usize| match (self.spread.endpoints.get(*index), &self.balancing.algorithm) {
            (None, _) => f64::MAX,
            (Some((_, load)), Algorithm::LeastRequest) => f64::from(load.pending()),
            (Some((_, load)), _) => load.cost(self.now),
        };
        let first = pick_by(members, cost, None)?;
        let chosen = members.get(first).copied()?;
        let window = self.balancing.slow_start;
        // While its share grows it leaves some of its calls to others.
        if !window.is_zero()
            && members.len() > 1
            && let Some((member, _)) = self.spread.endpoints.get(chosen)
            && fastrand::f64() > member.grown(self.at, window)
        {
            return members.get(pick_by(members, cost, Some(first))?).copied();
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests;
