//! What is made of recorded calls: it permits them all, and no more than it has to.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};
use signet_policy::BundleSource;

use super::*;
use crate::recorded::JsonLines;
use crate::replay::replay;

const SETTINGS: &str = "version: 1
services: {a.b/n/routed: {routes: ['GET /accounts/{id}', 'POST /accounts/{id}']}}
external_services: {rates: {host: rates.example}}
";
/// What a mesh begins with.
const OPEN: &str = "@id(\"open\") permit(principal is Mesh::Workload, action, resource);";

fn bundle(policies: &str) -> Bundle {
    let mut source = BundleSource { commit: "c".into(), ..BundleSource::default() };
    source.files.insert("signet.yaml".into(), SETTINGS.into());
    source.files.insert("policies/p.cedar".into(), policies.into());
    Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:#?}\n{policies}"))
}

fn call(source: &str, service: &str, action: &str, path: Option<&str>, more: &Value) -> String {
    let mut line = json!({
        "kind": "decision", "time": "2026-11-25T10:00:00.000000Z", "destination_service": service, "action": action,
        "source_spiffe_id": format!("spiffe://a.b/ns/n/sa/{source}"), "path": path, "decision": "allow", "reason": "permitted",
        "source_address": "10.0.0.1:4000", "count": 1, "context": {"dst_port": "80"}, "erased": [], "policy_ids": ["open"],
    });
    for (name, value) in more.as_object().unwrap() {
        line[name] = value.clone();
    }
    line.to_string() + "\n"
}

fn get(path: &str) -> String {
    call("web", "a.b/n/s", "http:GET", Some(path), &json!({}))
}

/// The suggestion, and how many calls of `more` it would flip.
fn made(records: &str, more: &str) -> (Suggestion, u64) {
    let found = suggest(JsonLines(records.as_bytes()), &bundle(OPEN), "team").unwrap();
    let suggested = bundle(&found.policies);
    let again = replay(JsonLines(records.as_bytes()), &suggested).unwrap();
    let lost: Vec<_> = again.flips.iter().filter(|flip| flip.was == "allow").collect();
    assert!(lost.is_empty(), "{lost:?}\n{}", found.policies);
    let other = replay(JsonLines(more.as_bytes()), &suggested).unwrap();
    assert_eq!(other.decided, u64::try_from(more.lines().count()).unwrap());
    (found, other.flipped().0)
}

#[test]
fn paths_are_grouped_by_shape_and_nothing_wider_is_permitted() {
    let seen =
        ["/accounts/1", "/accounts/22/entries", "/health", "/users/0192f5d0-8b7a-7c3e-9a41-5b6c7d8e9f00", "/a*b\"/7"];
    let records: String = seen.iter().map(|path| get(path)).collect();
    let near = ["/accounts/1/other", "/accounts/3/entries/4", "/accounts/", "/health/1", "/", "/users/x/y", "/a1b\"/7"];
    let others = call("other", "a.b/n/s", "http:GET", Some("/health"), &json!({}))
        + &call("web", "a.b/n/s2", "http:GET", Some("/health"), &json!({}))
        + &call("web", "a.b/n/s", "http:POST", Some("/health"), &json!({}));
    let near: String = near.iter().map(|path| get(path)).collect::<String>() + &others;
    let (found, denied) = made(&records, &near);
    assert_eq!((found.count, found.calls, denied), (5, 5, 10), "{}", found.policies);
    // Other values of the same shape are meant.
    assert_eq!(made(&records, &(get("/accounts/77") + &get("/accounts/8/entries"))).1, 0);
    // Many names in one place are values.
    let many: String = ["ada", "bob", "cy", "dee", "eve", "flo", "gus", "hal", "ian"]
        .map(|name| get(&format!("/people/{name}")))
        .concat();
    assert_eq!(made(&many, &get("/people/joe")).1, 0);
    assert_eq!(made(&many, &get("/people/joe/secrets")).1, 1);
}

