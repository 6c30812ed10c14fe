//! What a change permits and denies, proved with the real solver and decided again by the engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use signet_policy::{Bundle, BundleSource};
use signet_policy_analysis::{Change, Diff, SolverSettings, TypeDiff, diff};

const WEB: &str = "principal == Mesh::Workload::\"spiffe://a.b/ns/bank/sa/web\"";
const LEDGER: &str = "resource in Mesh::Service::\"a.b/bank/ledger\"";

fn bundle(settings: &str, policies: &str) -> Bundle {
    let mut source = BundleSource { commit: "test".to_owned(), ..BundleSource::default() };
    source.files.insert("signet.yaml".to_owned(), format!("version: 1\n{settings}"));
    source.files.insert("policies/p.cedar".to_owned(), policies.to_owned());
    Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn settings() -> SolverSettings {
    SolverSettings { limit: Duration::from_secs(60), workers: 2, ..SolverSettings::default() }
}

/// `permit` with an id, for `who`, `action`, `what` and more conditions.
fn permit(id: &str, who: &str, action: &str, what: &str, when: &str) -> String {
    format!("@id(\"{id}\") permit({who}, {action}, {what}) {when};\n")
}

fn get(id: &str) -> String {
    permit(id, WEB, "action == Mesh::Action::\"http:GET\"", LEDGER, "")
}

/// The request types that change, as `Workload http:GET Service newly_permitted`.
fn changes(diff: &Diff) -> Vec<String> {
    let short = |name: &str| name.replace("Mesh::", "");
    let row =
        |t: &TypeDiff| format!("{} {} {} {}", short(&t.principal), t.action, short(&t.resource), t.result.as_str());
    let undecided: Vec<_> = diff.request_types.iter().filter_map(|t| t.undecided.as_ref()).collect();
    assert!(undecided.is_empty(), "{undecided:?}");
    diff.request_types.iter().filter(|t| t.result != Change::NoChange).map(row).collect()
}

fn check(base: (&str, &str), head: (&str, &str), expect: &[&str]) -> Diff {
    let (base_bundle, head_bundle) = (bundle(base.0, base.1), bundle(head.0, head.1));
    let found = diff(&base_bundle, &head_bundle, &settings());
    assert_eq!(changes(&found), expect, "{} -> {}", base.1, head.1);
    for row in &found.request_types {
        for (finding, permitted) in [(&row.newly_permitted, true), (&row.newly_denied, false)] {
            let Some(finding) = finding else { continue };
            let request = finding.request.request();
            let answers = (base_bundle.decide(&request).is_allowed(), head_bundle.decide(&request).is_allowed());
            assert_eq!(answers, (!permitted, permitted), "{}", finding.request.line());
            assert_eq!(format!("Mesh::{}", row.resource.replace("Mesh::", "")), row.resource);
        }
    }
    // The other way round everything is mirrored.
    let back = diff(&head_bundle, &base_bundle, &settings());
    let mirrored: Vec<String> = expect
        .iter()
        .map(|row| match row.rsplit_once(' ') {
            Some((what, "newly_permitted")) => format!("{what} newly_denied"),
            Some((what, "newly_denied")) => format!("{what} newly_permitted"),
            _ => (*row).to_owned(),
        })
        .collect();
    assert_eq!(changes(&back), mirrored);
    found
}

#[test]
fn a_new_grant_is_found_with_a_readable_example() {
    let post = permit("b", WEB, "action == Mesh::Action::\"http:POST\"", LEDGER, "");
    let found = check(("", &get("a")), ("", &(get("a") + &post)), &["Workload http:POST Service newly_permitted"]);
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyPermitted).unwrap();
    let finding = row.newly_permitted.as_ref().unwrap();
    assert_eq!(finding.request.line(), "spiffe://a.b/ns/bank/sa/web http:POST a.b/bank/ledger /accounts/1");
    assert_eq!((finding.base.reason, finding.head.policies.as_slice()), ("no_permit", &["b".to_owned()][..]));
    let json = serde_json::to_value(row).unwrap();
    assert_eq!(json["result"], "newly_permitted");
    assert_eq!(json["example"]["principal"], "spiffe://a.b/ns/bank/sa/web");
    assert_eq!(json["example"]["head"]["effect"], "allow");
}

