//! Invites that are accepted, and those that were altered.

use std::time::Duration;

use rcgen::KeyPair;

use super::*;
use crate::{
    ca::{Authority, subject_key},
    store::DataDir,
};

const NOW: i64 = 1_800_000_000;

struct Domain {
    authority: Authority,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

fn domain(name: &str, signer: &str) -> Domain {
    let dir = tempfile::tempdir().unwrap();
    let dir = DataDir::open(dir.path()).unwrap();
    let authority = Authority::open(&dir, name.parse().unwrap(), Duration::from_secs(3600), NOW).unwrap();
    let key = KeyPair::generate().unwrap();
    let id: SpiffeId = format!("spiffe://{name}{signer}").parse().unwrap();
    let minted = authority.sign(&id, &subject_key(&key).unwrap(), Duration::from_secs(600), NOW).unwrap();
    Domain { authority, chain: minted.chain, key: key.serialize_der() }
}

fn east() -> Domain {
    domain("east.bank.example", "/signet/identity")
}

fn invite(domain: &Domain) -> Invite {
    let trust_domain = domain.authority.trust_domain().clone();
    Invite {
        bundle_endpoint_url: "https://127.0.0.1:8443/".parse().unwrap(),
        bundle_endpoint_spiffe_id: SpiffeId::component(&trust_domain, "identity").unwrap(),
        bundle: TrustBundle {
            trust_domain: trust_domain.clone(),
            authorities: domain.authority.roots(),
            sequence: 3,
            refresh_hint: 300,
        },
        trust_domain,
        gateway: "127.0.0.1:9000".into(),
        control: "127.0.0.1:9001".into(),
        issued_at: NOW,
        expires_at: NOW + 86_400,
        nonce: "0123".into(),
    }
}

fn refused(text: &str, expected: &str) {
    let error = parse(text, NOW + 5).unwrap_err().to_string();
    assert!(error.contains(expected), "`{error}` should contain `{expected}`");
}

/// The same envelope with another payload.
fn with_payload(text: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let (envelope, payload) = open(text).unwrap();
    let mut payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    change(&mut payload);
    let chain = decode_all("chain", &envelope.chain).unwrap();
    let signature = STANDARD.decode(&envelope.signature).unwrap();
    seal(&serde_json::to_vec(&payload).unwrap(), &signature, &chain).unwrap()
}

/// Signs any payload, as somebody who holds a key but means no good would.
fn forged(domain: &Domain, invite: &Invite, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let honest = east();
    let template = super::tests::invite(&honest).sign(&honest.chain, &honest.key).unwrap();
    let (_, payload) = open(&template).unwrap();
    let mut payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    payload["trust_domain"] = invite.trust_domain.to_string().into();
    payload["bundle_endpoint_spiffe_id"] = invite.bundle_endpoint_spiffe_id.to_string().into();
    payload["bundle"]["x509_authorities"] =
        invite.bundle.authorities.iter().map(|a| STANDARD.encode(a)).collect::<Vec<_>>().into();
    change(&mut payload);
    let payload = serde_json::to_vec(&payload).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &domain.key).unwrap();
    let signature = key.sign(&SystemRandom::new(), &[CONTEXT, &payload].concat()).unwrap();
    seal(&payload, signature.as_ref(), &domain.chain).unwrap()
}

#[test]
fn an_invite_reads_back_as_it_was_signed() {
    let east = east();
    let invite = invite(&east);
    let text = invite.sign(&east.chain, &east.key).unwrap();
    assert_eq!(parse(&text, NOW + 5).unwrap(), invite);
    // Beyond the life of the SVID that signed it, within its own.
    assert_eq!(parse(&text, NOW + 80_000).unwrap(), invite);
    let mailed = format!("Hello,\r\n\r\n{}\r\nYours\r\n", text.replace('\n', "\r\n"));
    assert_eq!(parse(&mailed, NOW + 5).unwrap(), invite);
}

#[test]
fn the_fingerprint_is_of_the_payload_in_groups() {
    let east = east();
    let text = invite(&east).sign(&east.chain, &east.key).unwrap();
    let shown = fingerprint(&text).unwrap();
    assert_eq!(shown.split(' ').count(), 16);
    let altered = with_payload(&text, |payload| payload["gateway"] = "127.0.0.1:1".into());
    assert_ne!(fingerprint(&altered).unwrap(), shown);
}

