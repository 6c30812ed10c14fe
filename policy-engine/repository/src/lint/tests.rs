//! Each lint by its code and its place, and what none of them says a word about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;

const SETTINGS: &str = "version: 1
services: {a.b/bank/ledger: {routes: ['GET /accounts/{id}'], teams: [core], tags: {tier: '1'}}}
external_services: {rates: {host: rates.example}}
teams: {core: {workloads: [a.b/bank/web]}}
";
const WEB: &str = "Mesh::Workload::\"spiffe://a.b/ns/bank/sa/web\"";

/// `code line:column` of all that is said about `policies`.
fn said(policies: &str) -> Vec<String> {
    let mut source = BundleSource { commit: "c".into(), ..BundleSource::default() };
    source.files.insert("signet.yaml".into(), SETTINGS.into());
    source.files.insert("policies/p.cedar".into(), policies.into());
    let bundle = Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let found = lint(&source, &bundle);
    assert!(found.iter().all(|p| p.path == "policies/p.cedar" && p.help.is_some() && !p.is_error()), "{found:?}");
    found.iter().map(|p| format!("{} {}:{}", p.code, p.line, p.column)).collect()
}

fn policy(id: &str, scope: &str, rest: &str) -> String {
    format!("@id(\"{id}\") @owner(\"o\") permit({scope}) {rest};\n")
}

#[test]
fn annotations_and_open_scopes() {
    assert_eq!(
        said("\n  @id(\"a\")\npermit(principal, action, resource) when { context.net.dst_port == 1 };"),
        ["missing_owner 2:3"]
    );
    assert_eq!(said(&policy("a", "principal, action, resource", "")), ["allows_everything 1:1"]);
    assert_eq!(
        said(&policy("a", "principal, action, resource", "").replace("permit", "forbid")),
        ["forbids_everything 1:1"]
    );
    let odd =
        policy("a", &format!("principal == {WEB}, action, resource"), "").replace("@owner", "@onwer(\"x\")\n @owner");
    assert_eq!(said(&odd), ["unknown_annotation 1:10"]);
}

#[test]
fn names_that_nothing_has() {
    let who = |name: &str| said(&policy("a", &format!("principal in {name}, action, resource"), ""));
    assert_eq!(who("Mesh::Team::\"cores\""), ["undeclared 1:42"]);
    assert_eq!(who("Mesh::Team::\"core\""), Vec::<String>::new());
    for bad in
        ["Workload::\"a.b/bank/web\"", "ServiceAccount::\"web\"", "Namespace::\"a.b/bank/web\"", "TrustDomain::\"A B\""]
    {
        assert_eq!(who(&format!("Mesh::{bad}")), ["bad_name 1:42"], "{bad}");
    }
    let what = |scope: &str| said(&policy("a", &format!("principal, action, {scope}"), ""));
    assert_eq!(what("resource == Mesh::ExternalService::\"rate\""), ["undeclared 1:60"]);
    assert_eq!(what("resource == Mesh::ExternalService::\"rates\""), Vec::<String>::new());
    assert_eq!(what("resource == Mesh::Route::\"a.b/bank/ledger#GET /accounts\""), ["undeclared 1:60"]);
    assert_eq!(what("resource == Mesh::Route::\"a.b/bank/ledger#GET /accounts/{id}\""), Vec::<String>::new());
    let tag = |key: &str| {
        said(&policy(
            "a",
            "principal, action, resource is Mesh::Service",
            &format!("when {{\n resource.hasTag(\"{key}\") }}"),
        ))
    };
    assert_eq!(tag("teir"), ["unknown_tag 2:18"]);
    assert_eq!(tag("tier"), Vec::<String>::new());
}

