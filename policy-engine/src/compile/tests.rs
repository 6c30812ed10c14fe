//! What compiles and what is refused, with the code and the place of each refusal.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use super::*;

fn source(policy: &str) -> BundleSource {
    let files = [("signet.yaml", "version: 1\n"), ("policies/a.cedar", policy)];
    BundleSource {
        files: files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect(),
        ..BundleSource::default()
    }
}

fn refused(policy: &str) -> Vec<Problem> {
    match compile(&source(policy)) {
        Ok(_) => panic!("compiled: {policy}"),
        Err(problems) => problems,
    }
}

#[test]
fn each_refusal_names_code_line_and_column() {
    let table = [
        ("permit(principal, action, resource);", "missing_id", 1, 1),
        ("\n@id(\"a b\")\npermit(principal, action, resource);", "bad_id", 2, 1),
        ("@id(\"a\") @mode(\"maybe\")\npermit(principal, action, resource);", "bad_mode", 1, 1),
        ("@id(\"a\")\npermit(principal, action resource);", "parse", 2, 26),
        ("@id(\"a\")\npermit(principal, action, resource)\nwhen { principal.color == \"red\" };", "validation", 3, 8),
        ("@id(\"a\")\npermit(principal, action == Mesh::Action::\"fly\", resource);", "validation", 2, 29),
        ("@id(\"a\")\npermit(principal == ?principal, action, resource);", "template", 1, 1),
        (
            "@id(\"a\")\npermit(principal, action, resource);\n@id(\"a\")\npermit(principal, action, resource);",
            "duplicate_id",
            3,
            1,
        ),
        (
            "@id(\"a\")\npermit(principal, action, resource)\nwhen { context.jwt.sub == \"x\" };",
            "unguarded_attribute",
            3,
            8,
        ),
    ];
    for (policy, code, line, column) in table {
        let problem = &refused(policy)[0];
        assert_eq!((problem.code.as_str(), problem.line, problem.column), (code, line, column), "{policy}\n{problem}");
        assert_eq!(problem.path, "policies/a.cedar");
    }
}

#[test]
fn all_problems_are_reported_together() {
    let mut source = source("permit(principal, action, resource);");
    source.files.insert("policies/b.cedar".into(), "nonsense".into());
    source.files.insert("invariants/c.cedar".into(), "permit(principal, action, resource);".into());
    source.files.insert("signet.yaml".into(), "version: 1\nextra: 1\n".into());
    let Err(problems) = compile(&source) else { panic!("compiled") };
    let found: Vec<(&str, &str)> = problems.iter().map(|p| (p.path.as_str(), p.code.as_str())).collect();
    let want = [
        ("signet.yaml", "settings"),
        ("policies/a.cedar", "missing_id"),
        ("policies/b.cedar", "parse"),
        ("invariants/c.cedar", "missing_id"),
    ];
    assert_eq!(found, want);
}

#[test]
fn a_bundle_without_settings_is_refused() {
    let mut source = source("");
    source.files.remove("signet.yaml");
    let Err(problems) = compile(&source) else { panic!("compiled") };
    assert_eq!(problems[0].to_string(), "signet.yaml: settings: the file is missing (write at least `version: 1`)");
}

#[test]
fn compiled_policies_know_their_place_mode_and_reads() {
    let text = "// why\n@id(\"one\")\npermit(principal, action in [Mesh::Action::\"read\"], resource)\nwhen { context.path like \"/a*\" };\n\n\
                @id(\"two\") @mode(\"shadow\")\nforbid(principal, action, resource);\n";
    let compiled = compile(&source(text)).unwrap_or_else(|e| panic!("{e:?}"));
    let seen: Vec<(&str, u32, bool, bool, Reads)> =
        compiled.policies.iter().map(|p| (&*p.id, p.line, p.shadow, p.is_forbid(), p.reads)).collect();
    assert_eq!(seen, [("one", 2, false, false, Reads::PATH), ("two", 6, true, true, Reads::NONE)]);
    assert!(compiled.policies[0].text.starts_with("@id(\"one\")"), "{}", compiled.policies[0].text);
    assert!(compiled.policies[0].text.ends_with("};"));
}

/// A stack as the threads have on which bundles are compiled; one that runs out would end this test's process.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(test).unwrap().join().unwrap();
}

#[test]
fn text_that_nests_without_end_is_refused_before_it_can_use_up_the_stack() {
    on_a_small_stack(|| {
        let policy =
            |condition: &str| format!("@id(\"a\") permit(principal, action, resource) when {{ {condition} }};");
        for (open, close) in
            [("(", ")"), ("[", "]"), ("{a: ", "}"), ("!", ""), ("-", ""), ("true && ", ""), ("context.a == ", "")]
        {
            let text = policy(&format!("{}true{}", open.repeat(100_000), close.repeat(100_000)));
            assert_eq!(refused(&text)[0].code, "too_deep", "{open}");
        }
        let text = policy(&format!("context{} == 1", ".a".repeat(100_000)));
        assert_eq!(refused(&text)[0].code, "too_deep");
    });
}

#[test]
fn what_is_as_deep_as_may_be_compiles_on_a_small_stack() {
    on_a_small_stack(|| {
        let brackets = format!("{}true{}", "(".repeat(50), ")".repeat(50));
        let links = vec!["true"; 500].join(" && ");
        for condition in [brackets, links] {
            let text = format!("@id(\"a\") permit(principal, action, resource) when {{ {condition} }};");
            assert_eq!(compile(&source(&text)).map(|compiled| compiled.policies.len()), Ok(1));
        }
    });
}
