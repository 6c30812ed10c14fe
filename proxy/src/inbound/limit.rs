//! Rate limits of a service, for each client by itself, in this sidecar alone.
//!
//! The generic cell rate algorithm (ITU-T I.371): a client has one point in time, up to which its calls are paid for. A
//! call moves it on by `per / requests`; a client that would be further ahead than `burst` calls has to wait.
//!
//! INVARIANT: state is bounded. Clients that may burst again in full are forgotten when there is no room, and while there
//! is none all clients that are new share one allowance: no number of identities buys more than one client has.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use signet_mtls::SpiffeId;

use crate::snapshot::traffic::RateLimit;

/// Clients of one limit.
const MAX_CLIENTS: usize = 10_000;
/// Looking for clients to forget costs a walk over all.
const FORGET_EVERY: Duration = Duration::from_millis(100);

/// The limits of one service at one port.
pub(super) struct Limiter {
    rules: Vec<Rule>,
}

struct Rule {
    limit: RateLimit,
    /// Of one call.
    cost: Duration,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    /// Until when each has paid. `None`: those without an identity.
    paid: HashMap<Option<SpiffeId>, Instant>,
    /// Of all that there was no room for.
    others: Option<Instant>,
    forgot: Option<Instant>,
}

impl Limiter {
    /// `None`: there is nothing to limit.
    pub(super) fn new(limits: &[RateLimit]) -> Option<Self> {
        let rule = |limit: &RateLimit| Rule {
            cost: limit.per / limit.requests.max(1),
            limit: limit.clone(),
            clients: Mutex::default(),
        };
        (!limits.is_empty()).then(|| Self { rules: limits.iter().map(rule).collect() })
    }

    /// Whether it was made from `limits`, and can be kept with what it counted.
    pub(super) fn is_of(&self, limits: &[RateLimit]) -> bool {
        self.rules.len() == limits.len() && self.rules.iter().zip(limits).all(|(rule, limit)| rule.limit == *limit)
    }

    /// Counts one call of `client`.
    ///
    /// # Errors
    /// How long until the client may call again. The call is not counted then.
    pub(super) fn take(&self, client: Option<&SpiffeId>, now: Instant) -> Result<(), Duration> {
        let fits = |rule: &&Rule| {
            let clients = &rule.limit.clients;
            clients.is_empty() || client.is_some_and(|client| clients.contains(client))
        };
        self.rules.iter().find(fits).map_or(Ok(()), |rule| rule.take(client, now))
    }
}

impl Rule {
    fn take(&self, client: Option<&SpiffeId>, now: Instant) -> Result<(), Duration> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = client.cloned();
        if !clients.paid.contains_key(&key) && clients.paid.len() >= MAX_CLIENTS {
            clients.forget(now);
        }
        if let Some(paid) = clients.paid.get_mut(&key) {
            *paid = self.pay(*paid, now)?;
        } else if clients.paid.len() < MAX_CLIENTS {
            let paid = self.pay(now, now)?;
            clients.paid.insert(key, paid);
        } else {
            clients.others = Some(self.pay(clients.others.unwrap_or(now), now)?);
        }
        Ok(())
    }

    fn pay(&self, paid: Instant, now: Instant) -> Result<Instant, Duration> {
        let next = paid.max(now) + self.cost;
        let ahead = next.saturating_duration_since(now);
        let allowed = self.cost * self.limit.burst;
        if ahead > allowed { Err(ahead - allowed) } else { Ok(next) }
    }
}

impl Clients {
    fn forget(&mut self, now: Instant) {
        if self.forgot.is_none_or(|at| now.saturating_duration_since(at) >= FORGET_EVERY) {
            self.forgot = Some(now);
            self.paid.retain(|_, paid| *paid > now);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://east.example/ns/bank/sa/{name}").parse().unwrap()
    }

    fn limit(clients: &[&str], requests: u32, per_ms: u64, burst: u32) -> RateLimit {
        let clients = clients.iter().map(|name| id(name)).collect();
        RateLimit { clients, requests, per: Duration::from_millis(per_ms), burst }
    }

    fn taken(limiter: &Limiter, client: Option<&SpiffeId>, calls: u32, now: Instant) -> u32 {
        (0..calls).map(|_| u32::from(limiter.take(client, now).is_ok())).sum()
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        let limiter = Limiter::new(&[limit(&[], 10, 1000, 3)]).unwrap();
        let (web, start) = (id("web"), Instant::now());
        assert_eq!(taken(&limiter, Some(&web), 100, start), 3);
        assert_eq!(limiter.take(Some(&web), start), Err(Duration::from_millis(100)));
        assert_eq!(limiter.take(Some(&web), start + Duration::from_millis(99)), Err(Duration::from_millis(1)));
        assert_eq!(limiter.take(Some(&web), start + Duration::from_millis(100)), Ok(()));
        assert_eq!(taken(&limiter, Some(&web), 100, start + Duration::from_secs(60)), 3, "a pause earns one burst");
    }

    #[test]
    fn clients_do_not_use_up_each_others_allowance() {
        let limiter = Limiter::new(&[limit(&["web"], 1, 1000, 1), limit(&[], 1, 1000, 2)]).unwrap();
        let now = Instant::now();
        for (client, calls) in [(Some(id("web")), 1), (Some(id("batch")), 2), (Some(id("other")), 2), (None, 2)] {
            assert_eq!(taken(&limiter, client.as_ref(), 10, now), calls, "{client:?}");
        }
    }

    #[test]
    fn who_no_limit_names_is_not_limited() {
        let limiter = Limiter::new(&[limit(&["web"], 1, 1000, 1)]).unwrap();
        assert_eq!(taken(&limiter, Some(&id("batch")), 1000, Instant::now()), 1000);
        assert_eq!(taken(&limiter, None, 1000, Instant::now()), 1000);
        assert!(Limiter::new(&[]).is_none());
    }

    #[test]
    fn any_number_of_identities_is_bounded_and_buys_one_allowance_more() {
        let limiter = Limiter::new(&[limit(&[], 1, 1000, 1)]).unwrap();
        let start = Instant::now();
        let passed: u32 = (0..MAX_CLIENTS + 500).map(|n| taken(&limiter, Some(&id(&format!("c{n}"))), 1, start)).sum();
        assert_eq!(passed as usize, MAX_CLIENTS + 1);
        assert_eq!(taken(&limiter, Some(&id("c0")), 1, start), 0, "a client that is known stays limited");
        let later = start + Duration::from_secs(2);
        assert_eq!(taken(&limiter, Some(&id("new")), 5, later), 1, "those who paused make room");
        assert_eq!(limiter.rules[0].clients.lock().unwrap().paid.len(), 1);
    }

    proptest! {
        /// In any span of time no more calls pass than the burst and what the rate earns in it.
        #[test]
        fn never_more_than_the_burst_and_the_rate(
            requests in 1_u32..50, per_ms in 1_u64..5000, burst in 1_u32..20,
            gaps in proptest::collection::vec(0_u64..400, 1..200),
        ) {
            let limiter = Limiter::new(&[limit(&[], requests, per_ms, burst)]).unwrap();
            let start = Instant::now();
            let (mut at, mut passed) = (0, Vec::new());
            for gap in gaps {
                at += gap;
                if limiter.take(None, start + Duration::from_millis(at)).is_ok() {
                    passed.push(at);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let earned = (to - from) as f64 * f64::from(requests) / per_ms as f64;
                    prop_assert!((j - i + 1) as f64 <= f64::from(burst) + earned + 1e-3);
                }
            }
        }
    }
}
