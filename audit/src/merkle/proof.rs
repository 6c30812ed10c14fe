//! Roots and proofs of any size up to the tree's, from tiles (RFC 6962, 2.1.1 and 2.1.2), and their verification
//! (RFC 9162, 2.1.3.2 and 2.1.4.2).

use super::tile::{TILE_WIDTH, TileId};
use super::{Hash, empty_root, node_hash, root_of, split};

/// Where the hashes of a tree come from.
pub trait HashSource {
    /// The hashes of a tile, at least as many as the tree has there.
    fn tile(&self, tile: TileId) -> Option<&[Hash]>;
}

impl HashSource for std::collections::BTreeMap<TileId, Vec<Hash>> {
    fn tile(&self, tile: TileId) -> Option<&[Hash]> {
        self.get(&tile).map(Vec::as_slice)
    }
}

/// A tile that the tree has is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tile {} of level {} is missing or too short", .0.index, .0.level)]
pub struct MissingTile(pub TileId);

/// A proof does not prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// An index or a size that the tree does not have.
    #[error("the index or size is not one of this tree")]
    OutOfRange,
    /// Too few or too many hashes.
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// It leads to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// The root of leaves `from .. from + count`, a subtree of the tree: `from` is a multiple of the power of two at or
/// above `count`.
fn subtree(source: &impl HashSource, from: u64, count: u64) -> Result<Hash, MissingTile> {
    if count == 0 {
        return Ok(empty_root());
    }
    if count.is_power_of_two() {
        // Complete: it lies in one tile, of the level whose hashes are at most as high.
        let height = count.trailing_zeros();
        let level = height / 8;
        let width = 1u64 << (height % 8);
        let place = from >> (level * 8);
        let tile = TileId { level: u8::try_from(level).unwrap_or(u8::MAX), index: place / TILE_WIDTH };
        let start = usize::try_from(place % TILE_WIDTH).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(width).unwrap_or(usize::MAX));
        let hashes = source.tile(tile).and_then(|hashes| hashes.get(start..end)).ok_or(MissingTile(tile))?;
        return Ok(root_of(hashes));
    }
    let left = split(count);
    Ok(node_hash(&subtree(source, from, left)?, &subtree(source, from + left, count - left)?))
}

/// The root of the first `size` leaves.
///
/// # Errors
/// When a tile is missing.
pub fn root_at(source: &impl HashSource, size: u64) -> Result<Hash, MissingTile> {
    subtree(source, 0, size)
}

/// The audit path of leaf `index` in the tree of `size` leaves, leaf to root.
///
/// # Errors
/// When a tile is missing. An index outside the tree gives an empty proof, which proves nothing.
pub fn inclusion_proof(source: &impl HashSource, index: u64, size: u64) -> Result<Vec<Hash>, MissingTile> {
    let mut path = Vec::new();
    if index >= size {
        return Ok(path);
    }
    let (mut from, mut count) = (0, size);
    while count > 1 {
        let left = split(count);
        if index < from + left {
            path.push(subtree(source, from + left, count - left)?);
            count = left;
        } else {
            path.push(subtree(source, from, left)?);
            from += left;
            count -= left;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the first `old` leaves of the tree of `size` are the tree of `old`.
///
/// # Errors
/// When a tile is missing.
pub fn consistency_proof(source: &impl HashSource, old: u64, size: u64) -> Result<Vec<Hash>, MissingTile> {
    let mut path = Vec::new();
    if old == 0 || old >= size {
        return Ok(path);
    }
    // RFC 6962, 2.1.2: SUBPROOF(m, D[n], b); `whole` is b.
    let (mut from, mut count, mut rest, mut whole) = (0, size, old, true);
    while rest != count {
        let left = split(count);
        if rest <= left {
            path.push(subtree(source, from + left, count - left)?);
            count = left;
        } else {
            path.push(subtree(source, from, left)?);
            from += left;
            count -= left;
            rest -= left;
            whole = false;
        }
    }
    if !whole {
        path.push(subtree(source, from, count)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks that `leaf` is leaf `index` of the tree of `size` leaves with this root.
///
/// # Errors
/// When it is not proven.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for step in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Checks that the tree of `old` leaves with `old_root` is the beginning of the tree of `size` leaves with `root`.
///
/// # Errors
/// When it is not proven.
pub fn verify_consistency(old: u64, old_root: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> Result<(), ProofError> {
    if old > size {
        return Err(ProofError::OutOfRange);
    }
    if old == size || old == 0 {
        let same = if old == 0 { *old_root == empty_root() } else { old_root == root };
        return match (proof.is_empty(), same) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    let mut steps = proof.iter();
    let (mut node, mut last) = (old - 1, size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    // A power of two is a whole subtree: the old root itself begins the path.
    let first = if node == 0 { old_root } else { steps.next().ok_or(ProofError::Length)? };
    let (mut old_hash, mut hash) = (*first, *first);
    for step in steps {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(step, &old_hash);
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, old_hash == *old_root && hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}