#[test]
fn each_protocol_gets_its_own_kind_of_grant() {
    let grpc = |method: &str| call("web", "a.b/n/g", "grpc:call", Some(method), &json!({}));
    let tcp = |port: &str| call("web", "a.b/n/db", "tcp:connect", None, &json!({"context": {"dst_port": port}}));
    let routed = |action: &str, path: &str| call("web", "a.b/n/routed", action, Some(path), &json!({}));
    let egress = call("web", "rates", "egress:connect", None, &json!({}));
    let gateway = call("web", "a.b/n/g", "gateway:forward", None, &json!({}));
    let records =
        grpc("x.Y/Z") + &grpc("x.Y/W") + &tcp("5432") + &routed("http:GET", "/accounts/1") + &egress + &gateway;
    let near = grpc("x.Y/V") + &grpc("x.Q/Z") + &tcp("22") + &routed("http:POST", "/accounts/1");
    let (found, denied) = made(&records, &near);
    assert_eq!((found.count, denied), (5, 4), "{}", found.policies);
    assert!(found.policies.contains("Mesh::Route::\"a.b/n/routed#GET /accounts/{id}\""), "{}", found.policies);
}

#[test]
fn what_is_denied_or_would_be_is_left_out() {
    let denied = json!({"decision": "deny", "reason": "no_permit"});
    let shadow = json!({"shadow_decision": "deny", "count": 3});
    let records = call("web", "a.b/n/s", "http:GET", Some("/a"), &denied)
        + &call("web", "a.b/n/s", "http:GET", Some("/b"), &shadow)
        + &call("web", "a.b/n/s", "http:GET", Some("/c"), &json!({"context": {}}))
        + &call("web", "a.b/n/s", "http:GET", Some("/d"), &json!({"kind": "event"}));
    let found = suggest(JsonLines(records.as_bytes()), &bundle(OPEN), "team").unwrap();
    assert_eq!((found.count, found.policies.as_str()), (0, ""));
    let why: Vec<_> = found.left_out.iter().map(|(why, calls)| (*why, *calls)).collect();
    assert_eq!(why, [("a policy that is tried out would deny it", 3), ("the record lacks what was asked", 1)]);
    // What was taken back does not return.
    let revoked = bundle(
        &(OPEN.to_owned()
            + "@id(\"f\") forbid(principal == Mesh::Workload::\"spiffe://a.b/ns/n/sa/web\", action, resource);"),
    );
    let found = suggest(JsonLines(get("/a").as_bytes()), &revoked, "team").unwrap();
    assert_eq!((found.count, found.left_out.get("it is denied today")), (0, Some(&1)));
}

#[test]
fn grants_are_counted_by_what_decides_today() {
    let policies = "@id(\"reads\") permit(principal, action == Mesh::Action::\"http:GET\", resource);
        @id(\"idle\") permit(principal, action == Mesh::Action::\"http:PUT\", resource);
        @id(\"tried\") @mode(\"shadow\") permit(principal, action == Mesh::Action::\"http:PUT\", resource);
        @id(\"never\") forbid(principal, action == Mesh::Action::\"http:PATCH\", resource);";
    // `idle` is in the record of a call that `reads` decides today; and in one that cannot be decided again.
    let old = |more: Value| call("web", "a.b/n/s", "http:GET", Some("/a"), &more);
    let count = |records: &str| {
        let found = crate::unused::uses(JsonLines(records.as_bytes()), &bundle(policies)).unwrap();
        let rows: Vec<_> = found.grants.iter().map(|grant| (grant.id.clone(), grant.count)).collect();
        (rows, found.unused().count(), found.calls)
    };
    let row = |reads: u64, idle: u64| vec![("reads".to_owned(), reads), ("idle".to_owned(), idle)];
    assert_eq!(count(&old(json!({"count": 2, "policy_ids": ["idle"]}))), (row(2, 0), 1, 2));
    assert_eq!(count(&old(json!({"context": {}, "policy_ids": ["idle"]}))), (row(0, 1), 1, 1));
    assert_eq!(count(&old(json!({"decision": "deny", "reason": "no_permit"}))), (row(0, 0), 2, 0));
}
