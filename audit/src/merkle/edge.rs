//! The right edge of a tree: what appending needs, and nothing more.

use std::collections::BTreeMap;

use super::tile::{TILE_WIDTH, TileId, tiles_of};
use super::{Hash, empty_root, node_hash, root_of};

/// The last, partial tile of each level of a tree of `size` leaves. Empty ones are there too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// The tiles do not belong to a tree of this size and root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored tiles do not make the stored root of size {size}: the tree was changed")]
pub struct EdgeMismatch {
    /// What was asked for.
    pub size: u64,
}

impl Edge {
    /// The tree of `size` leaves whose right-most tiles are what `tile` gives.
    ///
    /// # Errors
    /// When the tiles do not make `root`.
    pub fn load(size: u64, root: &Hash, tile: impl Fn(TileId) -> Option<Vec<Hash>>) -> Result<Self, EdgeMismatch> {
        let mut levels = Vec::new();
        let mut level = 0u8;
        while tiles_of(size, level) > 0 {
            let hashes = tiles_of(size, level);
            let width = usize::try_from(hashes % TILE_WIDTH).unwrap_or(0);
            let mut held = Vec::new();
            if width > 0 {
                held = tile(TileId { level, index: hashes / TILE_WIDTH }).ok_or(EdgeMismatch { size })?;
                if held.len() < width {
                    return Err(EdgeMismatch { size });
                }
                held.truncate(width);
            }
            levels.push(held);
            level += 1;
        }
        let edge = Self { size, levels };
        if edge.root() == *root { Ok(edge) } else { Err(EdgeMismatch { size }) }
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf; `changed` collects the new content of every tile that it touched.
    pub fn append(&mut self, leaf: Hash, changed: &mut BTreeMap<TileId, Vec<Hash>>) {
        let mut hash = leaf;
        let mut place = self.size;
        self.size += 1;
        for level in 0u8.. {
            let index = place / TILE_WIDTH;
            let held = match self.levels.get_mut(usize::from(level)) {
                Some(held) => held,
                None => {
                    self.levels.push(Vec::new());
                    match self.levels.last_mut() {
                        Some(held) => held,
                        None => return,
                    }
                }
            };
            held.push(hash);
            if (held.len() as u64) < TILE_WIDTH {
                // One copy of a partial tile would be made for each leaf; `flush` makes it once for a batch.
                changed.entry(TileId { level, index }).or_default();
                return;
            }
            let full = std::mem::take(held);
            hash = root_of(&full);
            changed.insert(TileId { level, index }, full);
            place = index;
        }
    }

    /// Gives the partial tiles of `changed` their content; call it once after the last [`Edge::append`] of a batch.
    pub fn flush(&self, changed: &mut BTreeMap<TileId, Vec<Hash>>) {
        for (tile, hashes) in changed.iter_mut().filter(|(_, hashes)| hashes.is_empty()) {
            if let Some(held) = self.levels.get(usize::from(tile.level)) {
                hashes.clone_from(held);
            }
        }
    }

    /// The root of the whole tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        // Complete subtrees, smallest (right-most) first: fold them from the right.
        let mut root: Option<Hash> = None;
        for held in &self.levels {
            let mut rest = held.as_slice();
            let mut subtrees = Vec::new();
            while !rest.is_empty() {
                let width = 1usize << (usize::BITS - 1 - rest.len().leading_zeros());
                let (left, right) = rest.split_at(width);
                subtrees.push(root_of(left));
                rest = right;
            }
            for subtree in subtrees.iter().rev() {
                root = Some(match root {
                    Some(right) => node_hash(subtree, &right),
                    None => *subtree,
                });
            }
        }
        root.unwrap_or_else(empty_root)
    }
}
