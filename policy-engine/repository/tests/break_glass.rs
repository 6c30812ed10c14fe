//! Grants signed with the real `ssh-keygen`: which are taken, and every way to get one taken that must not be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::process::Command;

use signet_policy_repository::{AcceptedGrant, BREAK_GLASS_NAMESPACE, GrantDocument, GrantRules, TrustedSigners};
use support::Git;

/// 2026-12-01T12:00:00Z.
const NOW: i64 = 1_796_126_400;

fn document() -> GrantDocument {
    let one = |name: &str| [name.to_owned()].into();
    let mut document = GrantDocument::new("g-1", "a.b", one("spiffe://a.b/ns/ops/sa/console"), one("a.b/bank/ledger"));
    document.ticket = "INC-4711".to_owned();
    document.reason = "entries were lost".to_owned();
    document.issued_at = "2026-12-01T12:00:00Z".parse().unwrap();
    document.until = "2026-12-01T13:00:00Z".parse().unwrap();
    document
}

fn text(change: impl FnOnce(&mut GrantDocument)) -> String {
    let mut document = document();
    change(&mut document);
    serde_json::to_string_pretty(&document).unwrap()
}

fn sign(git: &Git, who: &str, namespace: &str, text: &str) -> String {
    let file = git.root.join("grant.json");
    std::fs::write(&file, text).unwrap();
    let signature = git.root.join("grant.json.sig");
    let _ = std::fs::remove_file(&signature);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(git.key(who)).arg(&file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(signature).unwrap()
}

/// `Ok` with the approvers, or the refusal's code.
fn judge(signers: &TrustedSigners, people: u32, text: &str, signatures: &[String], now: i64) -> Result<String, String> {
    let rules = GrantRules { trust_domain: "a.b", signers, signatures: people, max_minutes: 120 };
    AcceptedGrant::judge(text, signatures, &rules, now)
        .map(|grant| grant.approvers.into_iter().collect::<Vec<_>>().join(","))
        .map_err(|refusal| refusal.code.to_owned())
}

#[test]
fn a_grant_holds_with_the_signatures_of_enough_people_until_its_end() {
    let git = Git::new();
    let signers = git.signers("");
    let grant = text(|_| ());
    let [alice, bob] = ["alice", "bob"].map(|who| sign(&git, who, BREAK_GLASS_NAMESPACE, &grant));
    let ask = |people, signatures: &[&String], now| {
        let signatures: Vec<String> = signatures.iter().map(|s| (*s).clone()).collect();
        judge(&signers, people, &grant, &signatures, now)
    };
    let refused = |code: &str| Err(code.to_owned());
    assert_eq!(ask(1, &[&alice], NOW), Ok("alice@bank.example".to_owned()));
    assert_eq!(ask(2, &[&alice, &bob], NOW), Ok("alice@bank.example,bob@bank.example".to_owned()));
    assert_eq!(ask(2, &[&alice], NOW), refused("too_few_signatures"));
    assert_eq!(ask(2, &[&alice, &alice], NOW), refused("too_few_signatures"));
    assert_eq!(ask(0, &[], NOW), refused("too_few_signatures"), "nothing is granted without a signature");
    assert_eq!(ask(1, &[&alice], NOW + 3_599), Ok("alice@bank.example".to_owned()));
    assert_eq!(ask(1, &[&alice], NOW + 3_600), refused("over"));
    assert_eq!(ask(1, &[&alice], NOW - 60), Ok("alice@bank.example".to_owned()));
    assert_eq!(ask(1, &[&alice], NOW - 61), refused("not_yet"));
}

#[test]
fn one_person_with_two_keys_or_two_addresses_counts_once() {
    let git = Git::new();
    let public = |who: &str| std::fs::read_to_string(git.key(who).with_extension("pub")).unwrap();
    let grant = text(|_| ());
    let signatures = ["alice", "bob"].map(|who| sign(&git, who, BREAK_GLASS_NAMESPACE, &grant));
    for lines in [
        format!("eve@b.c {}eve@b.c {}", public("alice"), public("bob")),
        format!("eve@b.c,e@b.c {}e@b.c {}", public("alice"), public("bob")),
    ] {
        let signers = TrustedSigners::parse(&lines).unwrap();
        let answer = judge(&signers, 2, &grant, &signatures, NOW);
        assert_eq!(answer, Err("too_few_signatures".to_owned()), "{lines}");
    }
}

#[test]
fn signatures_that_are_not_good_are_refused_whatever_else_is_there() {
    let git = Git::new();
    let grant = text(|_| ());
    let alice = sign(&git, "alice", BREAK_GLASS_NAMESPACE, &grant);
    let elsewhere = text(|d| d.services = ["a.b/bank/payments".to_owned()].into());
    let longer = text(|d| d.until = "2026-12-01T14:00:00Z".parse().unwrap());
    let other = text(|d| d.trust_domain = "c.d".to_owned()).replace("a.b/bank", "c.d/bank");
    let table = [
        ("changed scope", elsewhere, alice.clone(), "", "bad_signature"),
        ("changed end", longer, alice.clone(), "", "bad_signature"),
        ("a space more", format!("{grant} "), alice.clone(), "", "bad_signature"),
        ("of a commit", grant.clone(), sign(&git, "alice", "git", &grant), "", "bad_signature"),
        ("a stranger's", grant.clone(), sign(&git, "mallory", BREAK_GLASS_NAMESPACE, &grant), "", "untrusted_signer"),
        ("a key for commits alone", grant.clone(), alice.clone(), "namespaces=\"git\"", "untrusted_signer"),
        ("a key that ended", grant.clone(), alice.clone(), "valid-before=\"20261201Z\"", "signer_expired"),
        ("none", grant.clone(), "nonsense".to_owned(), "", "unsupported_signature"),
        ("too long a text", grant.clone(), "x".repeat(9_000), "", "malformed"),
        (
            "of another trust domain",
            other.clone(),
            sign(&git, "alice", BREAK_GLASS_NAMESPACE, &other),
            "",
            "other_trust_domain",
        ),
    ];
    for (what, text, signature, options, code) in table {
        let signers = git.signers(options);
        assert_eq!(judge(&signers, 1, &text, std::slice::from_ref(&signature), NOW), Err(code.to_owned()), "{what}");
        // A good one beside it changes nothing.
        if text == grant && options.is_empty() {
            assert_eq!(judge(&signers, 1, &text, &[alice.clone(), signature], NOW), Err(code.to_owned()), "{what}");
        }
    }
    assert_eq!(judge(&git.signers(""), 1, &grant, &vec![alice; 9], NOW), Err("malformed".to_owned()));
}

#[test]
fn grants_that_are_too_long_or_too_wide_are_refused() {
    let git = Git::new();
    let signers = git.signers("");
    let table: [(&str, String, &str); 11] = [
        ("longer", text(|d| d.until = "2026-12-01T14:00:01Z".parse().unwrap()), "too_long"),
        ("issued long ago", text(|d| d.issued_at = "2026-12-01T10:59:59Z".parse().unwrap()), "too_long"),
        ("every caller", text(|d| d.principals = ["*".to_owned()].into()), "malformed"),
        ("no caller", text(|d| d.principals.clear()), "malformed"),
        ("every service", text(|d| d.services = ["*".to_owned()].into()), "malformed"),
        ("another's service", text(|d| d.services = ["c.d/bank/ledger".to_owned()].into()), "malformed"),
        ("many", text(|d| d.services = (0..33).map(|n| format!("a.b/bank/s{n}")).collect()), "malformed"),
        ("no ticket", text(|d| d.ticket = " ".to_owned()), "malformed"),
        ("two lines", text(|d| d.reason = "a\nb".to_owned()), "malformed"),
        ("another version", text(|d| d.version = 2), "malformed"),
        ("more than is known", text(|_| ()).replace("\"version\"", "\"everything\": true, \"version\""), "malformed"),
    ];
    for (what, text, code) in table {
        let signature = sign(&git, "alice", BREAK_GLASS_NAMESPACE, &text);
        assert_eq!(judge(&signers, 1, &text, &[signature], NOW), Err(code.to_owned()), "{what}");
    }
    let huge = text(|d| d.reason = "x".repeat(20_000));
    assert_eq!(judge(&signers, 1, &huge, &[], NOW), Err("malformed".to_owned()));
}
