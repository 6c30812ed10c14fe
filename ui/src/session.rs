//! Who may use the dashboard: the token, the sessions made from it and the limit on wrong tries.
//!
//! INVARIANT: a session id is 256 random bits and only its SHA-256 is kept, so that neither timing of the look-up nor
//! a dump of the store gives a session away. The store and the failure counters are bounded; when the store is full
//! the session that ends first makes room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub const SESSION_TTL: Duration = Duration::from_secs(8 * 3600);
const MAX_SESSIONS: usize = 256;
/// Wrong tries from one address within [`FAILURE_WINDOW`] before the next are turned away unread.
pub const MAX_FAILURES: u32 = 30;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
const MAX_FAILURE_SOURCES: usize = 1024;

type Fingerprint = [u8; 32];

/// A session that is valid now.
#[derive(Clone)]
pub struct Session {
    pub ends: Instant,
    /// Cancelled when the session is ended, so that live streams end with it.
    pub ended: CancellationToken,
}

/// Too many wrong tries; try again after this long.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyTries(pub Duration);

/// Checks tokens and keeps sessions.
pub struct Sessions {
    token: Fingerprint,
    live: Mutex<HashMap<Fingerprint, Session>>,
    failures: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Sessions {
    pub fn new(token: &str) -> Self {
        Self { token: fingerprint(token.as_bytes()), live: Mutex::default(), failures: Mutex::default() }
    }

    /// Whether `candidate` is the dashboard token. Wrong tries of `source` are counted.
    pub fn check_token(&self, candidate: &str, source: IpAddr, now: Instant) -> Result<bool, TooManyTries> {
        let mut failures = self.failures.lock();
        if let Some((since, count)) = failures.get(&source) {
            let age = now.saturating_duration_since(*since);
            if age < FAILURE_WINDOW && *count >= MAX_FAILURES {
                return Err(TooManyTries(FAILURE_WINDOW - age));
            }
        }
        if verify_slices_are_equal(&fingerprint(candidate.as_bytes()), &self.token).is_ok() {
            return Ok(true);
        }
        failures.retain(|_, (since, _)| now.saturating_duration_since(*since) < FAILURE_WINDOW);
        // Full of addresses that all failed within the window: nobody else gets a try until it drains.
        if failures.len() >= MAX_FAILURE_SOURCES && !failures.contains_key(&source) {
            return Err(TooManyTries(FAILURE_WINDOW));
        }
        failures.entry(source).or_insert((now, 0)).1 += 1;
        Ok(false)
    }

    /// Opens a session and gives its id, the value of the cookie.
    pub fn open(&self, now: Instant) -> Result<String, aws_lc_rs::error::Unspecified> {
        let mut secret = [0u8; 32];
        rand::fill(&mut secret)?;
        let id = hex::encode(secret);
        let mut live = self.live.lock();
        live.retain(|_, session| session.ends > now);
        while live.len() >= MAX_SESSIONS {
            let Some(first) = live.iter().min_by_key(|(_, session)| session.ends).map(|(key, _)| *key) else { break };
            if let Some(session) = live.remove(&first) {
                session.ended.cancel();
            }
        }
        live.insert(fingerprint(id.as_bytes()), Session { ends: now + SESSION_TTL, ended: CancellationToken::new() });
        Ok(id)
    }

    pub fn find(&self, id: &str, now: Instant) -> Option<Session> {
        self.live.lock().get(&fingerprint(id.as_bytes())).filter(|session| session.ends > now).cloned()
    }

    pub fn close(&self, id: &str) {
        if let Some(session) = self.live.lock().remove(&fingerprint(id.as_bytes())) {
            session.ended.cancel();
        }
    }

    pub fn count(&self) -> usize {
        self.live.lock().len()
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mut out = [0u8; 32];
    for (to, from) in out.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    #[test]
    fn turns_away_an_address_after_too_many_wrong_tries_and_lets_it_back_later() {
        let sessions = Sessions::new("the right token");
        let now = Instant::now();
        for _ in 0..MAX_FAILURES {
            assert_eq!(sessions.check_token("wrong", HERE, now), Ok(false));
        }
        assert_eq!(sessions.check_token("the right token", HERE, now), Err(TooManyTries(FAILURE_WINDOW)));
        assert_eq!(sessions.check_token("the right token", THERE, now), Ok(true));
        assert_eq!(sessions.check_token("the right token", HERE, now + FAILURE_WINDOW), Ok(true));
    }

    #[test]
    fn sessions_expire_and_can_be_closed() {
        let sessions = Sessions::new("t");
        let now = Instant::now();
        let id = sessions.open(now).unwrap();
        let session = sessions.find(&id, now).unwrap();
        assert!(sessions.find(&id, now + SESSION_TTL).is_none());
        assert!(sessions.find("another", now).is_none());
        sessions.close(&id);
        assert!(sessions.find(&id, now).is_none());
        assert!(session.ended.is_cancelled());
    }

    #[test]
    fn a_full_store_ends_the_oldest_session() {
        let sessions = Sessions::new("t");
        let now = Instant::now();
        let first = sessions.open(now).unwrap();
        let later = now + Duration::from_secs(1);
        for _ in 0..MAX_SESSIONS {
            sessions.open(later).unwrap();
        }
        assert_eq!(sessions.count(), MAX_SESSIONS);
        assert!(sessions.find(&first, later).is_none());
    }
}
