//! The Merkle tree of RFC 6962, kept in tiles (C2SP tlog-tiles): pure, no IO, no clock.
//!
//! A tree of `n` leaves is what [`Edge`] holds: of each level of tiles the last, partial one. Appending a leaf fills
//! tiles from the right; a full tile's root is a hash of the level above. Any subtree that a root or a proof needs is
//! inside a tile that [`HashSource`] can give.

use aws_lc_rs::digest::{SHA256, digest};

mod edge;
mod proof;
mod tile;

pub use edge::{Edge, EdgeMismatch};
pub use proof::{
    HashSource, MissingTile, ProofError, consistency_proof, inclusion_proof, root_at, verify_consistency,
    verify_inclusion,
};
pub use tile::{TILE_WIDTH, TileId, TilePath, tiles_of};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The root of the tree without leaves: `SHA-256("")`.
#[must_use]
pub fn empty_root() -> Hash {
    sha256(b"")
}

/// `SHA-256(01 || left || right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    sha256(&bytes)
}

/// `SHA-256(00 || entry)`.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    signet_spool::leaf_hash(entry)
}

/// In one go: a hash in parts costs an allocation.
pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    // INVARIANT: SHA-256 yields 32 bytes, so the lengths agree.
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// The root of a list of hashes that are the leaves (or equally high subtrees) of a tree: RFC 6962, 2.1.
#[must_use]
pub fn root_of(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(split(hashes.len() as u64) as usize);
            node_hash(&root_of(left), &root_of(right))
        }
    }
}

/// The largest power of two below `n`, which is at least 2.
fn split(n: u64) -> u64 {
    debug_assert!(n >= 2, "a tree of one leaf has no subtrees");
    1 << (63 - (n - 1).leading_zeros())
}

#[cfg(test)]
mod tests;
