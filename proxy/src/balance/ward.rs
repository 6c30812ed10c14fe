//! What the callers of one service in this proxy share: how much of it is open, and which of its endpoints fail.
//!
//! A limit that is met refuses at once and says which it was; nothing queues without an end. Ejection never takes more than
//! the share of endpoints that the policy allows, and always ends by itself. Nothing here runs on a timer: intervals are
//! looked at by whoever reports an answer after their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::member::{Member, ms};
use crate::metrics::Metrics;
use crate::snapshot::traffic::{Outlier, Traffic};

/// Which limit of a circuit breaker was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Connections,
    Pending,
    Requests,
    Retries,
}

impl Limit {
    pub(crate) const ALL: [Self; 4] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

#[derive(Debug)]
pub struct Ward {
    service: Arc<str>,
    traffic: ArcSwap<Traffic>,
    metrics: Arc<Metrics>,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    /// Endpoints as calls are spread over them.
    groups: ArcSwap<Vec<Vec<Arc<Member>>>>,
    /// When the current interval ends.
    interval: AtomicU64,
    /// When the last ejection that is known ends.
    troubled: AtomicU64,
    /// Held while one is made: their number is bounded.
    ejecting: Mutex<()>,
    /// There is somewhere else to go: endpoints that cannot be reached get no calls.
    watched: AtomicBool,
    /// Endpoints that could not be reached.
    down: AtomicU32,
}

/// One of what a limit counts, until dropped.
#[derive(Debug)]
pub struct Ticket {
    ward: Arc<Ward>,
    of: Limit,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(count) = self.ward.count(self.of) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Ward {
    pub(crate) fn new(service: Arc<str>, traffic: Arc<Traffic>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            service,
            traffic: ArcSwap::new(traffic),
            metrics,
            pending: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            groups: ArcSwap::default(),
            interval: AtomicU64::new(0),
            troubled: AtomicU64::new(0),
            ejecting: Mutex::new(()),
            watched: AtomicBool::new(false),
            down: AtomicU32::new(0),
        })
    }

    /// A new snapshot's word; what is counted stays.
    pub(crate) fn follow(&self, traffic: &Arc<Traffic>) {
        self.traffic.store(Arc::clone(traffic));
    }

