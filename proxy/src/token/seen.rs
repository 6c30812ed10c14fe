//! Tokens that were verified already, by digest.
//!
//! Bounded by two generations: when the younger is full it becomes the older, and what nobody asked for meanwhile goes.
//! Only tokens that verified get in, so strangers cannot fill it.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest as hash};
use parking_lot::Mutex;

/// Entries of one generation. An entry is a few hundred bytes.
const GENERATION: usize = 2_048;

pub(super) type Digest = [u8; 32];

pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(hash(&SHA256, bytes).as_ref());
    out
}

struct Generations<V> {
    young: HashMap<Digest, V>,
    old: HashMap<Digest, V>,
}

pub(super) struct Seen<V>(Mutex<Generations<V>>);

impl<V> Default for Seen<V> {
    fn default() -> Self {
        Self(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }))
    }
}

impl<V: Clone> Seen<V> {
    pub(super) fn find(&self, key: &Digest) -> Option<V> {
        let mut generations = self.0.lock();
        if let Some(found) = generations.young.get(key) {
            return Some(found.clone());
        }
        let found = generations.old.remove(key)?;
        generations.keep(*key, found.clone());
        Some(found)
    }

    pub(super) fn keep(&self, key: Digest, value: V) {
        self.0.lock().keep(key, value);
    }
}

impl<V> Generations<V> {
    fn keep(&mut self, key: Digest, value: V) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_bounded_and_keeps_what_is_asked_for() {
        let seen = Seen::default();
        let key = |i: usize| digest(&i.to_le_bytes());
        for i in 0..GENERATION * 5 {
            seen.keep(key(i), i);
            assert_eq!(seen.find(&key(0)), Some(0), "after {i}");
        }
        let generations = seen.0.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
        drop(generations);
        assert_eq!(seen.find(&key(1)), None);
    }
}
