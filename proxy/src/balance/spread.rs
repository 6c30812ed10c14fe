//! Over which endpoints the calls of one governed service go, and which of them a call takes.
//!
//! Endpoints stand in groups with weights, groups in tiers. The first tier takes all calls in which a group has enough
//! healthy endpoints; when no tier has, the first takes them with whatever it has, healthy or not (panic): a guess about
//! health that is wrong must not end a service.

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
}

impl Group {
    pub(crate) fn new(weight: u32, members: Vec<usize>) -> Self {
        Self { weight, members, ring: None }
    }
}

impl Spread {
    /// Groups without members are left out.
    pub(crate) fn new(ward: Arc<Ward>, endpoints: Vec<(Arc<Member>, Arc<Load>)>, mut tiers: Vec<Vec<Group>>) -> Self {
        for tier in &mut tiers {
            tier.retain(|group| !group.members.is_empty());
        }
        tiers.retain(|tier| !tier.is_empty());
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

    /// An endpoint for a call; `avoid` one that just failed it. `key` is the hash of what the call is to be spread by.
    pub(crate) fn pick(&self, now: Instant, avoid: Option<usize>, key: Option<u64>) -> Option<usize> {
        let traffic = self.ward.traffic();
        let balancing = &traffic.balancing;
        let at = ms(now);
        let choosing = Choosing { spread: self, balancing, now, at, key };
        if avoid.is_none()
            && !self.ward.troubled(at)
            && let [tier, ..] = self.tiers.as_slice()
            && let [only] = tier.as_slice()
        {
            return choosing.among(&only.members, only, |_| true);
        }
        let well = |index: &usize| self.endpoints.get(*index).is_some_and(|(member, _)| !member.ejected(at));
        for (level, tier) in self.tiers.iter().enumerate() {
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
