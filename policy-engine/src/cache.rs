//! A bounded map from (principal, service, action, route) to what is known about such requests.
//!
//! Sharded, so that threads that decide rarely meet on one lock, and read by a borrowed key, so that a hit allocates
//! nothing. When a shard is full an arbitrary entry leaves: entries are only memory of work, never state.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use parking_lot::RwLock;

const SHARDS: usize = 16;
const PER_SHARD: usize = 512;

/// The key by reference.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyRef<'a> {
    /// Empty for an unauthenticated principal, which no SPIFFE ID is.
    pub(crate) principal: &'a str,
    pub(crate) service: &'a str,
    pub(crate) action: &'static str,
    /// Position of the route in its service's table, when there is one.
    pub(crate) route: Option<usize>,
}

struct Key {
    principal: Box<str>,
    service: Box<str>,
    action: &'static str,
    route: Option<usize>,
}

/// What both forms of the key have in common, so that a map of owned keys can be asked with a borrowed one.
trait AsKey {
    fn key(&self) -> KeyRef<'_>;
}

impl AsKey for Key {
    fn key(&self) -> KeyRef<'_> {
        KeyRef { principal: &self.principal, service: &self.service, action: self.action, route: self.route }
    }
}

impl AsKey for KeyRef<'_> {
    fn key(&self) -> KeyRef<'_> {
        *self
    }
}

impl<'a> Borrow<dyn AsKey + 'a> for Key {
    fn borrow(&self) -> &(dyn AsKey + 'a) {
        self
    }
}

impl Hash for dyn AsKey + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for dyn AsKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn AsKey + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Key {}

pub(crate) struct Cache<V> {
    hasher: RandomState,
    shards: [RwLock<HashMap<Key, Arc<V>>>; SHARDS],
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl<V> Cache<V> {
    fn shard(&self, key: &KeyRef<'_>) -> Option<&RwLock<HashMap<Key, Arc<V>>>> {
        let hash = self.hasher.hash_one(key);
        self.shards.get(usize::try_from(hash % SHARDS as u64).unwrap_or(0))
    }

    pub(crate) fn get(&self, key: &KeyRef<'_>) -> Option<Arc<V>> {
        let key_object: &dyn AsKey = key;
        self.shard(key)?.read().get(key_object).cloned()
    }

    pub(crate) fn insert(&self, key: &KeyRef<'_>, value: Arc<V>) {
        let Some(shard) = self.shard(key) else { return };
        let owned =
            Key { principal: key.principal.into(), service: key.service.into(), action: key.action, route: key.route };
        let mut shard = shard.write();
        if shard.len() >= PER_SHARD && !shard.contains_key(&owned) {
            let mut left_out_one = false;
            shard.retain(|_, _| std::mem::replace(&mut left_out_one, true));
        }
        shard.insert(owned, value);
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
        let key =
            |n: usize| KeyRef { principal: names.get(n).unwrap(), service: "a/b/c", action: "grpc:call", route: None };
        for n in 0..names.len() {
            cache.insert(&key(n), Arc::new(n));
            assert_eq!(cache.get(&key(n)).as_deref(), Some(&n));
        }
        assert!(cache.shards.iter().map(|s| s.read().len()).sum::<usize>() <= SHARDS * PER_SHARD);
        let other = KeyRef { route: Some(0), ..key(0) };
        assert!(cache.get(&other).is_none());
    }
}
