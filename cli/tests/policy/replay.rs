//! `signet policy replay`.

use serde_json::json;

use crate::place::Place;

#[test]
fn recorded_calls_that_a_change_would_deny_are_shown() {
    let place = Place::new();
    let record = |source: &str, decision: &str, reason: &str| {
        let line = json!({
            "kind": "decision", "time": "2026-11-25T10:00:00.000000Z", "destination_service": "east.bank.example/bank/ledger",
            "source_spiffe_id": format!("spiffe://{source}"), "action": "http:GET", "path": "/accounts/1", "decision": decision,
            "reason": reason, "context": {"src_ip": "10.0.0.1", "dst_port": "80"}, "count": 2,
        });
        line.to_string() + "\n"
    };
    let web = record("east.bank.example/ns/bank/sa/web", "allow", "permitted");
    place.append(
        "records.jsonl",
        &(web.clone() + &web + &record("west.bank.example/ns/bank/sa/fraud", "deny", "no_permit")),
    );
    let same = place.policy(&["replay", "records.jsonl"]).expect(0).stdout;
    assert!(same.starts_with("6 calls: 0 would be denied that were allowed, 0 allowed that were denied."), "{same}");
    place.edit("policies/ledger.cedar", "bank/sa/web", "bank/sa/other");
    let found = place.policy(&["replay", "records.jsonl", "-o", "json"]).expect(0).json();
    assert_eq!(found["flips"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!((&found["flips"][0]["count"], &found["flips"][0]["now"]["reason"]), (&4.into(), &"no_permit".into()));
    // Under the last commit nothing flips.
    let found = place.policy(&["replay", "records.jsonl", "--revision", "HEAD", "-o", "json"]).expect(0).json();
    assert_eq!((&found["flips"], &found["calls"]), (&json!([]), &6.into()));
    place.append("records.jsonl", "{}\n");
    let ran = place.policy(&["replay", "records.jsonl"]).expect(1);
    assert!(ran.stderr.contains("line 4 of the records") && ran.stderr.contains("next:"), "{}", ran.stderr);
}
