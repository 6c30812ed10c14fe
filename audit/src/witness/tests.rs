//! What a witness signs and what it refuses, over trees made by hand.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::merkle::{TileId, consistency_proof, leaf_hash, root_of};
use crate::note::{CosignerVerifier, LogKey};

const LOG: &str = "east.bank.example/signet-log";

fn log_key() -> LogKey {
    LogKey::from_seed(LOG, &[7; 32]).unwrap()
}

fn cosigner() -> CosignerKey {
    CosignerKey::from_seed("west.bank.example/signet-witness", &[1; 32]).unwrap()
}

fn witness(directory: &Path) -> Witness {
    Witness::open(cosigner(), directory, vec![log_key().verifier_key().parse().unwrap()]).unwrap()
}

/// Leaves of a log; another `history` has other leaves from the third on.
fn leaves(size: u64, history: &str) -> Vec<Hash> {
    (0..size).map(|n| leaf_hash(if n < 2 { format!("{n}") } else { format!("{n} {history}") }.as_bytes())).collect()
}

/// A request to move on from `old` to `size`.
fn request(old: u64, size: u64, history: &str) -> String {
    let leaves = leaves(size, history);
    let tiles = BTreeMap::from([(TileId { level: 0, index: 0 }, leaves.clone())]);
    let proof: String = consistency_proof(&tiles, old, size)
        .unwrap()
        .iter()
        .map(|hash| format!("{}\n", STANDARD.encode(hash)))
        .collect();
    format!("old {old}\n{proof}\n{}", log_key().sign_checkpoint(size, &root_of(&leaves)))
}

#[test]
fn what_grows_is_cosigned_and_remembered_across_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let verifier: CosignerVerifier = cosigner().verifier_key().parse().unwrap();
    for (old, size) in [(0, 0), (0, 3), (3, 3), (3, 7), (7, 200)] {
        // Each time as after a restart.
        let witness = witness(directory.path());
        let request = request(old, size, "true");
        let line = witness.add(&request, 1_000 + size).unwrap();
        let (_, note) = request.split_once("\n\n").unwrap();
        let (text, _) = split_note(note).unwrap();
        assert_eq!(verifier.find(text, &line), Some((line.clone(), 1_000 + size)), "{old} to {size}");
        assert_eq!(witness.last(&name_digest(LOG)).unwrap(), note);
    }
    assert!(matches!(witness(directory.path()).add(&request(3, 9, "true"), 0), Err(Refusal::Conflict(200))));
}

#[test]
fn another_history_is_never_cosigned() {
    let directory = tempfile::tempdir().unwrap();
    let witness = witness(directory.path());
    witness.add(&request(0, 5, "true"), 0).unwrap();
    // The same size, a larger one with a proof of its own history, with a proof left out, back to the beginning, smaller.
    assert!(matches!(witness.add(&request(5, 5, "forged"), 0), Err(Refusal::Conflict(5))));
    assert!(matches!(witness.add(&request(5, 9, "forged"), 0), Err(Refusal::Inconsistent)));
    let unproven = format!("old 5\n\n{}", request(5, 9, "true").split_once("\n\n").unwrap().1);
    assert!(matches!(witness.add(&unproven, 0), Err(Refusal::Inconsistent)));
    assert!(matches!(witness.add(&request(0, 9, "forged"), 0), Err(Refusal::Conflict(5))));
    assert!(matches!(witness.add(&request(2, 4, "true"), 0), Err(Refusal::Conflict(5))));
    assert!(matches!(witness.add(&request(5, 4, "true"), 0), Err(Refusal::Malformed(_))));
    // The truth still goes on.
    witness.add(&request(5, 9, "true"), 0).unwrap();
}

#[test]
fn strangers_and_nonsense_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let witness = witness(directory.path());
    let good = request(0, 5, "true");
    let other = LogKey::from_seed(LOG, &[8; 32]).unwrap();
    let foreign = LogKey::from_seed("north.bank.example/signet-log", &[7; 32]).unwrap();
    let root = root_of(&leaves(5, "true"));
    assert!(matches!(witness.add(&format!("old 0\n\n{}", other.sign_checkpoint(5, &root)), 0), Err(Refusal::Unsigned)));
    assert!(matches!(
        witness.add(&format!("old 0\n\n{}", foreign.sign_checkpoint(5, &root)), 0),
        Err(Refusal::UnknownLog)
    ));
    assert!(matches!(witness.add(&good.replace("\n5\n", "\n6\n"), 0), Err(Refusal::Unsigned)));
    for bad in [
        "",
        "old 0",
        "old\n\nx",
        &good.replacen("old 0", "old -1", 1),
        &good.replacen("old 0", "old 00", 1),
        &good.replacen("old 0\n", "old 0\nAAAA\n", 1),
        &good.replacen("old 0\n", &format!("old 0\n{}", format!("{}\n", STANDARD.encode(root)).repeat(64)), 1),
    ] {
        assert!(matches!(witness.add(bad, 0), Err(Refusal::Malformed(_) | Refusal::Unsigned)), "{bad}");
    }
    assert_eq!(witness.last(&name_digest(LOG)), None);
    assert_eq!(witness.last("x"), None);
}

#[test]
fn a_changed_memory_stops_the_witness() {
    let directory = tempfile::tempdir().unwrap();
    witness(directory.path()).add(&request(0, 5, "true"), 0).unwrap();
    let file = directory.path().join(format!("{}.checkpoint", name_digest(LOG)));
    let changed = std::fs::read_to_string(&file).unwrap().replace("\n5\n", "\n4\n");
    std::fs::write(&file, changed).unwrap();
    let key = || log_key().verifier_key().parse().unwrap();
    assert!(matches!(Witness::open(cosigner(), directory.path(), vec![key()]), Err(WitnessError::State { .. })));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(Witness::open(cosigner(), directory.path(), vec![key(), key()]), Err(WitnessError::Twice(_))));
}

proptest! {
    #[test]
    fn any_text_is_answered(head in "(old [0-9]{0,20}\n)?([A-Za-z0-9+/=]{0,48}\n){0,3}", rest in "\\PC{0,200}") {
        let directory = tempfile::tempdir().unwrap();
        let witness = witness(directory.path());
        for request in [format!("{head}\n{rest}"), format!("{head}\n{LOG}\n{rest}\n\n{rest}")] {
            prop_assert!(witness.add(&request, 0).is_err());
        }
    }
}