#[test]
fn renaming_splitting_merging_and_reordering_change_nothing() {
    let office = "when { context.clock.minute_of_day > 540 && context.clock.weekday < 6 }";
    let read = permit("r", WEB, "action in [Mesh::Action::\"http:GET\", Mesh::Action::\"http:HEAD\"]", LEDGER, office);
    let split = permit("x", WEB, "action == Mesh::Action::\"http:HEAD\"", LEDGER, office)
        + &permit(
            "y",
            WEB,
            "action == Mesh::Action::\"http:GET\"",
            LEDGER,
            "when { context.clock.weekday < 6 } when { context.clock.minute_of_day >= 541 }",
        );
    check(("", &read), ("", &split), &[]);
    let forbid = "@id(\"f\") forbid(principal is Mesh::Unauthenticated, action, resource);\n";
    check(("", &(get("a") + forbid)), ("", &(forbid.replace("\"f\"", "\"g\"") + &get("z"))), &[]);
    // A namespace's workload, said by its attributes or by its place.
    let by_place = permit(
        "p",
        "principal in Mesh::Namespace::\"a.b/bank\"",
        "action == Mesh::Action::\"tcp:connect\"",
        LEDGER,
        "",
    );
    let by_name = permit(
        "p",
        "principal is Mesh::Workload",
        "action == Mesh::Action::\"tcp:connect\"",
        LEDGER,
        "when { principal.trust_domain == \"a.b\" && principal.namespace == \"bank\" }",
    );
    check(("", &by_place), ("", &by_name), &[]);
}

#[test]
fn facts_of_both_sides_count() {
    let reads = permit(
        "p",
        "principal is Mesh::Workload",
        "action == Mesh::Action::\"http:GET\"",
        "resource is Mesh::Service",
        "when { resource.data_class == Mesh::DataClass::\"public\" }",
    );
    let service = |class: &str| format!("services: {{a.b/bank/ledger: {{data_class: {class}}}}}\n");
    let found = check(
        (&service("internal"), &reads),
        (&service("public"), &reads),
        &["Workload http:GET Service newly_permitted"],
    );
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyPermitted).unwrap();
    assert_eq!(row.newly_permitted.as_ref().unwrap().request.service, "a.b/bank/ledger");
    // Team membership, tags and defaults.
    let team = permit("p", "principal in Mesh::Team::\"core\"", "action == Mesh::Action::\"tcp:connect\"", LEDGER, "");
    let members = |list: &str| format!("teams: {{core: {{workloads: [{list}]}}}}\n");
    check((&members("a.b/bank/web"), &team), (&members("a.b/bank/pay"), &team), &["Workload tcp:connect Service both"]);
    let tagged = permit(
        "p",
        "principal is Mesh::Workload",
        "action == Mesh::Action::\"tcp:connect\"",
        LEDGER,
        "when { principal.hasTag(\"tier\") && principal.getTag(\"tier\") == \"1\" }",
    );
    let tag = |value: &str| format!("workloads: {{a.b/bank/web: {{tags: {{tier: \"{value}\"}}}}}}\n");
    check((&tag("2"), &tagged), (&tag("1"), &tagged), &["Workload tcp:connect Service newly_permitted"]);
    check(("defaults: {data_class: public}\n", &reads), ("", &reads), &["Workload http:GET Service newly_denied"]);
}

#[test]
fn routes_of_both_sides_count() {
    let routes = |list: &str| format!("services: {{a.b/bank/ledger: {{routes: [{list}]}}}}\n");
    // Declaring routes denies the paths that are not among them.
    check(("", &get("a")), (&routes("'GET /accounts/{id}'"), &get("a")), &["Workload http:GET Service newly_denied"]);
    // A route more lets more paths through.
    let found = check(
        (&routes("'GET /accounts/{id}'"), &get("a")),
        (&routes("'GET /accounts/{id}', 'GET /accounts/{id}/entries'"), &get("a")),
        &["Workload http:GET Route newly_permitted"],
    );
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyPermitted).unwrap();
    let path = row.newly_permitted.as_ref().unwrap().request.path.clone().unwrap();
    assert!(path.starts_with("/accounts/") && path.ends_with("/entries"), "{path}");
    // A more specific route takes requests away from a grant for the other one.
    let one = permit(
        "p",
        WEB,
        "action == Mesh::Action::\"http:GET\"",
        "resource == Mesh::Route::\"a.b/bank/ledger#GET /accounts/{id}\"",
        "",
    );
    check(
        (&routes("'GET /accounts/{id}'"), &one),
        (&routes("'GET /accounts/{id}', 'GET /accounts/admin'"), &one),
        &["Workload http:GET Route newly_denied"],
    );
    // The order of the same routes does not matter.
    check((&routes("'GET /a', 'GET /b'"), &get("a")), (&routes("'GET /b', 'GET /a'"), &get("a")), &[]);
}

