//! The authority: what it signs, when it rotates, which roots it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

const NOW: i64 = 1_800_000_000;

fn td() -> TrustDomain {
    "east.bank.example".parse().unwrap()
}

fn open(dir: &std::path::Path, life: u64, now: i64) -> Result<Authority, CaError> {
    Authority::open(&DataDir::open(dir).unwrap(), td(), Duration::from_secs(life), now)
}

fn sign(authority: &Authority, life: u64, now: i64) -> Minted {
    let key = KeyPair::generate().unwrap();
    let id: SpiffeId = "spiffe://east.bank.example/ns/bank/sa/web".parse().unwrap();
    authority.sign(&id, &subject_key(&key).unwrap(), Duration::from_secs(life), now).unwrap()
}

#[test]
fn a_leaf_says_what_the_x509_svid_standard_asks() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), 86_400, NOW).unwrap();
    let minted = sign(&authority, 3600, NOW);
    let (_, leaf) = X509Certificate::from_der(&minted.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "an empty subject makes the SAN critical");
    assert_eq!(san.value.general_names, vec![GeneralName::URI("spiffe://east.bank.example/ns/bank/sa/web")]);
    assert!(!leaf.basic_constraints().unwrap().expect("explicit").value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    let has = |wanted: fn(&ParsedExtension<'_>) -> bool| leaf.extensions().iter().any(|e| wanted(e.parsed_extension()));
    assert!(has(|e| matches!(e, ParsedExtension::SubjectKeyIdentifier(_))));
    assert!(has(|e| matches!(e, ParsedExtension::AuthorityKeyIdentifier(_))));
    assert_eq!((minted.not_before, minted.not_after), (NOW - 30, NOW + 3600));
}

#[test]
fn chains_verify_up_to_the_root_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), 60, NOW).unwrap();
    let minted = sign(&authority, 20, NOW);
    crate::chain::verify(&minted.chain, &td(), &authority.roots(), NOW).unwrap();
    assert!(crate::chain::verify(&minted.chain, &td(), &authority.roots(), NOW + 25).is_err(), "expired");
    let other_dir = tempfile::tempdir().unwrap();
    let other = open(other_dir.path(), 60, NOW).unwrap();
    assert!(crate::chain::verify(&minted.chain, &td(), &other.roots(), NOW).is_err(), "another root");
}

#[test]
fn no_leaf_outlives_its_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), 60, NOW).unwrap();
    let minted = sign(&authority, 3600, NOW + 10);
    assert_eq!(minted.not_after, NOW + 60);
}

#[test]
fn the_intermediate_rotates_by_itself_before_half_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), 60, NOW).unwrap();
    assert_eq!(authority.rotation_due(), NOW + 24);
    assert_eq!(authority.rotate_if_due(NOW + 23).unwrap(), None);
    let before = sign(&authority, 20, NOW + 23);
    let rotated = authority.rotate_if_due(NOW + 24).unwrap().expect("due");
    assert_eq!(rotated.not_after, NOW + 84);
    let after = sign(&authority, 20, NOW + 24);
    assert_ne!(before.chain[1], after.chain[1]);
    for minted in [before, after] {
        crate::chain::verify(&minted.chain, &td(), &authority.roots(), NOW + 30).unwrap();
    }
    assert_eq!(authority.roots().len(), 1, "the root stays");
    // Asleep past the end of the intermediate, the next signature still has a live issuer.
    let late = sign(&authority, 20, NOW + 10_000);
    crate::chain::verify(&late.chain, &td(), &authority.roots(), NOW + 10_001).unwrap();
}

#[test]
fn the_root_survives_a_restart_and_its_key_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 60, NOW).unwrap().roots();
    let second = open(dir.path(), 60, NOW + 5).unwrap();
    assert_eq!(first, second.roots());
    let mode = std::fs::metadata(dir.path().join(ROOT_KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    crate::chain::verify(&sign(&second, 20, NOW + 5).chain, &td(), &first, NOW + 6).unwrap();
}

#[test]
fn a_damaged_root_is_refused_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 60, NOW).unwrap();
    let key = std::fs::read(dir.path().join(ROOT_KEY_FILE)).unwrap();
    let refused = |what: &str| {
        let error = open(dir.path(), 60, NOW).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    std::fs::write(dir.path().join(ROOT_KEY_FILE), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    refused("another key");
    std::fs::remove_file(dir.path().join(ROOT_KEY_FILE)).unwrap();
    refused("missing");
    std::fs::write(dir.path().join(ROOT_KEY_FILE), key).unwrap();
    let held = DataDir::open(dir.path()).unwrap();
    let other = Authority::open(&held, "west.bank.example".parse().unwrap(), Duration::from_secs(60), NOW);
    assert!(other.unwrap_err().to_string().contains("another trust domain"));
    let late = Authority::open(&held, td(), Duration::from_secs(60), NOW + ROOT_LIFE);
    assert!(late.unwrap_err().to_string().contains("expired"));
}

#[test]
fn signs_nothing_for_another_trust_domain() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path(), 60, NOW).unwrap();
    let key = KeyPair::generate().unwrap();
    let id: SpiffeId = "spiffe://west.bank.example/ns/bank/sa/web".parse().unwrap();
    let refused = authority.sign(&id, &subject_key(&key).unwrap(), Duration::from_secs(60), NOW);
    assert!(matches!(refused, Err(CaError::ForeignId(_))));
}
