//! A bounded map from (principal, service, action, route) to what is known about such requests.
//!
//! Sharded, so that threads that decide rarely meet on one lock, and read by a borrowed key that is hashed once, so that
//! a hit allocates nothing. When a shard is full an arbitrary entry leaves: entries are only memory of work, never state.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::HashTable;
use parking_lot::RwLock;

const SHARDS: usize = 16;
const PER_SHARD: usize = 512;

/// Several times faster than SipHash and seeded for each map, though whoever watches the time that answers take may find
/// keys that meet. Only for maps whose bound is small enough that walking through one is no harm.
pub(crate) type FastHasher = foldhash::fast::RandomState;

/// The key by reference.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyRef<'a> {
    /// Empty for an unauthenticated principal, which no SPIFFE ID is.
    pub(crate) principal: &'a str,
    pub(crate) service: &'a str,
    /// As [`Action::index`](crate::request::Action).
    pub(crate) action: usize,
    /// Position of the route in its service's table, when there is one.
    pub(crate) route: Option<usize>,
}

struct Entry<V> {
    principal: Box<str>,
    service: Box<str>,
    action: usize,
    route: Option<usize>,
    value: Arc<V>,
}

impl<V> Entry<V> {
    fn key(&self) -> KeyRef<'_> {
        KeyRef { principal: &self.principal, service: &self.service, action: self.action, route: self.route }
    }
}

pub(crate) struct Cache<V> {
    hasher: FastHasher,
    shards: [RwLock<HashTable<Entry<V>>>; SHARDS],
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { hasher: FastHasher::default(), shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl<V> Cache<V> {
    /// The hash of a key, and the shard that it belongs to.
    fn place(&self, key: &KeyRef<'_>) -> Option<(u64, &RwLock<HashTable<Entry<V>>>)> {
        let hash = self.hasher.hash_one(key);
        // Bits that the table itself looks at last.
        let shard = self.shards.get(usize::try_from(hash >> 32).unwrap_or(0) % SHARDS)?;
        Some((hash, shard))
    }

    pub(crate) fn get(&self, key: &KeyRef<'_>) -> Option<Arc<V>> {
        let (hash, shard) = self.place(key)?;
        shard.read().find(hash, |entry| entry.key() == *key).map(|entry| Arc::clone(&entry.value))
    }

    pub(crate) fn insert(&self, key: &KeyRef<'_>, value: Arc<V>) {
        let Some((hash, shard)) = self.place(key) else { return };
        let mut shard = shard.write();
        if let Some(entry) = shard.find_mut(hash, |entry| entry.key() == *key) {
            entry.value = value;
            return;
        }
        if shard.len() >= PER_SHARD {
            let mut left_out_one = false;
            shard.retain(|_| std::mem::replace(&mut left_out_one, true));
        }
        let entry = Entry {
            principal: key.principal.into(),
            service: key.service.into(),
            action: key.action,
            route: key.route,
            value,
        };
        shard.insert_unique(hash, entry, |entry| self.hasher.hash_one(entry.key()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn finds_what_was_put_and_stays_within_its_bound() {
        let cache = Cache::<usize>::default();
        let names: Vec<String> = (0..20_000).map(|n| format!("spiffe://a.b/{n:05}")).collect();
        let key = |n: usize| KeyRef { principal: names.get(n).unwrap(), service: "a/b/c", action: 8, route: None };
        for n in 0..names.len() {
            cache.insert(&key(n), Arc::new(n));
            assert_eq!(cache.get(&key(n)).as_deref(), Some(&n));
        }
        assert!(cache.shards.iter().map(|s| s.read().len()).sum::<usize>() <= SHARDS * PER_SHARD);
        let other = KeyRef { route: Some(0), ..key(0) };
        assert!(cache.get(&other).is_none());
    }
}
