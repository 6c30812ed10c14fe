//! The example repository: sound, every policy of it needed by a case, and its example change reported as the docs show it.

use std::path::{Path, PathBuf};

use crate::place::Place;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn example() -> Place {
    Place::of(&root("deploy/example-policies"))
}

fn records() -> String {
    root("deploy/example-change/records.jsonl").to_str().unwrap().to_owned()
}

#[test]
fn every_example_is_in_form_without_a_warning_and_needed_by_a_case() {
    let place = example();
    let checked = place.policy(&["check", "-o", "json"]).expect(0).json();
    assert_eq!(checked["problems"], serde_json::json!([]), "{checked}");
    let tested = place.policy(&["test", "-o", "json"]).expect(0).json();
    assert!(tested["passed"].as_u64().unwrap() > 40 && tested["failed"] == 0, "{tested}");
    assert_eq!(tested["untested"], serde_json::json!([]), "{tested}");
    assert_eq!(place.policy(&["fmt", "--check"]).expect(0).stdout, "");
    let sound = place.policy(&["report", "HEAD..HEAD", "--solver-limit", "120", "-o", "json"]).expect(0).json();
    let invariants = sound["invariants"].as_array().unwrap();
    assert!(invariants.len() == 4 && invariants.iter().all(|row| row["result"] == "holds"), "{sound}");
}

/// The comment on the example's pull request stands in the docs as it is made. To renew it: `UPDATE_EXPECT=1`.
#[test]
fn the_example_change_is_reported_as_the_docs_show_it() {
    const BEGIN: &str = "<!-- the comment -->\n\n";
    let place = example();
    place.git(&["apply", root("deploy/example-change/change.patch").to_str().unwrap()]);
    place.commit("Let tellers book entries");
    let ran = place.policy(&["report", "HEAD~1..HEAD", "--records", &records(), "--solver-limit", "120"]).expect(1);
    for part in [
        "| **newly permitted** | Workload | `http:PUT` | Service |",
        "**broken**: `spiffe://branch.bank.example/ns/front/sa/desk http:POST hq.bank.example/core/accounts",
        "for ada of https://login.bank.example (groups tellers)",
        "| allow | **deny** by `no_permit` | `spiffe://hq.bank.example/ns/core/sa/batch` |",
        "| deny | **allow** by `pricing-publishes-rates` |",
    ] {
        assert!(ran.stdout.contains(part), "`{part}` is not in\n{}", ran.stdout);
    }
    let file = root("docs/example-report.md");
    let doc = std::fs::read_to_string(&file).unwrap();
    let (intro, shown) = doc.split_once(BEGIN).unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&file, format!("{intro}{BEGIN}{}", ran.stdout)).unwrap();
        return;
    }
    assert_eq!(ran.stdout, shown, "UPDATE_EXPECT=1 renews {}", file.display());
}

#[test]
fn grants_that_no_call_used_are_taken_out_when_no_case_needs_them() {
    let place = example();
    let records = records();
    let found = place.policy(&["unused", &records, "-o", "json"]).expect(0).json();
    let unused: Vec<_> = found["unused"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    assert!(unused.contains(&"accounts-pays") && !unused.contains(&"batch-reads-entries-at-night"), "{unused:?}");
    // A case needs one of them: nothing is changed.
    let ran = place.policy(&["unused", &records, "--write"]).expect(1);
    assert!(ran.stderr.contains("is not sound") && ran.stderr.contains("nothing was changed"), "{}", ran.stderr);
    assert_eq!(place.git(&["status", "--porcelain"]), "");
    std::fs::remove_dir_all(place.path("tests")).unwrap();
    place.commit("Take the tests away");
    place.policy(&["unused", &records, "--write"]).expect(0);
    let again = place.policy(&["unused", &records, "-o", "json"]).expect(0).json();
    assert_eq!(again["unused"], serde_json::json!([]), "{again}");
    // What the records saw is still permitted.
    let replayed = place.policy(&["replay", &records, "-o", "json"]).expect(0).json();
    assert_eq!((&replayed["flips"], &replayed["decided"]), (&serde_json::json!([]), &11.into()), "{replayed}");
    let nothing = place.path("nothing.jsonl");
    std::fs::write(&nothing, "").unwrap();
    let ran = place.policy(&["unused", nothing.to_str().unwrap()]).expect(1);
    assert!(ran.stderr.contains("hold no allowed call"), "{}", ran.stderr);
}

#[test]
fn suggested_policies_permit_what_was_recorded() {
    let place = example();
    let records = records();
    let ran = place.policy(&["suggest", &records, "--owner", "core-banking"]).expect(0);
    assert!(
        ran.stdout.contains("resource == Mesh::Route::\"hq.bank.example/core/accounts#GET /accounts/{id}/entries\""),
        "{}",
        ran.stdout
    );
    place.policy(&["suggest", &records, "--owner", "core-banking", "--write"]).expect(0);
    // Alone they permit every call that was allowed.
    for entry in std::fs::read_dir(place.path("policies")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("suggested.cedar") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let replayed = place.policy(&["replay", &records, "-o", "json"]).expect(0).json();
    assert_eq!((&replayed["flips"], &replayed["decided"]), (&serde_json::json!([]), &11.into()), "{replayed}");
    let checked = place.policy(&["check", "-o", "json"]).json();
    assert_eq!(checked["problems"], serde_json::json!([]), "{checked}");
}
