//! `signet policy report` and `test`, and the hook that refuses a push.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::place::Place;

const LEDGER: &str = "policies/ledger.cedar";
/// Breaks the invariant `only-payments-writes-to-the-ledger`.
const WEB_WRITES: &str = "
@id(\"web-books\") @owner(\"channels\")
permit (
  principal == Mesh::Workload::\"spiffe://east.bank.example/ns/bank/sa/web\",
  action == Mesh::Action::\"http:PUT\",
  resource in Mesh::Service::\"east.bank.example/bank/ledger\"
);
";
const WEB_ASKS: &str = "
@id(\"web-asks-payments\") @owner(\"core-banking\")
permit (
  principal == Mesh::Workload::\"spiffe://east.bank.example/ns/bank/sa/web\",
  action == Mesh::Action::\"http:GET\",
  resource in Mesh::Service::\"east.bank.example/bank/payments\"
);
";

#[test]
fn a_report_shows_what_is_permitted_and_what_breaks_in_every_form() {
    let place = Place::new();
    // The demo's repository itself is sound.
    let sound = place.policy(&["report", "HEAD..HEAD", "--solver-limit", "120"]).expect(0).stdout;
    let holds = |line: &str| line.contains("`only-payments-writes-to-the-ledger`") && line.ends_with("holds, proved");
    assert!(sound.lines().any(holds), "{sound}");
    assert!(sound.contains("Nothing: proved for all ") && sound.contains("replay: not run"), "{sound}");
    place.append(LEDGER, WEB_WRITES);
    place.commit("Let web book");
    let ran = place.policy(&[
        "report",
        "HEAD~1..HEAD",
        "--solver-limit",
        "120",
        "-o",
        "json",
        "--markdown",
        "r.md",
        "--sarif",
        "r.sarif",
        "--junit",
        "r.xml",
    ]);
    let ran = ran.expect(1);
    assert!(ran.stderr.contains("broken: 1 broken invariant"), "{}", ran.stderr);
    let json = ran.json();
    assert_eq!((&json["is_broken"], &json["replay"]), (&true.into(), &"not run".into()));
    let broken: Vec<_> = json["invariants"].as_array().unwrap().iter().filter(|i| i["result"] == "broken").collect();
    assert_eq!(broken.len(), 1, "{json}");
    assert_eq!(broken[0]["example"]["principal"], "spiffe://east.bank.example/ns/bank/sa/web");
    let permitted =
        json["diff"]["request_types"].as_array().unwrap().iter().filter(|r| r["result"] == "newly_permitted");
    assert_eq!(permitted.count(), 1, "{json}");
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert!(read("r.md").contains("is permitted by `web-books`"), "{}", read("r.md"));
    assert!(read("r.xml").contains("name=\"only-payments-writes-to-the-ledger\""), "{}", read("r.xml"));
    let sarif: serde_json::Value = serde_json::from_str(&read("r.sarif")).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let new = results.iter().find(|r| r["ruleId"] == "newly_permitted").unwrap();
    assert_eq!(new["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], LEDGER);
}

#[test]
fn tests_are_written_as_junit_and_name_policies_that_no_case_needs() {
    let place = Place::new();
    place.append(LEDGER, WEB_ASKS);
    let ran = place.policy(&["test", "--junit", "t.xml", "-o", "json"]).expect(0).json();
    assert!(ran["passed"].as_u64().unwrap() > 5 && ran["failed"] == 0, "{ran}");
    let untested: Vec<_> = ran["untested"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    assert!(untested.contains(&"web-asks-payments") && !untested.contains(&"web-pays"), "{untested:?}");
    assert!(std::fs::read_to_string(place.path("t.xml")).unwrap().contains("failures=\"0\""));
    place.edit("policies/payments.cedar", "permit (", "forbid (");
    let failed = place.policy(&["test", "--junit", "t.xml"]).expect(1).stdout;
    assert!(failed.contains("failed: tests/bank.yaml:"), "{failed}");
    assert!(std::fs::read_to_string(place.path("t.xml")).unwrap().contains("<failure message="));
}

#[test]
fn the_server_side_hook_refuses_a_push_that_breaks_an_invariant() {
    let place = Place::new();
    let bare = tempfile::tempdir().unwrap();
    let url = bare.path().to_str().unwrap();
    place.git(&["init", "-q", "--bare", "-b", "main", url]);
    place.git(&["push", "-q", url, "main"]);
    let hook = bare.path().join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ci/pre-receive"), &hook).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_signet")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let push = |refs: &str| {
        let mut git = Command::new("git");
        git.current_dir(place.path(""))
            .env("PATH", &path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = git.args(["push", "-q", url, refs]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let at = || place.git(&["ls-remote", url, "refs/heads/main"]).split('\t').next().unwrap().to_owned();
    let begin = at();
    // A change that breaks nothing comes in, in quarantine or packed.
    place.append(LEDGER, WEB_ASKS);
    place.commit("Let web ask");
    let (accepted, said) = push("main");
    assert!(accepted && said.contains("nothing is broken") && said.contains("newly permitted"), "{said}");
    let good = at();
    assert_ne!(good, begin);
    place.append(LEDGER, WEB_WRITES);
    place.commit("Let web book");
    let (accepted, said) = push("main");
    assert!(!accepted && said.contains("**broken**") && said.contains("stays where it was"), "{said}");
    assert_eq!(at(), good);
    // Another branch is not enforced; the enforced one is not deleted.
    let (accepted, said) = push("main:refs/heads/mine");
    assert!(accepted, "{said}");
    let (accepted, said) = push(":main");
    assert!(!accepted && said.contains("cannot be deleted"), "{said}");
    assert_eq!(at(), good);
}