#[test]
fn conditions_on_paths_are_about_paths_that_requests_can_have() {
    let like = |pattern: &str| {
        permit(
            "p",
            WEB,
            "action == Mesh::Action::\"http:GET\"",
            LEDGER,
            &format!("when {{ context.path like \"{pattern}\" }}"),
        )
    };
    check(("", &like("/accounts/1")), ("", &like("/accounts/*")), &["Workload http:GET Service newly_permitted"]);
    // No path holds two slashes in a row or goes up.
    let both = like("/a/*") + &like("/a//*").replace("\"p\"", "\"q\"") + &like("/b/../*").replace("\"p\"", "\"r\"");
    check(("", &like("/a/*")), ("", &both), &[]);
    // On a route the path has the route's shape.
    let routes = "services: {a.b/bank/ledger: {routes: ['GET /accounts/{id}']}}\n";
    check((routes, &like("/accounts/*")), (routes, &like("*")), &[]);
    check(
        (routes, &like("/accounts/1*")),
        (routes, &like("/accounts/*")),
        &["Workload http:GET Route newly_permitted"],
    );
}

#[test]
fn shadow_policies_are_left_out() {
    let shadow = "@id(\"s\") @mode(\"shadow\") forbid(principal, action, resource);\n";
    check(("", &get("a")), ("", &(get("a") + shadow)), &[]);
    check(
        ("", &get("a")),
        ("", &(get("a") + &shadow.replace("@mode(\"shadow\")", ""))),
        &["Workload http:GET Service newly_denied"],
    );
}

#[test]
fn a_forbid_that_fails_to_evaluate_denies() {
    // Fails for every port above 0, so that it denies although it never holds.
    let forbid = "@id(\"f\") forbid(principal, action == Mesh::Action::\"http:GET\", resource)
        when { context.net.dst_port + 9223372036854775807 < 0 };\n";
    let found = check(("", &get("a")), ("", &(get("a") + forbid)), &["Workload http:GET Service newly_denied"]);
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyDenied).unwrap();
    assert_eq!(row.newly_denied.as_ref().unwrap().head.reason, "policy_error");
    // An erring permit permits nothing.
    let erring = get("a").replace(") ;", ") when { context.net.dst_port + 9223372036854775807 > 0 };");
    assert_ne!(erring, get("a"));
    check(("", &erring), ("", ""), &[]);
}

#[test]
fn every_kind_of_request_is_compared() {
    let open = permit("p", "principal", "action", "resource", "");
    let outside = "external_services: {rates: {host: rates.example}}\n";
    let found = diff(&bundle(outside, ""), &bundle(outside, &open), &settings());
    let permitted: Vec<_> = changes(&found);
    // No route is declared, so no request is about one.
    assert!(permitted.iter().all(|row| row.ends_with("newly_permitted") && !row.contains("Route")), "{permitted:?}");
    for row in [
        "Unauthenticated http:OTHER Service",
        "Workload grpc:call Service",
        "Workload egress:connect ExternalService",
        "Workload gateway:forward Service",
    ] {
        assert!(permitted.iter().any(|found| found.starts_with(row)), "{row} in {permitted:?}");
    }
    // An external service that is declared anew.
    check(("", &open), (outside, &open), &["Workload egress:connect ExternalService newly_permitted"]);
}

#[test]
fn context_conditions_are_bounded_by_what_there_is() {
    let when =
        |text: &str| permit("p", WEB, "action == Mesh::Action::\"tcp:connect\"", LEDGER, &format!("when {{ {text} }}"));
    check(("", &when("context.clock.weekday > 0 && context.net.dst_port <= 65535")), ("", &when("true")), &[]);
    check(("", &when("context.net.src_cluster == principal.trust_domain")), ("", &when("true")), &[]);
    check(("", &when("context.net.dst_cluster == \"a.b\"")), ("", &when("true")), &[]);
    check(
        ("", &when("context.net.src_ip.isInRange(ip(\"10.0.0.0/8\"))")),
        ("", &when("context.net.src_ip.isInRange(ip(\"10.1.0.0/16\"))")),
        &["Workload tcp:connect Service newly_denied"],
    );
    check(
        ("", &when("context.clock.now < datetime(\"2027-01-01\")")),
        ("", &when("context.clock.now < datetime(\"2028-01-01\")")),
        &["Workload tcp:connect Service newly_permitted"],
    );
    check(("", &when("context has jwt")), ("", &when("false")), &[]);
}

