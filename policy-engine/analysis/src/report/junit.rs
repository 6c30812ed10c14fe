//! JUnit's XML, as pipelines read it: test cases, and for a report the invariants beside them.

use std::fmt::Write as _;

use signet_policy_repository::TestResult;

use super::Report;
use crate::invariants::Held;

/// A case: class, name, file, line and what is wrong with it.
struct Case<'a> {
    class: &'a str,
    name: &'a str,
    file: &'a str,
    line: u32,
    failure: Option<String>,
}

/// Test results as JUnit XML.
pub fn junit(tests: &[TestResult]) -> String {
    document(&[("tests", cases(tests))])
}

impl Report {
    /// Problems, tests and invariants as JUnit XML.
    pub fn junit(&self) -> String {
        let problems = self.problems.iter().filter(|p| p.is_error()).map(|problem| Case {
            class: "check",
            name: &problem.code,
            file: &problem.path,
            line: problem.line,
            failure: Some(problem.message.clone()),
        });
        let invariants = self.invariants.iter().map(|invariant| Case {
            class: "invariants",
            name: &invariant.id,
            file: &invariant.path,
            line: invariant.line,
            failure: match &invariant.held {
                Held::Holds => None,
                Held::Broken(breach) => Some(format!("permitted: {}", breach.request.line())),
                Held::NotDecided(why) => Some(format!("not decided: {why}")),
            },
        });
        document(&[("check", problems.collect()), ("tests", cases(&self.tests)), ("invariants", invariants.collect())])
    }
}

fn cases(tests: &[TestResult]) -> Vec<Case<'_>> {
    tests
        .iter()
        .map(|TestResult { path, line, name, message, .. }| Case {
            class: path,
            name,
            file: path,
            line: *line,
            failure: message.clone(),
        })
        .collect()
}

fn document(suites: &[(&str, Vec<Case<'_>>)]) -> String {
    let failures = |cases: &[Case<'_>]| cases.iter().filter(|case| case.failure.is_some()).count();
    let total: usize = suites.iter().map(|(_, cases)| cases.len()).sum();
    let failed: usize = suites.iter().map(|(_, cases)| failures(cases)).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string cannot fail.
    let _ = writeln!(xml, "<testsuites name=\"signet policy\" tests=\"{total}\" failures=\"{failed}\">");
    for (name, cases) in suites.iter().filter(|(_, cases)| !cases.is_empty()) {
        let (tests, failures) = (cases.len(), failures(cases));
        let _ = writeln!(xml, "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\">");
        for case in cases {
            let (class, name, file) = (escape(case.class), escape(case.name), escape(case.file));
            let head =
                format!("    <testcase classname=\"{class}\" name=\"{name}\" file=\"{file}\" line=\"{}\"", case.line);
            let _ = match &case.failure {
                None => writeln!(xml, "{head}/>"),
                Some(why) => writeln!(xml, "{head}><failure message=\"{}\"/></testcase>", escape(why)),
            };
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Text for an attribute (XML 1.0, section 2.2: what is no character of XML has no way to be written).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