    /// Whether calls have somewhere else to go than one tier of endpoints.
    pub(crate) fn watch(&self, elsewhere: bool) {
        self.watched.store(elsewhere, Ordering::Relaxed);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    pub(super) fn went_down(&self, member: &Member) {
        self.down.fetch_add(1, Ordering::Relaxed);
        self.metrics.unreachable.inc();
        tracing::warn!(service = %self.service, endpoint = member.name(), "an endpoint cannot be reached and gets no calls until it is");
    }

    pub(super) fn came_up(&self, member: &Member) {
        self.one_less_down();
        tracing::info!(service = %self.service, endpoint = member.name(), "an endpoint is reached again");
    }

    pub(super) fn one_less_down(&self) {
        self.down.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn regroup(&self, groups: Vec<Vec<Arc<Member>>>) {
        self.groups.store(Arc::new(groups));
    }

    pub(crate) fn traffic(&self) -> Guard<Arc<Traffic>> {
        self.traffic.load()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn count(&self, of: Limit) -> Option<&AtomicU32> {
        match of {
            Limit::Pending => Some(&self.pending),
            Limit::Requests => Some(&self.requests),
            Limit::Retries => Some(&self.retries),
            // Each endpoint's own.
            Limit::Connections => None,
        }
    }

    /// How much of `of` there is now.
    pub(crate) fn now(&self, of: Limit) -> u32 {
        self.count(of).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// One more of `of`, or the limit that it would exceed; that is counted.
    pub(crate) fn ticket(self: &Arc<Self>, of: Limit) -> Result<Ticket, Limit> {
        let breaker = &self.traffic().breaker;
        let most = match of {
            Limit::Pending => breaker.pending,
            Limit::Requests => breaker.requests,
            Limit::Retries => breaker.retries,
            Limit::Connections => None,
        };
        let before = self.count(of).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed));
        let ticket = Ticket { ward: Arc::clone(self), of };
        if most.is_some_and(|most| before >= most) {
            self.metrics.limit_met(of);
            return Err(of);
        }
        Ok(ticket)
    }

    /// Whether any endpoint may be ejected or down.
    pub(super) fn troubled(&self, at: u64) -> bool {
        self.troubled.load(Ordering::Relaxed) > at || self.down.load(Ordering::Relaxed) > 0
    }

    pub(super) fn judged(&self, member: &Member, good: bool, now: Instant) {
        let traffic = self.traffic();
        let Some(outlier) = &traffic.outlier else { return };
        let at = ms(now);
        let health = &member.health;
        if good {
            health.good.fetch_add(1, Ordering::Relaxed);
            // Read first: all workers share the line.
            if health.consecutive.load(Ordering::Relaxed) != 0 {
                health.consecutive.store(0, Ordering::Relaxed);
            }
            if health.probation.load(Ordering::Relaxed) && !member.ejected(at) {
                health.probation.store(false, Ordering::Relaxed);
            }
        } else {
            health.bad.fetch_add(1, Ordering::Relaxed);
            let in_a_row = health.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let enough = outlier.consecutive_failures > 0 && in_a_row >= outlier.consecutive_failures;
            if enough || health.probation.load(Ordering::Relaxed) {
                self.eject(member, outlier, Cause::Consecutive, at);
            }
        }
        self.look(outlier, at);
    }

    /// Compares endpoints when an interval has ended.
    fn look(&self, outlier: &Outlier, at: u64) {
        let end = self.interval.load(Ordering::Relaxed);
        if at < end {
            return;
        }
        let next = at.saturating_add(u64::try_from(outlier.interval.as_millis()).unwrap_or(u64::MAX));
        if self.interval.compare_exchange(end, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        for group in self.groups.load().iter() {
            // Of the interval before the first there is nothing to compare.
            if end > 0 && outlier.deviations_milli > 0 {
                for member in below(group, outlier, at) {
                    self.eject(member, outlier, Cause::SuccessRate, at);
                }
            }
            for member in group {
                member.health.good.store(0, Ordering::Relaxed);
                member.health.bad.store(0, Ordering::Relaxed);
                member.forgive(at, outlier.eject);
            }
        }
    }

    fn eject(&self, member: &Member, outlier: &Outlier, cause: Cause, at: u64) {
        let _one = self.ejecting.lock();
        if member.ejected(at) {
            return;
        }
        let groups = self.groups.load();
        let Some(group) = groups.iter().find(|group| group.iter().any(|other| std::ptr::eq(&**other, member))) else {
            return;
        };
        let percent = usize::try_from(outlier.max_ejected_percent).unwrap_or(100);
        let most = (group.len() * percent / 100).max(1);
        if group.iter().filter(|other| other.ejected(at)).count() >= most {
            self.metrics.ejections_spared.inc();
            return;
        }
        let time = member.eject(at, outlier.eject);
        self.troubled
            .fetch_max(at.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)), Ordering::Relaxed);
        match cause {
            Cause::Consecutive => self.metrics.ejected_consecutive.inc(),
            Cause::SuccessRate => self.metrics.ejected_success_rate.inc(),
        };
        tracing::warn!(
            service = %self.service,
            endpoint = member.name(),
            cause = cause.as_str(),
            seconds = time.as_secs_f64(),
            "an endpoint fails and gets no calls for a while"
        );
    }
}

#[derive(Clone, Copy)]
enum Cause {
    Consecutive,
    SuccessRate,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_failures",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// Members whose share of good answers lies too far below the mean.
fn below<'m>(group: &'m [Arc<Member>], outlier: &Outlier, at: u64) -> Vec<&'m Member> {
    let mut rates = Vec::new();
    for member in group.iter().filter(|member| !member.ejected(at)) {
        let good = member.health.good.load(Ordering::Relaxed);
        let all = good.saturating_add(member.health.bad.load(Ordering::Relaxed));
        if all >= outlier.minimum_calls {
            rates.push((&**member, f64::from(good) / f64::from(all)));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
    let n = rates.len().max(1) as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / n;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / n;
    let least = mean - variance.sqrt() * f64::from(outlier.deviations_milli) / 1000.0;
    rates.into_iter().filter(|(_, rate)| *rate < least).map(|(member, _)| member).collect()
}

#[cfg(test)]
mod tests;