const LOGIN: &str = "https://login.example";
const KEYS: &str =
    r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// With an issuer of end users' tokens, for the audience `ledger` and for `services`.
fn users(services: &str, policies: &str) -> Bundle {
    let mut source = BundleSource { commit: "test".to_owned(), ..BundleSource::default() };
    let issuer = format!("{{issuer: '{LOGIN}', audiences: [ledger], keys_file: keys/k.json, services: [{services}]}}");
    source.files.insert("signet.yaml".to_owned(), format!("version: 1\nend_users: {{issuers: [{issuer}]}}\n"));
    source.files.insert("policies/p.cedar".to_owned(), policies.to_owned());
    source.files.insert("keys/k.json".to_owned(), KEYS.to_owned());
    Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn for_user(when: &str) -> String {
    permit("u", WEB, "action == Mesh::Action::\"http:GET\"", LEDGER, &format!("when {{ {when} }}"))
}

#[test]
fn claims_of_end_users_are_compared_and_shown() {
    let tellers = for_user("context has jwt && context.jwt.groups.contains(\"tellers\")");
    let strong = for_user(
        "context has jwt && context.jwt.groups.contains(\"tellers\") && context.jwt has acr && context.jwt.acr == \"mfa\"",
    );
    let compare = |base: &str, head: &str| diff(&users("", base), &users("", head), &settings());
    assert_eq!(changes(&compare(&tellers, &tellers)), Vec::<String>::new());
    let found = compare(&strong, &tellers);
    assert_eq!(changes(&found), ["Workload http:GET Service newly_permitted"]);
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyPermitted).unwrap();
    let request = &row.newly_permitted.as_ref().unwrap().request;
    assert!(request.line().ends_with("for ada of https://login.example (groups tellers)"), "{}", request.line());
    let json = serde_json::to_value(request).unwrap();
    assert_eq!((&json["jwt"]["sub"], &json["jwt"]["groups"][0]), (&"ada".into(), &"tellers".into()));
    assert_eq!(changes(&compare(&tellers, &strong)), ["Workload http:GET Service newly_denied"]);
    // Another way to say the same: nested guard, order, and who vouches, which is known.
    let same = for_user("context has jwt.acr && \"mfa\" == context.jwt.acr && context.jwt.groups.containsAll([\"tellers\"])
        && context.jwt.iss == \"https://login.example\" && context.jwt.aud.contains(\"ledger\") && context.jwt.sub != \"\"");
    assert_eq!(changes(&compare(&strong, &same)), Vec::<String>::new());
    // A forbid about one user is seen through a permit that asks for none.
    let forbid = get("g")
        + "@id(\"f\") forbid(principal, action, resource) when { context has jwt && context.jwt.sub == \"eve\" };";
    let found = compare(&get("g"), &forbid);
    assert_eq!(changes(&found), ["Workload http:GET Service newly_denied"]);
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyDenied).unwrap();
    assert!(row.newly_denied.as_ref().unwrap().request.line().contains("for eve of"), "{row:?}");
}

#[test]
fn an_end_user_is_there_only_where_an_issuer_vouches_for_one() {
    let any = for_user("context has jwt");
    // No issuer is declared, or none for this service: no call has an end user.
    check(("", &any), ("", ""), &[]);
    let other = "a.b/bank/payments";
    assert_eq!(changes(&diff(&users(other, &any), &users(other, ""), &settings())), Vec::<String>::new());
    let ours = "a.b/bank/ledger";
    assert_eq!(
        changes(&diff(&users(ours, ""), &users(ours, &any), &settings())),
        ["Workload http:GET Service newly_permitted"]
    );
    // Nobody else vouches for anyone.
    let stranger = for_user("context has jwt && context.jwt.iss == \"https://evil.example\"");
    assert_eq!(changes(&diff(&users("", ""), &users("", &stranger), &settings())), Vec::<String>::new());
    let elsewhere = for_user("context has jwt && !context.jwt.aud.contains(\"ledger\")");
    assert_eq!(changes(&diff(&users("", ""), &users("", &elsewhere), &settings())), Vec::<String>::new());
}

