//! Explanations of denials: what came nearest, by which clause it failed, with which value.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use super::*;
use crate::{BundleSource, Effect};

const WEB: &str = "spiffe://a.b/ns/bank/sa/web";

fn bundle(policies: &str) -> Bundle {
    let yaml = "version: 1\nservices:\n  a.b/bank/fraud: {routes: ['GET /score']}\n";
    let files = BTreeMap::from([
        ("signet.yaml".to_owned(), yaml.to_owned()),
        ("policies/a.cedar".to_owned(), policies.to_owned()),
    ]);
    Bundle::compile(&BundleSource { commit: "c0ffee".into(), signer: String::new(), files })
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn failed(explanation: &Explanation, rank: usize) -> Vec<(String, u32, String)> {
    let clauses = &explanation.nearest[rank].failed;
    clauses.iter().map(|c| (c.text.clone(), c.line, c.actual.clone())).collect()
}

#[test]
fn default_deny_names_the_nearest_permit_and_its_failed_clause() {
    let bundle = bundle(
        "@id(\"payments-write\")\npermit(\n  principal == Mesh::Workload::\"spiffe://a.b/ns/bank/sa/payments\",\n  action == Mesh::Action::\"http:POST\",\n  resource in Mesh::Service::\"a.b/bank/ledger\");\n\
         @id(\"web-read\")\npermit(\n  principal == Mesh::Workload::\"spiffe://a.b/ns/bank/sa/web\",\n  action in [Mesh::Action::\"read\"],\n  resource in Mesh::Service::\"a.b/bank/ledger\");\n\
         @id(\"elsewhere\")\npermit(principal in Mesh::Namespace::\"x.y/z\", action == Mesh::Action::\"tcp:connect\", resource in Mesh::Service::\"x.y/z/w\");\n",
    );
    let why = bundle.can(WEB, "http:POST", "a.b/bank/ledger", Some("/accounts/1/entries"), 0).unwrap();
    assert_eq!((why.decision.effect, why.decision.reason), (Effect::Deny, Reason::NoPermit));
    let order: Vec<&str> = why.nearest.iter().map(|n| &*n.policy.id).collect();
    assert_eq!(order, ["web-read", "payments-write", "elsewhere"]);
    let action = ("action in [Mesh::Action::\"read\"]".to_owned(), 9, "Mesh::Action::\"http:POST\"".to_owned());
    assert_eq!(failed(&why, 0), [action]);
    assert_eq!(failed(&why, 1)[0].1, 3);
    assert_eq!(failed(&why, 2).len(), 3);
    let text = why.to_string();
    for part in [
        "denied: no permit holds",
        "nearest permit: web-read (policies/a.cedar:6)",
        "the request had Mesh::Action::\"http:POST\"",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn each_condition_is_judged_by_itself() {
    let bundle = bundle(
        "@id(\"p\")\npermit(principal is Mesh::Workload, action, resource)\n\
         when { principal.namespace == \"bank\" && context.net.dst_port == 443 }\n\
         when { context has jwt && context.jwt.sub == \"x\" }\n\
         unless { principal.env == Mesh::Env::\"dev\" || context.net.src_cluster == \"a.b\" }\n\
         when { context.net.dst_port != 80 };",
    );
    let why = bundle.can(WEB, "GET", "a.b/bank/ledger", None, 0).unwrap();
    // Conditions of one action's context only: the validator would refuse `path` here.
    let want = [
        ("context.net.dst_port == 443".to_owned(), 3, "context.net.dst_port = 80".to_owned()),
        ("context has jwt".to_owned(), 4, "context has jwt = false".to_owned()),
        ("unless context.net.src_cluster == \"a.b\"".to_owned(), 5, "context.net.src_cluster = \"a.b\"".to_owned()),
        ("context.net.dst_port != 80".to_owned(), 6, "context.net.dst_port = 80".to_owned()),
    ];
    assert_eq!(failed(&why, 0), want);
}

#[test]
fn determining_policies_come_with_their_source() {
    let bundle = bundle(
        "@id(\"yes\")\npermit(principal, action, resource);\n@id(\"no\")\nforbid(principal, action == Mesh::Action::\"http:DELETE\", resource);",
    );
    let why = bundle.can(WEB, "DELETE", "a.b/bank/ledger", None, 0).unwrap();
    assert_eq!(why.determining.len(), 1);
    assert_eq!((&*why.determining[0].id, why.determining[0].line), ("no", 3));
    assert!(why.nearest.is_empty());
    assert!(why.to_string().contains("determined by no (policies/a.cedar:3)\n  | @id(\"no\")"), "{why}");
    let why = bundle.can(WEB, "GET", "a.b/bank/ledger", None, 0).unwrap();
    assert!(why.to_string().starts_with("allowed: a permit holds"), "{why}");
}

#[test]
fn an_unknown_route_lists_the_declared_ones() {
    let bundle = bundle("@id(\"yes\")\npermit(principal, action, resource);");
    let why = bundle.can(WEB, "GET", "a.b/bank/fraud", Some("/admin"), 0).unwrap();
    assert_eq!(why.decision.reason, Reason::UnknownRoute);
    assert!(why.to_string().contains("`GET /score`"), "{why}");
}

#[test]
fn an_empty_bundle_says_so() {
    let why = bundle("").can(WEB, "GET", "a.b/bank/ledger", None, 0).unwrap();
    assert_eq!(why.notes, ["the bundle has no enforced permit at all"]);
}
