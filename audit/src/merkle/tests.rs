//! The tree against the definition of RFC 6962.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Hash {
    ::hex::decode(text).unwrap().try_into().unwrap()
}

/// The leaves and roots of the reference tests of Certificate Transparency (RFC 6962).
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

struct Tree {
    edge: Edge,
    tiles: BTreeMap<TileId, Vec<Hash>>,
    leaves: Vec<Hash>,
}

fn tree(size: u64) -> Tree {
    let mut tree = Tree { edge: Edge::default(), tiles: BTreeMap::new(), leaves: Vec::new() };
    grow(&mut tree, size);
    tree
}

fn grow(tree: &mut Tree, by: u64) {
    let mut changed = BTreeMap::new();
    for _ in 0..by {
        let leaf = leaf_hash(&tree.edge.size().to_be_bytes());
        tree.leaves.push(leaf);
        tree.edge.append(leaf, &mut changed);
    }
    tree.edge.flush(&mut changed);
    tree.tiles.extend(changed);
}

#[test]
fn reproduces_the_reference_roots_of_rfc_6962() {
    assert_eq!(empty_root(), hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    assert_eq!(Edge::default().root(), empty_root());
    let mut edge = Edge::default();
    let mut tiles = BTreeMap::new();
    for (leaf, root) in LEAVES.iter().zip(ROOTS) {
        edge.append(leaf_hash(&::hex::decode(leaf).unwrap()), &mut tiles);
        assert_eq!(edge.root(), hex(root), "at size {}", edge.size());
    }
    edge.flush(&mut tiles);
    for (size, root) in (1..).zip(ROOTS) {
        assert_eq!(root_at(&tiles, size).unwrap(), hex(root));
    }
    // Audit path of leaf 5 in the tree of 8, and consistency from 6 to 8, of the same reference tests.
    let path = inclusion_proof(&tiles, 5, 8).unwrap();
    assert_eq!(
        path,
        [
            hex("bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"),
            hex("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
            hex("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ]
    );
    let consistency = consistency_proof(&tiles, 6, 8).unwrap();
    assert_eq!(
        consistency,
        [
            hex("0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"),
            hex("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
            hex("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ]
    );
}

#[test]
fn every_size_across_tile_borders_has_the_plain_root_and_sound_proofs() {
    let tree = tree(66_000);
    for size in [1, 2, 255, 256, 257, 511, 512, 513, 1_000, 65_535, 65_536, 65_537, 66_000] {
        let root = root_of(&tree.leaves[..size as usize]);
        assert_eq!(root_at(&tree.tiles, size).unwrap(), root, "{size}");
        for index in [0, 1, size / 3, size / 2, size - 1] {
            let index = index.min(size - 1);
            let proof = inclusion_proof(&tree.tiles, index, size).unwrap();
            let leaf = tree.leaves[index as usize];
            verify_inclusion(&leaf, index, size, &proof, &root).unwrap();
            assert!(verify_inclusion(&[7; 32], index, size, &proof, &root).is_err());
        }
        for old in [0, 1, size / 2, size.saturating_sub(1), size] {
            let old_root = root_of(&tree.leaves[..old as usize]);
            let proof = consistency_proof(&tree.tiles, old, size).unwrap();
            verify_consistency(old, &old_root, size, &root, &proof).unwrap();
            if old > 0 {
                assert!(verify_consistency(old, &[7; 32], size, &root, &proof).is_err(), "{old} {size}");
            }
        }
    }
}

#[test]
fn an_edge_is_loaded_from_its_tiles_and_only_with_its_root() {
    for size in [0, 1, 256, 257, 700, 65_536, 65_792] {
        let tree = tree(size);
        let root = tree.edge.root();
        let loaded = Edge::load(size, &root, |tile| tree.tiles.get(&tile).cloned()).unwrap();
        assert_eq!(loaded.root(), root);
        assert!(Edge::load(size, &[1; 32], |tile| tree.tiles.get(&tile).cloned()).is_err());
    }
}

#[test]
fn tile_paths_have_one_form() {
    for (text, level, index, width) in [
        ("0/000", Some(0), 0, 256),
        ("0/x001/x234/067", Some(0), 1_234_067, 256),
        ("1/x001/000.p/8", Some(1), 1_000, 8),
        ("entries/123.p/255", None, 123, 255),
        ("63/999", Some(63), 999, 256),
    ] {
        let path = TilePath { level, index, width };
        assert_eq!(TilePath::parse(text), Some(path), "{text}");
        assert_eq!(path.to_string(), text);
    }
    for bad in [
        "",
        "0",
        "0/",
        "0/0",
        "0/0000",
        "00/000",
        "64/000",
        "x/000",
        "0/x000/000",
        "0/001/000",
        "0/x001",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/01",
        "0/000.p/",
        "entries",
        "entries/",
        "-1/000",
        "+1/000",
        "0/x999/x999/x999/x999/x999/x999/x999/999",
        "0/00a",
        "0/000/",
        "0/x00é/000",
    ] {
        assert_eq!(TilePath::parse(bad), None, "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn batches_of_any_size_make_the_same_tree(batches in prop::collection::vec(0u64..700, 1..6)) {
        let mut grown = tree(0);
        for batch in &batches {
            grow(&mut grown, *batch);
        }
        let at_once = tree(batches.iter().sum());
        prop_assert_eq!(grown.edge.root(), at_once.edge.root());
        prop_assert_eq!(grown.edge.root(), root_of(&at_once.leaves));
        prop_assert_eq!(grown.tiles, at_once.tiles);
    }

    #[test]
    fn proofs_hold_and_changed_ones_do_not(size in 1u64..900, at in 0.0..1.0f64, old in 0.0..1.0f64, flip in 0usize..32) {
        let tree = tree(size);
        let root = tree.edge.root();
        let index = ((size as f64 * at) as u64).min(size - 1);
        let mut proof = inclusion_proof(&tree.tiles, index, size).unwrap();
        let leaf = tree.leaves[index as usize];
        prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
        if let Some(last) = proof.last_mut() {
            last[flip] ^= 1;
            prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Err(ProofError::Root));
            proof.pop();
            prop_assert!(verify_inclusion(&leaf, index, size, &proof, &root).is_err());
        }
        let old = (size as f64 * old) as u64;
        let old_root = root_of(&tree.leaves[..old as usize]);
        let mut proof = consistency_proof(&tree.tiles, old, size).unwrap();
        prop_assert_eq!(verify_consistency(old, &old_root, size, &root, &proof), Ok(()));
        if let Some(first) = proof.first_mut() {
            first[flip] ^= 1;
            prop_assert!(verify_consistency(old, &old_root, size, &root, &proof).is_err());
        }
    }
}