#[test]
fn a_service_with_routes_is_never_the_resource_of_a_call_that_has_one() {
    let on = |action: &str, name: &str| {
        said(&policy("a", &format!("principal == {WEB}, {action}, resource == Mesh::Service::\"{name}\""), ""))
    };
    let found = on("action in [Mesh::Action::\"read\"]", "a.b/bank/ledger");
    assert!(found.len() == 1 && found.iter().all(|row| row.starts_with("never_matches 1:")), "{found:?}");
    assert_eq!(on("action in [Mesh::Action::\"read\"]", "a.b/bank/other"), Vec::<String>::new());
    assert_eq!(on("action == Mesh::Action::\"tcp:connect\"", "a.b/bank/ledger"), Vec::<String>::new());
}

#[test]
fn a_policy_that_another_covers_is_shadowed() {
    let get = "action == Mesh::Action::\"http:GET\"";
    let ledger = "resource in Mesh::Service::\"a.b/bank/ledger\"";
    let narrow = policy("n", &format!("principal == {WEB}, {get}, {ledger}"), "");
    let wides = [
        format!("principal in Mesh::Namespace::\"a.b/bank\", action in [Mesh::Action::\"read\"], {ledger}"),
        format!("principal in Mesh::Team::\"core\", {get}, resource in Mesh::Team::\"core\""),
        format!("principal is Mesh::Workload in Mesh::TrustDomain::\"a.b\", action, {ledger}"),
        format!("principal is Mesh::Workload, action in [{}], {ledger}", get.trim_start_matches("action == ")),
        format!("principal == {WEB}, {get}, resource in Mesh::Cluster::\"a.b\""),
    ];
    for wide in &wides {
        assert_eq!(said(&(narrow.clone() + &policy("w", wide, ""))), ["shadowed 1:1"], "{wide}");
        // With a condition that the narrow one lacks it covers less; a narrow one with a condition is covered all the more.
        let when = "when { context.net.dst_port == 80 }";
        assert_eq!(said(&(narrow.clone() + &policy("w", wide, when))), Vec::<String>::new(), "{wide}");
        let conditional = policy("n", &format!("principal == {WEB}, {get}, {ledger}"), when);
        assert_eq!(said(&(conditional.clone() + &policy("w", wide, ""))), ["shadowed 1:1"], "{wide}");
        assert_eq!(said(&(conditional + &policy("w", wide, when))), ["shadowed 1:1"], "{wide}");
        // Neither a forbid nor a shadow policy covers a permit.
        let forbid = policy("w", wide, "").replace("permit", "forbid");
        assert_eq!(said(&(narrow.clone() + &forbid)), Vec::<String>::new(), "{wide}");
        let shadow = policy("w", wide, "").replace("@owner", "@mode(\"shadow\") @owner");
        assert_eq!(said(&(narrow.clone() + &shadow)), Vec::<String>::new(), "{wide}");
    }
    // Of two that say the same the later one goes; what is beside each other stays.
    assert_eq!(said(&(narrow.clone() + &narrow.replace("\"n\"", "\"m\""))), ["shadowed 2:1"]);
    for other in [
        format!("principal in Mesh::Namespace::\"a.b/other\", action, {ledger}"),
        format!("principal in Mesh::Namespace::\"a.b/bank\", action in [Mesh::Action::\"write\"], {ledger}"),
        "principal in Mesh::Namespace::\"a.b/bank\", action, resource in Mesh::Service::\"a.b/bank/other\"".to_owned(),
    ] {
        assert_eq!(said(&(narrow.clone() + &policy("o", &other, ""))), Vec::<String>::new(), "{other}");
    }
}

#[test]
fn the_groups_of_actions_are_the_schemas() {
    let schema = signet_policy::schema_text();
    for (name, members) in shadowed::GROUPS {
        let listed = members.iter().map(|m| format!("\"{m}\"")).collect::<Vec<_>>().join(", ");
        assert!(schema.contains(&format!("action {listed} in [{name}]")), "{name}: {listed}");
    }
    assert_eq!(schema.matches(" in [read]").count() + schema.matches(" in [write]").count(), 2);
}
