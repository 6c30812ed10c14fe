//! `signet policy diff`.

use serde_json::Value;

use crate::place::{Place, Ran};

/// Generous: what is tested is the answer.
const LIMIT: [&str; 2] = ["--solver-limit", "120"];
const LEDGER: &str = "policies/ledger.cedar";
const REPORTING_WRITES: &str = "
@id(\"reporting-books\") @owner(\"risk\")
permit (
  principal == Mesh::Workload::\"spiffe://west.bank.example/ns/bank/sa/reporting\",
  action == Mesh::Action::\"http:POST\",
  resource in Mesh::Service::\"east.bank.example/bank/ledger\"
);
";

fn json(place: &Place, range: &[&str]) -> Ran {
    let mut arguments = vec!["diff", "-o", "json"];
    arguments.extend(LIMIT);
    arguments.extend(range);
    place.policy(&arguments)
}

/// The rows that are not `no_change`, as `action resource result`.
#[track_caller]
fn changes(found: &Value) -> Vec<String> {
    let rows = found["request_types"].as_array().unwrap();
    assert!(rows.len() > 20, "{}", rows.len());
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    for row in rows {
        assert!(
            text(row, "principal").starts_with("Mesh::") && row.as_object().unwrap().contains_key("example"),
            "{row}"
        );
    }
    let changed = rows.iter().filter(|row| row["result"] != "no_change");
    changed.map(|row| format!("{} {} {}", text(row, "action"), text(row, "resource"), text(row, "result"))).collect()
}

#[test]
fn a_wider_commit_is_shown_with_an_example_and_is_not_broken() {
    let place = Place::new();
    place.append(LEDGER, REPORTING_WRITES);
    place.commit("Let reporting book");
    let found = json(&place, &["HEAD~1..HEAD"]).expect(0).json();
    assert_eq!(changes(&found), ["http:POST Mesh::Service newly_permitted"]);
    let row = found["request_types"].as_array().unwrap().iter().find(|row| row["result"] == "newly_permitted").unwrap();
    let example = &row["example"];
    assert_eq!(example["principal"], "spiffe://west.bank.example/ns/bank/sa/reporting");
    assert_eq!(example["service"], "east.bank.example/bank/ledger");
    assert_eq!((&example["base"]["effect"], &example["head"]["effect"]), (&"deny".into(), &"allow".into()));
    assert_eq!(example["head"]["policies"][0], "reporting-books");
    // The other way round, as a person reads it.
    let text = place.policy(&["diff", "HEAD..HEAD~1"]).expect(0).stdout;
    assert!(text.contains("newly_denied  Mesh::Workload http:POST Mesh::Service"), "{text}");
    assert!(text.contains("after: deny (no_permit)"), "{text}");
    // Without arguments: the last commit and the working tree.
    let same = place.policy(&["diff"]).expect(0).stdout;
    assert!(same.starts_with("No change: proved for all "), "{same}");
    place.edit(LEDGER, "action == Mesh::Action::\"http:POST\"", "action == Mesh::Action::\"http:PUT\"");
    assert_eq!(
        changes(&json(&place, &[]).expect(0).json()),
        ["http:POST Mesh::Service newly_denied", "http:PUT Mesh::Service newly_permitted"]
    );
}

#[test]
fn renaming_splitting_merging_and_reordering_give_no_change() {
    let place = Place::new();
    // Renamed: file and id.
    place.git(&["mv", "policies/fraud.cedar", "policies/a-scores.cedar"]);
    place.edit("policies/a-scores.cedar", "web-asks-for-scores", "scores");
    // Split: reads become three policies. Reordered: they stand at the end, in another file.
    let reads =
        "action in [Mesh::Action::\"read\"],\n  resource in Mesh::Service::\"east.bank.example/bank/ledger\"\n);";
    place.edit(
        LEDGER,
        reads,
        "action == Mesh::Action::\"http:OPTIONS\",\n  resource in Mesh::Service::\"east.bank.example/bank/ledger\"\n);",
    );
    for method in ["HEAD", "GET"] {
        place.append("policies/z.cedar", &format!(
            "@id(\"web-{method}\") @owner(\"core-banking\")
             permit (principal, action == Mesh::Action::\"http:{method}\", resource in Mesh::Service::\"east.bank.example/bank/ledger\")
             when {{ principal == Mesh::Workload::\"spiffe://east.bank.example/ns/bank/sa/web\" }};\n"
        ));
    }
    place.commit("Tidy");
    assert_eq!(changes(&json(&place, &["HEAD~1..HEAD"]).expect(0).json()), Vec::<String>::new());
    // Merged again is the way back.
    assert_eq!(changes(&json(&place, &["HEAD..HEAD~1"]).expect(0).json()), Vec::<String>::new());
}

#[test]
fn without_a_solver_nothing_is_decided_and_the_exit_code_is_1() {
    let place = Place::new();
    let ran = place.policy_with(&["diff", "HEAD..HEAD", "-o", "json"], &[("CVC5", "/nonexistent/cvc5")]).expect(1);
    let found = ran.json();
    let rows = found["request_types"].as_array().unwrap();
    assert!(
        rows.len() > 20 && rows.iter().all(|row| row["result"] == "not_decided" && row["example"].is_null()),
        "{found}"
    );
    assert!(ran.stderr.contains("install cvc5"), "{}", ran.stderr);
}

#[test]
fn three_dots_start_where_the_branch_left() {
    let place = Place::within("mesh/policies-of-bank");
    let folder = ["--repository", "mesh/policies-of-bank"];
    place.git(&["checkout", "-q", "-b", "mine"]);
    place.append("readme", "mine");
    place.commit("Say more");
    place.git(&["checkout", "-q", "main"]);
    place.append("mesh/policies-of-bank/policies/ledger.cedar", REPORTING_WRITES);
    place.commit("Let reporting book");
    let with = |range: &'static str| [range, folder[0], folder[1]];
    assert_eq!(changes(&json(&place, &with("main...mine")).expect(0).json()), Vec::<String>::new());
    assert_eq!(changes(&json(&place, &with("main..mine")).expect(0).json()), ["http:POST Mesh::Service newly_denied"]);
}

#[test]
fn what_cannot_be_compared_is_an_error_with_the_next_step() {
    let place = Place::new();
    for range in ["nowhere..HEAD", "HEAD..nowhere", "HEAD^{/Begin}", ":/Begin..HEAD"] {
        let ran = place.policy(&["diff", range]);
        assert!(
            ran.code == Some(1) && ran.stdout.is_empty() && ran.stderr.contains("next:"),
            "{range}: {}",
            ran.stderr
        );
    }
    place.append(LEDGER, "permit(principal, action, resource) when { nonsense };\n");
    let ran = place.policy(&["diff"]).expect(1);
    assert!(ran.stderr.contains("working-tree") && ran.stderr.contains(LEDGER), "{}", ran.stderr);
    // Outside of any Git repository there is no last commit.
    std::fs::remove_dir_all(place.path(".git")).unwrap();
    let ran = place.policy(&["diff"]).expect(1);
    assert!(ran.stderr.contains("in no Git repository"), "{}", ran.stderr);
}
