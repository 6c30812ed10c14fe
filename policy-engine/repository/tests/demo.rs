//! The demo's own policy repository: it passes its checks, it can be committed, and it decides the table of calls that
//! the demo promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use signet_policy::{Bundle, Effect, Reason};
use signet_policy_repository::{check, read_dir};
use support::{Git, demo};

const EAST: &str = "east.bank.example/bank";
const WEST: &str = "west.bank.example/bank";

#[test]
fn passes_every_check_without_a_warning() {
    let report = check(&read_dir(demo()).unwrap());
    assert_eq!(report.problems, []);
    let failed: Vec<String> = report.tests.iter().filter(|t| !t.passed).map(ToString::to_string).collect();
    assert_eq!(failed, Vec::<String>::new());
    assert!(report.is_ok() && report.tests.len() >= 12);
}

#[test]
fn decides_the_table_of_calls() {
    let bundle = Bundle::compile(&read_dir(demo()).unwrap()).unwrap();
    let pay = "bank.v1.Payments/Pay";
    let table = [
        (EAST, "web", "GET", EAST, "ledger", "/accounts/1", Effect::Allow),
        (EAST, "web", "POST", EAST, "ledger", "/accounts/1/entries", Effect::Deny),
        (EAST, "web", "grpc:call", EAST, "payments", pay, Effect::Allow),
        (EAST, "web", "grpc:call", EAST, "payments", "bank.v1.Payments/Refund", Effect::Deny),
        (EAST, "payments", "POST", EAST, "ledger", "/accounts/1/entries", Effect::Allow),
        (EAST, "web", "tcp:connect", EAST, "ledger-db", "", Effect::Deny),
        (EAST, "ledger", "tcp:connect", EAST, "ledger-db", "", Effect::Allow),
        (WEST, "reporting", "POST", EAST, "ledger", "/accounts/1/entries", Effect::Deny),
        (EAST, "web", "GET", WEST, "fraud", "/score", Effect::Allow),
        (EAST, "web", "GET", WEST, "reporting", "/daily", Effect::Deny),
        (WEST, "reporting", "GET", EAST, "ledger", "/accounts/1", Effect::Allow),
        (EAST, "ledger", "grpc:call", EAST, "payments", pay, Effect::Deny),
        (EAST, "web", "gateway:forward", WEST, "fraud", "", Effect::Allow),
        (EAST, "web", "gateway:forward", WEST, "reporting", "", Effect::Deny),
        (WEST, "reporting", "gateway:forward", EAST, "ledger", "", Effect::Allow),
    ];
    for (from, who, action, to, service, path, want) in table {
        let (who, service) = (format!("{from}/{who}"), format!("{to}/{service}"));
        let why = bundle.can(&who, action, &service, Some(path).filter(|p| !p.is_empty()), 0).unwrap();
        assert_eq!(why.decision.effect, want, "{who} {action} {service} {path}\n{why}");
    }
    let speechless = bundle.can(&format!("{EAST}/ledger"), pay, &format!("{EAST}/payments"), None, 0).unwrap();
    assert_eq!((speechless.decision.reason, &*speechless.nearest[0].policy.id), (Reason::NoPermit, "web-pays"));
    let shadow = bundle.can(&format!("{WEST}/reporting"), "GET", &format!("{EAST}/ledger"), None, 0).unwrap();
    assert_eq!(shadow.decision.shadow.unwrap().effect, Effect::Deny);
}

#[test]
fn is_accepted_when_committed_and_signed() {
    let source = read_dir(demo()).unwrap();
    let git = Git::new();
    std::fs::remove_file(git.root.join("policies/a.cedar")).unwrap();
    for (path, text) in &source.files {
        git.write(path, text);
    }
    git.commit("alice", Some("alice"));
    let accepted = git.accept(None).unwrap();
    assert_eq!(accepted.digest(), source.digest());
}
