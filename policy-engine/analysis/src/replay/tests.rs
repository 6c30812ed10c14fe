//! Flips grouped and counted, and what cannot be decided again never called unchanged.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};
use signet_policy::BundleSource;

use super::*;
use crate::recorded::JsonLines;

fn bundle(condition: &str) -> Bundle {
    let policies = format!(
        "@id(\"p\") permit(principal == Mesh::Workload::\"spiffe://a.b/ns/n/sa/web\", action, resource in Mesh::Service::\"a.b/n/s\")
         when {{ {condition} }};"
    );
    let mut source = BundleSource { commit: "c".into(), ..BundleSource::default() };
    source.files.insert("signet.yaml".into(), "version: 1\n".into());
    source.files.insert("policies/p.cedar".into(), policies);
    Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// A line of an export with `changes`.
fn record(changes: &Value) -> String {
    let mut line = json!({
        "decision_id": "0192f5d0-8b7a-7c3e-9a41-5b6c7d8e9f00", "kind": "decision", "time": "2026-11-25T10:00:00.000000Z",
        "source_spiffe_id": "spiffe://a.b/ns/n/sa/web", "destination_service": "a.b/n/s", "action": "http:GET",
        "path": "/a", "decision": "allow", "reason": "permitted", "source_address": "10.0.0.1:4000", "count": 1,
        "context": {"dst_port": "80", "host": "s"}, "erased": [], "a_later_column": [1],
    });
    for (name, value) in changes.as_object().unwrap() {
        line[name] = value.clone();
    }
    line.to_string() + "\n"
}

#[test]
fn flows_that_flip_are_grouped_with_counts_and_last_seen() {
    let denied = json!({"decision": "deny", "reason": "no_permit", "source_spiffe_id": "spiffe://a.b/ns/n/sa/other"});
    let records = [
        record(&json!({"path": "/keep"})),
        record(&json!({"path": "/b", "time": "2026-11-25T12:00:00.000000Z"})),
        record(&json!({"path": "/a \u{1f600} \" quoted", "count": 4})),
        record(&denied),
        record(&json!({"action": "http:POST", "decision": "deny", "reason": "no_permit", "path": "/keep"})),
        record(&json!({"action": "grpc:call", "path": "/x.Y/Z", "context": {"dst_port": "80"}})),
    ];
    let found =
        replay(JsonLines(records.concat().as_bytes()), &bundle("context has path && context.path == \"/keep\""))
            .unwrap();
    assert_eq!((found.decided, found.calls, found.not_by_policy), (6, 9, 0));
    let rows: Vec<_> = found.flips.iter().map(|f| (f.action.as_str(), f.was, f.now.effect, f.count)).collect();
    assert_eq!(
        rows,
        [("http:GET", "allow", "deny", 5), ("grpc:call", "allow", "deny", 1), ("http:POST", "deny", "allow", 1)]
    );
    assert_eq!(
        (found.flips[0].last_seen.as_str(), found.flips[0].path.as_deref()),
        ("2026-11-25T12:00:00.000000Z", Some("/b"))
    );
    assert_eq!(found.flips[1].path.as_deref(), Some("x.Y/Z"));
    assert_eq!(found.flipped(), (6, 1));
}

#[test]
fn what_cannot_be_decided_again_is_counted_and_never_called_unchanged() {
    let records = [
        record(&json!({"kind": "event"})),
        record(&json!({"decision": "deny", "reason": "not_exported"})),
        record(&json!({"path": null, "erased": ["path"]})),
        record(&json!({"context": {}})),
        record(&json!({"source_address": null, "context": {"dst_port": "80"}})),
        "\n".to_owned(),
    ];
    let found = replay(JsonLines(records.concat().as_bytes()), &bundle("true")).unwrap();
    assert_eq!((found.decided, found.not_by_policy), (0, 2));
    let rows: Vec<_> = found.not_replayed.iter().map(|(why, n)| (why.as_str(), *n)).collect();
    assert_eq!(rows, [("dst_port is not recorded", 1), ("path was erased", 1), ("src_ip is not recorded", 1)]);
}

#[test]
fn a_line_that_is_no_record_is_an_error_with_its_number() {
    for bad in [
        "{}",
        "not json",
        "{\"kind\": 3}",
        &record(&json!({"time": "yesterday"})),
        &record(&json!({"context": []})),
        "\u{0}",
        "[[[[",
    ] {
        let error = replay(JsonLines((record(&json!({})) + bad).as_bytes()), &bundle("true")).unwrap_err().to_string();
        assert!(error.starts_with("line 2 of the records"), "{error}");
    }
    let long = "x".repeat((4 << 20) + 1);
    let error = replay(JsonLines(long.as_bytes()), &bundle("true")).unwrap_err();
    assert!(matches!(error, RecordsError::TooLong { line: 1, .. }), "{error}");
}
