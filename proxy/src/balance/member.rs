//! One endpoint of a service that a TrafficPolicy governs: what it has open, and whether it is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::reach::Reach;
use super::since_epoch;
use super::ward::{Limit, Ticket, Ward};

/// Milliseconds on the clock of ejections; never 0.
pub(super) fn ms(now: Instant) -> u64 {
    since_epoch(now) / 1_000_000 + 1
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Shared by all workers.
#[derive(Debug)]
pub struct Member {
    ward: Arc<Ward>,
    /// For logs and the admin listener.
    name: String,
    born: u64,
    open: AtomicU32,
    /// A connection became free, or one more may be made.
    pub(crate) freed: Notify,
    pub(super) health: Health,
    /// Whether connections to it can be made; counts where its service has somewhere else to go.
    reach: Reach,
    /// The same of the gateway that leads to it.
    gateway: Option<Arc<Reach>>,
}

/// What is known of an endpoint's answers. Races between workers lose one at worst.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) consecutive: AtomicU32,
    /// Good and other answers in the current interval.
    pub(super) good: AtomicU32,
    pub(super) bad: AtomicU32,
    /// Until when it is ejected, on the clock of [`ms`]; 0: never was.
    pub(super) until: AtomicU64,
    /// How often in a row.
    pub(super) times: AtomicU32,
    /// It came back and has not given a good answer since: one failure is enough.
    pub(super) probation: AtomicBool,
}

/// A connection's place among those that may be open to its endpoint.
#[derive(Debug)]
pub struct Slot(Arc<Member>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

impl Member {
    pub(crate) fn new(ward: Arc<Ward>, name: String, now: Instant) -> Arc<Self> {
        Self::make(ward, name, None, now)
    }

    /// One that `gateway` leads to.
    pub(crate) fn behind(gateway: Arc<Reach>, ward: Arc<Ward>, name: String, now: Instant) -> Arc<Self> {
        Self::make(ward, name, Some(gateway), now)
    }

    fn make(ward: Arc<Ward>, name: String, gateway: Option<Arc<Reach>>, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            ward,
            name,
            born: ms(now),
            open: AtomicU32::new(0),
            freed: Notify::new(),
            health: Health::default(),
            reach: Reach::default(),
            gateway,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Connections that are open to it.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many connections may be open to it.
    pub(crate) fn most(&self) -> Option<u32> {
        self.ward.traffic().breaker.connections
    }

    /// A place for one more connection.
    pub(crate) fn slot(self: &Arc<Self>) -> Option<Slot> {
        let most = self.most();
        let taken = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            most.is_none_or(|most| open < most).then(|| open.saturating_add(1))
        });
        taken.is_ok().then(|| Slot(Arc::clone(self)))
    }

    pub(crate) fn ticket(&self, of: Limit) -> Result<Ticket, Limit> {
        self.ward.ticket(of)
    }

    /// The endpoint answered well, or did not.
    pub(crate) fn judged(&self, good: bool, now: Instant) {
        self.ward.judged(self, good, now);
    }

    /// Whether its service has somewhere else to go, so that it matters whether it can be reached.
    pub(crate) fn is_watched(&self) -> bool {
        self.ward.is_watched()
    }

    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Whether no connection to it can be made, or none to the gateway before it.
    pub(crate) fn is_down(&self) -> bool {
        self.is_watched() && (self.reach.is_down() || self.gateway.as_ref().is_some_and(|gateway| gateway.is_down()))
    }

    pub(super) fn has_gateway(&self) -> bool {
        self.gateway.is_some()
    }

    /// A connection to it could not be made. What its gateway is at fault for is the gateway's.
    pub(crate) fn unreached(&self, now: Instant) {
        if self.is_watched()
            && !self.gateway.as_ref().is_some_and(|gateway| gateway.is_down())
            && self.reach.failed(now)
        {
            self.ward.went_down(self);
        }
    }

    /// A probe of it failed.
    pub(crate) fn still_down(&self, now: Instant) {
        if self.reach.still_down(now) {
            self.ward.went_down(self);
        }
    }

    /// It answered, whatever it said.
    pub(crate) fn reached(&self) {
        if self.reach.reached() {
            self.ward.came_up(self);
        }
    }

    /// Whether it gets calls.
    pub(super) fn well(&self, at: u64) -> bool {
        !self.ejected(at) && !self.is_down()
    }

    pub(super) fn ejected(&self, at: u64) -> bool {
        self.health.until.load(Ordering::Relaxed) > at
    }

    /// For how much longer it gets no calls.
    pub(crate) fn ejected_for(&self, now: Instant) -> Option<Duration> {
        let left = self.health.until.load(Ordering::Relaxed).saturating_sub(ms(now));
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// What share of its calls it is given while its part grows again; 1 when it is grown.
    pub(super) fn grown(&self, at: u64, window: Duration) -> f64 {
        let since = self.born.max(self.health.until.load(Ordering::Relaxed));
        let age = Duration::from_millis(at.saturating_sub(since));
        if age >= window { 1.0 } else { (age.as_secs_f64() / window.as_secs_f64()).max(0.1) }
    }

    /// Sends it no calls for `base` times how often that was in a row; when that is over it is on probation.
    pub(super) fn eject(&self, at: u64, base: Duration) -> Duration {
        /// More in a row make it no longer.
        const MOST: u32 = 10;
        let times = self.health.times.load(Ordering::Relaxed).saturating_add(1).min(MOST);
        self.health.times.store(times, Ordering::Relaxed);
        self.health.consecutive.store(0, Ordering::Relaxed);
        self.health.probation.store(true, Ordering::Relaxed);
        let time = base.saturating_mul(times);
        self.health.until.store(at.saturating_add(millis(time)), Ordering::Relaxed);
        time
    }

    /// Having been back for as long as it would be ejected, it is a little less suspect.
    pub(super) fn forgive(&self, at: u64, base: Duration) {
        let times = self.health.times.load(Ordering::Relaxed);
        if times > 0 && at >= self.health.until.load(Ordering::Relaxed).saturating_add(millis(base)) {
            self.health.times.store(times - 1, Ordering::Relaxed);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.reach.is_down() {
            self.ward.one_less_down();
        }
    }
}
