//! Relationships as they are stored, refreshed and refused.

use std::time::Duration;

use rcgen::KeyPair;

use super::*;
use crate::{
    ca::{Authority, subject_key},
    store::DataDir,
};

const NOW: i64 = 1_800_000_000;

/// A partner's authority and an invite of it.
fn invite_of(name: &str, sequence: u64) -> (String, TrustBundle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = DataDir::open(dir.path()).unwrap();
    let trust_domain: TrustDomain = name.parse().unwrap();
    let authority = Authority::open(&dir, trust_domain.clone(), Duration::from_secs(3600), NOW).unwrap();
    let key = KeyPair::generate().unwrap();
    let id = SpiffeId::component(&trust_domain, "identity").unwrap();
    let minted = authority.sign(&id, &subject_key(&key).unwrap(), Duration::from_secs(600), NOW).unwrap();
    let bundle = TrustBundle { trust_domain, authorities: authority.roots(), sequence, refresh_hint: 5 };
    let invite = Invite {
        trust_domain: bundle.trust_domain.clone(),
        bundle_endpoint_url: "https://127.0.0.1:8443/".parse().unwrap(),
        bundle_endpoint_spiffe_id: id,
        bundle: bundle.clone(),
        gateway: "127.0.0.1:9000".into(),
        control: String::new(),
        issued_at: NOW,
        expires_at: NOW + 600,
        nonce: "n".into(),
    };
    (invite.sign(&minted.chain, &key.serialize_der()).unwrap(), bundle)
}

fn east(dir: &std::path::Path) -> Federation {
    Federation::open("east.bank.example".parse().unwrap(), dir.join("federation.json")).unwrap()
}

#[test]
fn an_accepted_invite_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (text, bundle) = invite_of("west.bank.example", 4);
    let federation = east(dir.path());
    let accepted = federation.accept(&text, NOW).unwrap();
    assert_eq!((accepted.bundle.clone(), accepted.gateway.as_str()), (bundle.clone(), "127.0.0.1:9000"));
    assert_eq!(accepted.fingerprint, invite::fingerprint(&text).unwrap());
    federation.accept(&text, NOW + 1).unwrap();
    let reopened = east(dir.path());
    assert_eq!(reopened.current().get(&bundle.trust_domain).unwrap().bundle, bundle);
}

#[test]
fn the_own_trust_domains_invite_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = invite_of("east.bank.example", 4);
    let error = east(dir.path()).accept(&text, NOW).unwrap_err().to_string();
    assert!(error.contains("`trust_domain`") && error.contains("other cluster"), "{error}");
    assert!(!dir.path().join("federation.json").exists());
}

#[test]
fn a_refresh_never_goes_back_and_never_changes_keys_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let (text, bundle) = invite_of("west.bank.example", 4);
    let (_, other) = invite_of("west.bank.example", 4);
    let federation = east(dir.path());
    federation.accept(&text, NOW).unwrap();
    let td = bundle.trust_domain.clone();
    let seen = || federation.current().get(&td).unwrap().clone();

    let older = TrustBundle { sequence: 3, ..bundle.clone() };
    let error = federation.refreshed(&td, Ok(older), NOW + 1).unwrap_err();
    assert!(error.contains("went back from 4 to 3"), "{error}");
    let swapped = federation.refreshed(&td, Ok(other.clone()), NOW + 2).unwrap_err();
    assert!(swapped.contains("without a new `spiffe_sequence`"), "{swapped}");
    assert_eq!((seen().bundle, seen().last_refresh, seen().last_error), (bundle.clone(), 0, swapped));

    let rotated = TrustBundle { sequence: 5, ..other };
    federation.refreshed(&td, Ok(rotated.clone()), NOW + 3).unwrap();
    assert_eq!((seen().bundle, seen().last_refresh, seen().last_error), (rotated, NOW + 3, String::new()));
    let stale = federation.accept(&text, NOW + 4).unwrap_err().to_string();
    assert!(stale.contains("`bundle.sequence`") && stale.contains("stale"), "{stale}");
    assert_eq!(east(dir.path()).current().get(&td).unwrap().bundle.sequence, 5, "on disk");
}

#[test]
fn a_failed_poll_shows_and_changes_no_key_and_empty_keys_distrust() {
    let dir = tempfile::tempdir().unwrap();
    let (text, bundle) = invite_of("west.bank.example", 4);
    let federation = east(dir.path());
    federation.accept(&text, NOW).unwrap();
    let td = bundle.trust_domain.clone();
    let _ = federation.refreshed(&td, Err("connection refused".into()), NOW + 1);
    let seen = federation.current().get(&td).unwrap().clone();
    assert_eq!((seen.bundle, seen.last_error.as_str()), (bundle.clone(), "connection refused"));
    let empty = TrustBundle { authorities: Vec::new(), sequence: 6, ..bundle };
    federation.refreshed(&td, Ok(empty), NOW + 2).unwrap();
    assert!(federation.current().get(&td).unwrap().bundle.authorities.is_empty());
}

#[test]
fn an_ended_relationship_is_gone_for_watchers_on_disk_and_for_a_poll_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let (text, bundle) = invite_of("west.bank.example", 4);
    let federation = east(dir.path());
    federation.accept(&text, NOW).unwrap();
    let mut watch = federation.watch();
    watch.mark_unchanged();
    let td = bundle.trust_domain.clone();
    assert_eq!(federation.unlink(&td).unwrap().map(|ended| ended.bundle), Some(bundle.clone()));
    assert!(watch.has_changed().unwrap() && watch.borrow_and_update().is_empty());
    assert!(east(dir.path()).current().is_empty(), "on disk");
    federation.refreshed(&td, Ok(TrustBundle { sequence: 5, ..bundle }), NOW + 1).unwrap();
    assert!(federation.current().is_empty(), "a late answer brings nothing back");
    assert!(federation.unlink(&td).unwrap().is_none());
}
