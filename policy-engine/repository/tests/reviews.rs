//! Changes that need an owner's or several people's signatures, in real Git repositories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use signet_policy_repository::ReviewRules;
use support::Git;

const TWO: &str = "rules:\n  - paths: [policies/pay/, signet.yaml]\n    signatures: 2\n";
const BOBS: &str = "rules:\n  - paths: [policies/pay/]\n    owners: [bob@bank.example]\n";
const PAY: &str = "@id(\"pay\")\n@owner(\"o\")\npermit(principal in Mesh::Namespace::\"a.b/pay\", action, resource);\n";

fn judge(git: &Git, last: Option<&str>, rules: &str) -> Result<String, (String, String)> {
    let rules = ReviewRules::parse(rules).unwrap();
    let accepted = git.open().accept(last, &git.signers(""), &rules);
    accepted.map(|source| source.signer).map_err(|refusal| (refusal.reason_code, refusal.message))
}

/// A repository with an accepted head, and its id.
fn begun() -> (Git, String) {
    let git = Git::new();
    let first = git.commit("alice", Some("alice"));
    (git, first)
}

#[test]
fn a_second_person_approves_by_a_commit_without_a_change() {
    let (git, first) = begun();
    git.write("policies/pay/a.cedar", PAY);
    git.commit("alice", Some("alice"));
    let (code, message) = judge(&git, Some(&first), TWO).unwrap_err();
    assert_eq!(code, "needs_signatures");
    assert!(
        message.starts_with("`policies/pay/a.cedar` changed") && message.contains("<alice@bank.example>"),
        "{message}"
    );
    // The same person twice is one person.
    git.commit("alice", Some("alice"));
    assert_eq!(judge(&git, Some(&first), TWO).unwrap_err().0, "needs_signatures");
    git.commit("bob", Some("bob"));
    assert_eq!(judge(&git, Some(&first), TWO).unwrap(), "bob@bank.example, alice@bank.example");
}

#[test]
fn a_merge_counts_with_the_head_that_it_merged() {
    let (git, first) = begun();
    git.git(&["checkout", "-q", "-b", "topic"]);
    git.write("policies/pay/a.cedar", PAY);
    git.commit("alice", Some("alice"));
    git.git(&["checkout", "-q", "main"]);
    let key = git.key("bob").display().to_string();
    let merge = |extra: &[&str]| {
        let signing = format!("user.signingkey={key}");
        let mut args = vec!["-c", "user.name=bob", "-c", "user.email=bob@bank.example", "-c", &signing];
        args.extend(["merge", "-q", "--no-ff", "-S", "-m", "merge"]);
        args.extend(extra);
        args.push("topic");
        git.git(&args);
    };
    merge(&[]);
    assert_eq!(judge(&git, Some(&first), TWO).unwrap(), "bob@bank.example, alice@bank.example");
    // A merge that brings in something that alice did not sign is bob's alone.
    git.git(&["reset", "-q", "--hard", &first]);
    merge(&["--no-commit"]);
    git.write("policies/pay/a.cedar", PAY.replace("a.b/pay", "a.b/evil"));
    git.commit("bob", Some("bob"));
    assert_eq!(judge(&git, Some(&first), TWO).unwrap_err().0, "needs_signatures");
}

#[test]
fn signatures_over_different_trees_are_not_counted_together() {
    let (git, first) = begun();
    git.write("policies/pay/a.cedar", PAY);
    git.commit("alice", Some("alice"));
    // Bob goes on from alice's change: alice never saw what would be enforced.
    git.write("policies/pay/a.cedar", PAY.replace("a.b/pay", "a.b/evil"));
    git.commit("bob", Some("bob"));
    assert_eq!(judge(&git, Some(&first), TWO).unwrap_err().0, "needs_signatures");
    // Nor does a head that was approved vouch for the tree of before.
    git.git(&["revert", "--no-commit", "HEAD"]);
    git.commit("bob", Some("bob"));
    assert_eq!(judge(&git, Some(&first), TWO).unwrap_err().0, "needs_signatures");
}

#[test]
fn an_unsigned_or_strange_approval_does_not_count() {
    let (git, first) = begun();
    git.git(&["checkout", "-q", "-b", "topic"]);
    git.write("policies/pay/a.cedar", PAY);
    for signer in [None, Some("mallory")] {
        git.git(&["checkout", "-q", "-B", "topic", &first]);
        git.write("policies/pay/a.cedar", PAY);
        git.commit("alice", signer);
        git.git(&["checkout", "-q", "-B", "main", &first]);
        git.git(&["merge", "-q", "--no-commit", "--no-ff", "topic"]);
        git.commit("bob", Some("bob"));
        assert_eq!(judge(&git, Some(&first), TWO).unwrap_err().0, "needs_signatures");
    }
}

#[test]
fn owners_sign_for_their_folder_and_others_for_the_rest() {
    let (git, first) = begun();
    git.write("policies/b.cedar", PAY);
    let second = git.commit("alice", Some("alice"));
    assert_eq!(judge(&git, Some(&first), BOBS).unwrap(), "alice@bank.example");
    git.git(&["mv", "policies/b.cedar", "policies/c.cedar"]);
    git.write("policies/pay/a.cedar", support::PERMIT.replace("\"p\"", "\"q\""));
    git.commit("alice", Some("alice"));
    let (code, message) = judge(&git, Some(&second), BOBS).unwrap_err();
    assert_eq!(code, "needs_signatures");
    assert!(
        message.contains("line 2") && message.contains("of <bob@bank.example>") && message.contains("it has none"),
        "{message}"
    );
    let third = git.commit("bob", Some("bob"));
    assert!(judge(&git, Some(&second), BOBS).is_ok());
    // To remove a file is a change too.
    git.git(&["rm", "-q", "policies/pay/a.cedar"]);
    git.commit("alice", Some("alice"));
    assert_eq!(judge(&git, Some(&third), BOBS).unwrap_err().0, "needs_signatures");
}

#[test]
fn the_first_bundle_is_a_change_of_all_its_files() {
    let git = Git::new();
    git.commit("alice", Some("alice"));
    assert_eq!(judge(&git, None, TWO).unwrap_err().0, "needs_signatures");
    git.commit("bob", Some("bob"));
    assert_eq!(judge(&git, None, TWO).unwrap(), "bob@bank.example, alice@bank.example");
}

#[test]
fn what_was_accepted_stays_accepted_under_stricter_rules() {
    let (git, first) = begun();
    assert_eq!(judge(&git, Some(&first), TWO).unwrap(), "alice@bank.example");
}
