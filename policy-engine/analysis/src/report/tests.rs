//! What a report calls broken, and that text of a repository is never markup in it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::*;

const POLICIES: &str = "@id(\"reads\") @owner(\"o\") permit(principal == Mesh::Workload::\"spiffe://a.b/ns/n/sa/web\",
    action == Mesh::Action::\"http:GET\", resource in Mesh::Service::\"a.b/n/s\");\n";
const INVARIANT: &str = "@id(\"no-writes\") @owner(\"o\") forbid(principal, action in [Mesh::Action::\"write\"],
    resource in Mesh::Service::\"a.b/n/s\");\n";
const TEST: &str =
    "cases: [{name: \"a <b> | `c`\\n## d\", principal: a.b/n/web, action: GET, resource: a.b/n/s, expect: allow}]\n";

fn source(policies: &str, invariant: &str, test: &str) -> BundleSource {
    let mut source = BundleSource { commit: "c".into(), ..BundleSource::default() };
    let files = [
        ("signet.yaml", "version: 1\n"),
        ("policies/p.cedar", policies),
        ("invariants/i.cedar", invariant),
        ("tests/t.yaml", test),
    ];
    source.files.extend(files.map(|(path, text)| (path.to_owned(), text.to_owned())));
    source
}

fn report(base: &BundleSource, head: &BundleSource) -> Report {
    let limit = std::time::Duration::from_secs(60);
    Report::new(base, head, &SolverSettings { limit, workers: 2, ..SolverSettings::default() })
}

#[test]
fn a_change_that_only_permits_more_is_shown_and_not_broken() {
    let (base, head) = (source("", INVARIANT, ""), source(POLICIES, INVARIANT, TEST));
    // Without cases the table is empty, which is not valid; base is never tested.
    let report = report(&base, &head);
    assert_eq!(report.broken(), Vec::<String>::new());
    let markdown = report.markdown();
    assert!(markdown.starts_with("## Policy report: nothing is broken\n"), "{markdown}");
    assert!(markdown.contains("| **newly permitted** | Workload | `http:GET` | Service |"), "{markdown}");
    assert!(markdown.contains("`no-writes` (`invariants/i.cedar`:1): holds, proved"), "{markdown}");
    assert!(markdown.contains("replay: not run"), "{markdown}");
}

#[test]
fn a_broken_invariant_is_shown_with_the_call_and_the_policy_that_permits_it() {
    let base = source(POLICIES, INVARIANT, TEST);
    let head = source(&POLICIES.replace("action == Mesh::Action::\"http:GET\"", "action"), INVARIANT, TEST);
    let found = report(&base, &head);
    assert_eq!(found.broken(), ["1 broken invariant"]);
    let Held::Broken(breach) = &found.invariants[0].held else { panic!("{:?}", found.invariants) };
    assert_eq!((breach.head.effect, breach.head.policies.as_slice()), ("allow", &["reads".to_owned()][..]));
    assert!(breach.request.line().starts_with("spiffe://a.b/ns/n/sa/web http:"), "{}", breach.request.line());
    let sarif = found.sarif(Bundle::compile(&head).ok().as_ref());
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let broken = results.iter().find(|r| r["ruleId"] == "invariant_broken").unwrap();
    let place = &broken["locations"][0]["physicalLocation"];
    assert_eq!(
        (&place["artifactLocation"]["uri"], &place["region"]["startLine"]),
        (&"invariants/i.cedar".into(), &1.into())
    );
    assert!(results.iter().any(|r| r["ruleId"] == "newly_permitted" && r["level"] == "note"), "{sarif}");
    assert!(found.junit().contains("<testcase classname=\"invariants\" name=\"no-writes\""), "{}", found.junit());
    // Taking the invariant away is not broken, and is said.
    let without = report(&base, &source(&head.files["policies/p.cedar"], "", TEST));
    assert_eq!((without.broken(), without.weakened_invariants.clone()), (Vec::new(), vec!["no-writes".to_owned()]));
    assert!(without.markdown().contains("`no-writes`: **changed or removed** by this change"));
}

#[test]
fn an_invariant_is_proved_with_the_forbids_and_conditions_of_the_policies() {
    let open = "@id(\"open\") @owner(\"o\") permit(principal, action, resource);\n";
    let forbid = "@id(\"f\") @owner(\"o\") forbid(principal, action in [Mesh::Action::\"write\"], resource)";
    let held = |policies: &str| {
        let head = source(&(open.to_owned() + policies), INVARIANT, "");
        invariants(&head, &Bundle::compile(&head).unwrap(), &SolverSettings { workers: 2, ..SolverSettings::default() })
            [0]
        .result()
    };
    assert_eq!(held(""), "broken");
    assert_eq!(held(&format!("{forbid};")), "holds");
    assert_eq!(held(&format!("{forbid} when {{ context.net.dst_port != 81 }};")), "broken");
    // A shadow policy denies nothing.
    assert_eq!(held(&format!("@mode(\"shadow\") {forbid};")), "broken");
}

#[test]
fn without_a_solver_no_invariant_is_said_to_hold() {
    let head = source(POLICIES, INVARIANT, TEST);
    let missing = SolverSettings { program: "/nonexistent/cvc5".into(), ..SolverSettings::default() };
    let found = Report::new(&head, &head, &missing);
    assert_eq!(found.invariants[0].result(), "not_decided");
    assert!(
        found.is_broken && found.broken().iter().any(|why| why.contains("undecided invariant")),
        "{:?}",
        found.broken()
    );
}

#[test]
fn text_of_the_repository_is_never_markup() {
    let head = source("", INVARIANT, TEST);
    let missing = SolverSettings { program: "/nonexistent/cvc5".into(), ..SolverSettings::default() };
    let found = Report::new(&head, &head, &missing);
    let markdown = found.markdown();
    assert!(markdown.contains("1 failed.") && markdown.contains("`a <b> | 'c' ## d`"), "{markdown}");
    assert!(!markdown.contains("\n## d"), "{markdown}");
    let xml = found.junit();
    assert!(xml.contains("name=\"a &lt;b&gt; | `c`&#10;## d\"") && xml.contains("<failure message="), "{xml}");
}
