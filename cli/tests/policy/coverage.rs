//! `signet policy test`: what the decision tables try of the policies, clause by clause.

use crate::place::Place;

#[test]
fn clauses_that_no_case_tries_are_named_and_can_fail_the_run() {
    let place = Place::new();
    let before = place.policy(&["test", "-o", "json"]).expect(0).json()["coverage"].clone();
    place.append(
        "policies/ledger.cedar",
        "\n@id(\"nightly\")\n@owner(\"bank\")\npermit (\n  principal == Mesh::Workload::\"spiffe://east.bank.example/ns/bank/sa/batch\",\n  \
         action == Mesh::Action::\"http:GET\",\n  resource in Mesh::Service::\"east.bank.example/bank/ledger\"\n)\n\
         when { context.clock.minute_of_day < 300 && context.path like \"/accounts/*\" };\n",
    );
    place.append(
        "tests/bank.yaml",
        "\n  - name: batch reads no account by day\n    principal: east.bank.example/bank/batch\n    action: http:GET\n    \
         resource: east.bank.example/bank/ledger\n    path: /accounts/1\n    expect: deny\n",
    );
    let ran = place.policy(&["test"]).expect(0).stdout;
    let place_of = |text: &str| format!("never {text}");
    for line in [
        place_of("true: policies/ledger.cedar:"),
        "`nightly`: context.clock.minute_of_day < 300".to_owned(),
        "`nightly`: context.path like \"/accounts/*\"".to_owned(),
    ] {
        assert!(ran.contains(&line), "`{line}` is not in\n{ran}");
    }
    let found = place.policy(&["test", "-o", "json"]).expect(0).json()["coverage"].clone();
    // Decisive, and two outcomes of two clauses: one of the five was tried.
    let count = |json: &serde_json::Value, name: &str| json[name].as_u64().unwrap();
    assert_eq!(count(&found, "outcomes"), count(&before, "outcomes") + 5, "{found}");
    assert_eq!(count(&found, "covered"), count(&before, "covered") + 1, "{found}");
    let nightly = found["policies"].as_array().unwrap().iter().find(|policy| policy["id"] == "nightly").unwrap();
    assert_eq!((&nightly["reached"], &nightly["determined"]), (&1.into(), &0.into()));
    assert_eq!((&nightly["clauses"][0]["false"], &nightly["clauses"][1]["false"]), (&1.into(), &0.into()));
    let percent = count(&found, "percent");
    place.policy(&["test", "--min-coverage", &percent.to_string()]).expect(0);
    let ran = place.policy(&["test", "--min-coverage", &(percent + 1).to_string()]).expect(1);
    assert!(ran.stderr.contains("--min-coverage asks for") && ran.stderr.contains("next:"), "{}", ran.stderr);
    place.policy(&["test", "--min-coverage", "101"]).expect(2);
}
