//! Judging a bundle: compile, lint, run its tests. What `signet policy check` prints and what acceptance demands.

use std::collections::HashSet;

use serde::Serialize;
use signet_policy::{Bundle, BundleSource, Coverage, Place, PolicyCoverage, PolicyInfo, Problem, Severity};

use crate::cases::{self, TestResult};
use crate::lint::lint;

/// What is to be said about a bundle.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub digest: String,
    /// Errors first, each group in order of place.
    pub problems: Vec<Problem>,
    /// Empty when the bundle does not compile.
    pub tests: Vec<TestResult>,
    pub policies: usize,
    /// Those that are not shadow policies.
    pub enforced: usize,
    /// Enforced policies that determined no test case, in order of path and position.
    pub untested: Vec<Untested>,
}

/// A policy that no test case needs: it could be taken away and no test would fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Untested {
    pub id: String,
    pub path: String,
    pub line: u32,
}

impl Report {
    /// Whether the bundle may be enforced: no error and no failed test. Warnings do not count.
    pub fn is_ok(&self) -> bool {
        !self.problems.iter().any(Problem::is_error) && self.tests.iter().all(|t| t.passed)
    }
}

/// Parses, validates and lints a bundle and runs its tests.
pub fn check(source: &BundleSource) -> Report {
    let mut report = Report { digest: source.digest(), ..Report::default() };
    let (cases, mut problems) = cases::read(source);
    match Bundle::compile(source) {
        Ok(bundle) => {
            report.policies = bundle.policies().count();
            problems.extend(bundle.warnings().iter().cloned());
            problems.extend(lint(source, &bundle));
            report.tests = cases.iter().map(|case| case.run(&bundle)).collect();
            report.enforced = bundle.policies().filter(|policy| !policy.is_shadow()).count();
            report.untested = untested(&bundle, &report.tests);
            if cases.is_empty() {
                let place = Place::file("tests/");
                let help = "add a decision table, see docs/policy-repository.md";
                problems.push(Problem::warning("no_tests", &place, "the repository has no test case").help(help));
            }
        }
        Err(found) => problems.extend(found),
    }
    let rank = |p: &Problem| (p.severity != Severity::Error, p.path.clone(), p.line, p.column);
    problems.sort_by_key(rank);
    report.problems = problems;
    report
}

/// What the test cases of `bundle`'s source reach of its enforced policies, clause by clause. Nothing when the source does
/// not compile.
pub fn coverage(source: &BundleSource) -> Vec<PolicyCoverage> {
    let Ok(bundle) = Bundle::compile(source) else { return Vec::new() };
    let mut coverage = Coverage::new(&bundle);
    for case in cases::read(source).0 {
        coverage.add(&case.request());
    }
    coverage.finish()
}

fn untested(bundle: &Bundle, tests: &[TestResult]) -> Vec<Untested> {
    let needed: HashSet<&str> = tests.iter().flat_map(|test| &test.policies).map(String::as_str).collect();
    let policies = bundle.policies().filter(|policy| !policy.is_shadow() && !needed.contains(policy.id()));
    let untested = |p: PolicyInfo<'_>| Untested { id: p.id().to_owned(), path: p.path().to_owned(), line: p.line() };
    policies.map(untested).collect()
}
