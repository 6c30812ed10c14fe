//! A hash ring: the same key leads to the same endpoint, in every sidecar, and an endpoint that comes or goes moves only its
//! own share of keys.
//!
//! Who chooses keys chooses endpoints, so a client can load one endpoint on purpose; what protects it are limits of rate and
//! of connections, not the hash.

/// Places of one endpoint on the ring: its share is even to about a tenth.
const PLACES: usize = 100;
/// Places of a ring; with very many endpoints each has fewer.
const MOST: usize = 65_536;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Hash and endpoint, in order of hashes.
    points: Vec<(u64, usize)>,
}

/// FNV-1a, with the finaliser of SplitMix64 so that similar keys lie far apart. Part of no contract but this: all sidecars
/// of one version agree.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    mix(fnv)
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl Ring {
    /// Of endpoints by number and name; the name alone says where an endpoint stands.
    pub(crate) fn new<'n>(endpoints: impl ExactSizeIterator<Item = (usize, &'n str)>) -> Self {
        let places = (MOST / endpoints.len().max(1)).clamp(1, PLACES);
        let mut points: Vec<(u64, usize)> = Vec::with_capacity(endpoints.len() * places);
        for (index, name) in endpoints {
            let mut at = hash(name.as_bytes());
            for _ in 0..places {
                points.push((at, index));
                at = mix(at.wrapping_add(0x9e37_79b9_7f4a_7c15));
            }
        }
        points.sort_unstable();
        Self { points }
    }

    /// The first endpoint from `key` on that is `usable`.
    pub(crate) fn find(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.points.partition_point(|(at, _)| *at < key);
        let (before, from) = self.points.split_at_checked(start)?;
        from.iter().chain(before).map(|(_, index)| *index).find(|index| usable(*index))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().enumerate().map(|(index, name)| (index, name.as_str())))
    }

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("10.0.{}.{}:8443", i / 250, i % 250)).collect()
    }

    #[test]
    fn shares_are_about_even_and_a_lost_endpoint_moves_its_own_keys_alone() {
        let ten = names(10);
        let whole = ring(&ten);
        let keys: Vec<u64> = (0..20_000).map(|n| hash(format!("account-{n}").as_bytes())).collect();
        let mut hits = [0; 10];
        for key in &keys {
            hits[whole.find(*key, |_| true).unwrap()] += 1;
        }
        assert!(hits.iter().all(|hits| (1200..3000).contains(hits)), "{hits:?}");
        let nine = ring(&ten[..9]);
        for key in &keys {
            let before = whole.find(*key, |_| true).unwrap();
            let after = nine.find(*key, |_| true).unwrap();
            assert!(before == 9 || before == after);
            assert_eq!(whole.find(*key, |index| index != 9), Some(after), "passed over is as good as gone");
        }
    }

    proptest! {
        #[test]
        fn any_key_finds_whatever_is_usable(n in 0_usize..40, key: u64, only in 0_usize..40) {
            let found = ring(&names(n)).find(key, |index| index == only);
            prop_assert_eq!(found, (only < n).then_some(only));
        }
    }
}
