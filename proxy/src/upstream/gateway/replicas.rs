//! The addresses of one gateway, and which of them to try first.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

pub(super) struct Replicas {
    addresses: Vec<Arc<str>>,
    next: AtomicUsize,
    /// Until when each is asked last.
    suspects: Mutex<Vec<Option<Instant>>>,
}

impl Replicas {
    pub(super) fn new(addresses: Vec<Arc<str>>) -> Self {
        // Sidecars begin at different replicas.
        let next = AtomicUsize::new(fastrand::usize(..addresses.len().max(1)));
        let suspects = Mutex::new(vec![None; addresses.len()]);
        Self { addresses, next, suspects }
    }

    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    pub(super) fn address(&self, replica: usize) -> &str {
        self.addresses.get(replica).map(AsRef::as_ref).unwrap_or_default()
    }

    /// All of them, in turn: those that answer first, then `not`, then those under suspicion.
    pub(super) fn order(&self, now: Instant, not: Option<usize>) -> Vec<usize> {
        let n = self.addresses.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut order: Vec<usize> = (0..n).map(|i| first.wrapping_add(i) % n).collect();
        let suspects = self.suspects.lock();
        let is_suspect = |i: &usize| suspects.get(*i).copied().flatten().is_some_and(|until| until > now);
        // The sort is stable: among equals the turn stays.
        order.sort_by_key(|i| (is_suspect(i), not == Some(*i)));
        order
    }

    pub(super) fn suspect(&self, replica: usize, until: Instant) {
        if let Some(place) = self.suspects.lock().get_mut(replica) {
            *place = Some(until);
        }
    }

    pub(super) fn well(&self, replica: usize) {
        if let Some(place) = self.suspects.lock().get_mut(replica) {
            *place = None;
        }
    }
}

/// For logs.
impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addresses.join(","))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use std::time::Duration;

    use super::*;

    #[test]
    fn suspects_come_last_until_their_time_is_over_and_none_is_left_out() {
        let replicas = Replicas::new(["a:1", "b:1", "c:1"].map(Arc::from).to_vec());
        let now = Instant::now();
        let mut begun = [0; 3];
        for _ in 0..30 {
            let order = replicas.order(now, None);
            assert_eq!(order.iter().sum::<usize>(), 3, "{order:?}");
            begun[order[0]] += 1;
        }
        assert_eq!(begun, [10, 10, 10]);
        replicas.suspect(1, now + Duration::from_secs(5));
        for _ in 0..6 {
            assert_eq!(replicas.order(now, None)[2], 1);
            // The one that gave no answer just now, before one that has a history.
            assert_eq!(replicas.order(now, Some(0))[1..], [0, 1]);
        }
        let later = now + Duration::from_secs(6);
        assert!((0..3).any(|_| replicas.order(later, None)[0] == 1));
        replicas.suspect(2, later + Duration::from_secs(5));
        replicas.well(2);
        assert!((0..3).any(|_| replicas.order(later, None)[0] == 2));
        assert!(Replicas::new(Vec::new()).order(now, None).is_empty());
    }
}