#[test]
fn tampering_with_any_field_is_refused() {
    let (east, other) = (east(), east());
    let text = invite(&east).sign(&east.chain, &east.key).unwrap();
    let check = |path: &str, value: serde_json::Value, expected: &str| {
        let altered = with_payload(&text, |payload| *payload.pointer_mut(path).unwrap() = value);
        let error = parse(&altered, NOW + 5).unwrap_err().to_string();
        assert!(error.contains(expected), "{path}: `{error}` should contain `{expected}`");
    };
    let other_root = STANDARD.encode(&other.authority.roots()[0]);
    check("/version", 2.into(), "`version`");
    check("/trust_domain", "north.bank.example".into(), "`bundle_endpoint_spiffe_id`");
    check("/bundle_endpoint_url", "https://127.0.0.1:1/".into(), "`signature`");
    check("/bundle_endpoint_url", "http://127.0.0.1:1/".into(), "`bundle_endpoint_url`");
    check("/bundle_endpoint_spiffe_id", "spiffe://east.bank.example/ns/x/sa/y".into(), "`signature`");
    check("/bundle_endpoint_spiffe_id", "spiffe://west.bank.example/signet/identity".into(), "not of trust domain");
    check("/bundle/x509_authorities/0", other_root.into(), "`chain`");
    check("/bundle/sequence", 9.into(), "`signature`");
    check("/bundle/refresh_hint_seconds", 1.into(), "`signature`");
    check("/gateway", "127.0.0.1:1".into(), "`signature`");
    check("/gateway", "nowhere".into(), "`gateway`");
    check("/control", "127.0.0.1:1".into(), "`signature`");
    check("/issued_at", (NOW + 1).into(), "`signature`");
    check("/expires_at", (NOW + 90_000).into(), "`signature`");
    check("/nonce", "9".into(), "`signature`");
    let (envelope, payload) = open(&text).unwrap();
    let chain = decode_all("chain", &envelope.chain).unwrap();
    let signature = STANDARD.decode(&envelope.signature).unwrap();
    refused(&seal(&payload, &signature, &other.chain).unwrap(), "`chain`");
    refused(&seal(&payload, &signature, &[]).unwrap(), "`chain`");
    refused(&seal(&payload, &[], &chain).unwrap(), "`signature`");
    let extra = with_payload(&text, |payload| payload["more"] = 1.into());
    refused(&extra, "more");
}

#[test]
fn an_expired_or_future_invite_is_refused() {
    let east = east();
    let text = invite(&east).sign(&east.chain, &east.key).unwrap();
    let error = parse(&text, NOW + 86_400).unwrap_err().to_string();
    assert!(error.contains("`expires_at`") && error.contains("fresh invite"), "{error}");
    let error = parse(&text, NOW - 1000).unwrap_err().to_string();
    assert!(error.contains("`issued_at`"), "{error}");
    let mut long = invite(&east);
    long.expires_at = NOW + i64::from(MAX_LIFE) + 1;
    assert!(long.sign(&east.chain, &east.key).is_err());
}

#[test]
fn only_the_trust_domains_own_identity_server_can_sign() {
    let (east, west) = (east(), domain("west.bank.example", "/signet/identity"));
    // West's key and chain under east's name, with either bundle.
    refused(&forged(&west, &invite(&east), |_| {}), "not of trust domain `east.bank.example`");
    let west_root = STANDARD.encode(&west.authority.roots()[0]);
    let mixed = forged(&west, &invite(&east), |payload| payload["bundle"]["x509_authorities"][0] = west_root.into());
    refused(&mixed, "`bundle.x509_authorities[0]`: belongs to another trust domain");
    let workload = domain("east.bank.example", "/ns/bank/sa/web");
    refused(&forged(&workload, &invite(&workload), |_| {}), "not by an identity server");
    // A root made elsewhere under the same name does not help: the chain must lead to the bundle inside.
    let impostor = super::tests::east();
    refused(&forged(&impostor, &invite(&east), |_| {}), "judged against the bundle");
}

#[test]
fn damaged_armour_names_its_line() {
    let east = east();
    let text = invite(&east).sign(&east.chain, &east.key).unwrap();
    refused("", "line 1: no `-----BEGIN");
    refused("hello", "line 1: no `-----BEGIN");
    let lines: Vec<&str> = text.lines().collect();
    refused(&lines[..lines.len() - 1].join("\n"), "no `-----END");
    let mut holed = lines.clone();
    holed[3] = "what is this?";
    refused(&holed.join("\n"), "line 4");
    let mut short = lines.clone();
    short.remove(2);
    assert!(parse(&short.join("\n"), NOW).is_err());
    refused(&format!("{BEGIN}\n{}\n{END}", STANDARD.encode("{\"payload\": 1}")), "`envelope`");
    refused(&"x".repeat(MAX_TEXT + 1), "longer than");
}

mod proptests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reading_never_panics(text in "(.|\n){0,200}") {
            let _ = super::parse(&text, super::NOW);
            let armoured = format!("{}\n{text}\n{}", super::BEGIN, super::END);
            let _ = super::parse(&armoured, super::NOW);
        }
    }
}