#[test]
fn where_the_issuers_change_too_what_reads_a_token_is_not_decided() {
    let any = for_user("context has jwt");
    let found = diff(&users("", &any), &users("a.b/bank/ledger", &any), &settings());
    let undecided: Vec<_> = found.request_types.iter().filter(|t| t.result == Change::NotDecided).collect();
    assert!(!undecided.is_empty() && undecided.iter().all(|t| t.action == "http:GET"), "{undecided:?}");
    assert!(undecided[0].undecided.as_ref().unwrap().to_string().contains("`end_users` of signet.yaml differs"));
    // Whoever reads none is decided all the same.
    assert_eq!(
        changes(&diff(&users("", &get("a")), &users("a.b/bank/ledger", &get("a")), &settings())),
        Vec::<String>::new()
    );
}

#[test]
fn what_a_grant_opens_is_compared_and_shown() {
    let open =
        |when: &str| permit("g", WEB, "action == Mesh::Action::\"http:GET\"", LEDGER, &format!("when {{ {when} }}"));
    let compare = |base: &str, head: &str| diff(&bundle("", base), &bundle("", head), &settings());
    let any = open("context has break_glass");
    let two = open(
        "context has break_glass && context.break_glass.approvers.containsAll([\"ada@b.c\", \"eve@b.c\"])
         && context.break_glass.ticket like \"INC-*\"",
    );
    assert_eq!(changes(&compare(&any, &any)), Vec::<String>::new());
    let found = compare("", &two);
    assert_eq!(changes(&found), ["Workload http:GET Service newly_permitted"]);
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyPermitted).unwrap();
    let request = &row.newly_permitted.as_ref().unwrap().request;
    assert!(request.line().contains("with break-glass INC-"), "{}", request.line());
    assert!(request.line().ends_with("(approved by ada@b.c, eve@b.c)"), "{}", request.line());
    assert_eq!(serde_json::to_value(request).unwrap()["break_glass"]["approvers"][1], "eve@b.c");
    assert_eq!(changes(&compare(&two, &any)), ["Workload http:GET Service newly_permitted"]);
    // A grant has all of its attributes, and none is seen from its end on.
    let said = open(
        "context has break_glass.ticket && context.break_glass has until && context.clock.now < context.break_glass.until",
    );
    assert_eq!(changes(&compare(&any, &said)), Vec::<String>::new());
    let over = open("context has break_glass && context.clock.now >= context.break_glass.until");
    assert_eq!(changes(&compare("", &over)), Vec::<String>::new());
}

#[test]
fn without_a_solver_nothing_is_decided() {
    let missing = SolverSettings { program: "/nonexistent/cvc5".into(), ..settings() };
    let found = diff(&bundle("", &get("a")), &bundle("", &get("a")), &missing);
    assert!(found.request_types.len() > 20);
    assert!(found.request_types.iter().all(|t| t.result == Change::NotDecided));
    assert!(!found.is_decided());
    let why = found.request_types[0].undecided.as_ref().unwrap().to_string();
    assert!(why.contains("/nonexistent/cvc5") && why.contains("install cvc5"), "{why}");
    // A program that is no solver is none either.
    let wrong = SolverSettings { program: "/bin/true".into(), ..settings() };
    assert!(!diff(&bundle("", ""), &bundle("", ""), &wrong).is_decided());
}

#[test]
fn hundreds_of_policies_that_may_all_matter_are_compared() {
    let port = |n: usize, most: usize| {
        let when = format!("when {{ context.net.dst_port >= {n} && context.net.dst_port <= {most} }}");
        permit(&format!("p{n}"), WEB, "action == Mesh::Action::\"tcp:connect\"", LEDGER, &when)
    };
    let base: String = (1..=500).map(|n| port(n * 3, n * 3)).collect();
    let head = base.replace(&port(750, 750), &port(750, 751));
    assert_ne!(base, head);
    let (base, head) = (bundle("", &base), bundle("", &head));
    let found = diff(&base, &head, &settings());
    assert_eq!(changes(&found), ["Workload tcp:connect Service newly_permitted"]);
    let row = found.request_types.iter().find(|t| t.result == Change::NewlyPermitted).unwrap();
    assert_eq!(row.newly_permitted.as_ref().unwrap().request.dst_port, 751);
}
