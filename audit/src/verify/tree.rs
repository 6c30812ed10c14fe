//! The tree that the rows make, beside the tiles above the leaves and what was signed.

use std::collections::BTreeMap;

use super::{MAX_PROBLEMS, Problem};
use crate::merkle::{Edge, Hash, TILE_WIDTH, TileId};
use crate::note::Checkpoint;

pub(super) type Tiles = BTreeMap<TileId, Vec<Hash>>;

pub(super) struct Tree<'a> {
    edge: Edge,
    made: Tiles,
    /// Stored tiles above those of leaves that were not compared yet.
    upper: Tiles,
    signed: BTreeMap<u64, Hash>,
    seen: &'a [(&'a str, Checkpoint)],
    compared: u64,
}

impl<'a> Tree<'a> {
    pub(super) fn new(upper: Tiles, signed: BTreeMap<u64, Hash>, seen: &'a [(&'a str, Checkpoint)]) -> Self {
        Self { edge: Edge::default(), made: Tiles::new(), upper, signed, seen, compared: 0 }
    }

    /// How many checkpoints were compared.
    pub(super) fn compared(&self) -> u64 {
        self.compared
    }

    /// Appends the next leaves.
    pub(super) fn append(&mut self, leaves: &[Hash], problems: &mut Vec<Problem>) {
        if self.edge.size() == 0 {
            self.compare_root(problems);
        }
        for leaf in leaves {
            self.edge.append(*leaf, &mut self.made);
            if self.edge.size().is_multiple_of(TILE_WIDTH) {
                self.compare_tiles(problems);
            }
            self.compare_root(problems);
        }
    }

    /// Compares what is left, and gives the tree's edge.
    pub(super) fn finish(&mut self, problems: &mut Vec<Problem>) -> &Edge {
        self.edge.flush(&mut self.made);
        self.compare_tiles(problems);
        // What is left belongs to no tree of these records.
        let left = self.upper.keys().map(|tile| Problem::TileDiffers { level: tile.level, index: tile.index });
        problems.extend(left.take(MAX_PROBLEMS));
        &self.edge
    }

    /// Compares the tiles that have their content; leaves were compared with theirs before.
    fn compare_tiles(&mut self, problems: &mut Vec<Problem>) {
        self.made.retain(|tile, hashes| {
            if hashes.is_empty() {
                return true;
            }
            if tile.level > 0 && self.upper.remove(tile).as_ref() != Some(hashes) && problems.len() < MAX_PROBLEMS {
                problems.push(Problem::TileDiffers { level: tile.level, index: tile.index });
            }
            false
        });
    }

    fn compare_root(&mut self, problems: &mut Vec<Problem>) {
        let size = self.edge.size();
        if let Some(root) = self.signed.get(&size) {
            self.compared += 1;
            if self.edge.root() != *root {
                problems.push(Problem::RootDiffers { size });
            }
        }
        for (place, checkpoint) in self.seen.iter().filter(|(_, checkpoint)| checkpoint.size == size) {
            self.compared += 1;
            if self.edge.root() != checkpoint.root {
                problems.push(Problem::Forked { size, place: (*place).to_owned() });
            }
        }
    }
}
