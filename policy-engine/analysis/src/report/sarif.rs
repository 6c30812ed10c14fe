//! SARIF 2.1.0 (OASIS), the form in which forges show findings beside the lines that they are about.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use signet_policy::Bundle;

use super::Report;
use crate::diff::{Answer, Change};
use crate::invariants::Held;

struct Found<'a> {
    rule: &'a str,
    level: &'static str,
    message: String,
    path: &'a str,
    line: u32,
    column: u32,
}

impl Report {
    /// The report as SARIF. `head` gives the places of the policies that newly permit something.
    pub fn sarif(&self, head: Option<&Bundle>) -> Value {
        let mut found: Vec<Found<'_>> = Vec::new();
        for problem in &self.problems {
            let help = problem.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
            found.push(Found {
                rule: &problem.code,
                level: if problem.is_error() { "error" } else { "warning" },
                message: format!("{}{help}", problem.message),
                path: &problem.path,
                line: problem.line,
                column: problem.column,
            });
        }
        for test in self.tests.iter().filter(|test| !test.passed) {
            let message = format!("test `{}`: {}", test.name, test.message.as_deref().unwrap_or("failed"));
            found.push(Found {
                rule: "test_failed",
                level: "error",
                message,
                path: &test.path,
                line: test.line,
                column: 1,
            });
        }
        for invariant in &self.invariants {
            let (rule, message) = match &invariant.held {
                Held::Holds => continue,
                Held::Broken(breach) => {
                    let by = breach.head.policies.join("`, `");
                    ("invariant_broken", format!("`{}`: `{by}` permits {}", invariant.id, breach.request.line()))
                }
                Held::NotDecided(why) => ("invariant_not_decided", format!("`{}`: {why}", invariant.id)),
            };
            let (path, line) = (&invariant.path, invariant.line);
            found.push(Found { rule, level: "error", message, path, line, column: 1 });
        }
        for row in self.diff.iter().flat_map(|diff| &diff.request_types) {
            if row.result == Change::NotDecided {
                let why = row.undecided.as_ref().map(ToString::to_string).unwrap_or_default();
                let message = format!("{} {} {}: {why}", row.principal, row.action, row.resource);
                found.push(Found {
                    rule: "not_decided",
                    level: "error",
                    message,
                    path: "signet.yaml",
                    line: 1,
                    column: 1,
                });
            }
            let both = [("newly_permitted", &row.newly_permitted), ("newly_denied", &row.newly_denied)];
            for (rule, finding) in both.iter().filter_map(|(rule, finding)| Some((*rule, finding.as_ref()?))) {
                let (path, line) = place(head, &finding.head);
                let message = format!("{rule}: {}", finding.request.line());
                found.push(Found { rule, level: "note", message, path, line, column: 1 });
            }
        }
        for flip in self.replay.iter().flat_map(|replay| &replay.flips) {
            let (path, line) = place(head, &flip.now);
            let rule = if flip.was == "allow" { "recorded_traffic_denied" } else { "recorded_traffic_permitted" };
            let message = format!(
                "{}: {} {} {}, {} calls, last {}",
                rule, flip.source, flip.action, flip.destination, flip.count, flip.last_seen
            );
            found.push(Found { rule, level: "warning", message, path, line, column: 1 });
        }
        let rules: BTreeSet<&str> = found.iter().map(|f| f.rule).collect();
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "signet",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules.iter().map(|id| json!({"id": id})).collect::<Vec<_>>(),
                }},
                "columnKind": "unicodeCodePoints",
                "results": found.iter().map(result).collect::<Vec<_>>(),
            }],
        })
    }
}

/// The policy of head that answers; without one, the settings.
fn place<'a>(head: Option<&'a Bundle>, answer: &Answer) -> (&'a str, u32) {
    let policy = head.into_iter().flat_map(Bundle::policies).find(|p| answer.policies.iter().any(|id| id == p.id()));
    policy.map_or(("signet.yaml", 1), |policy| (policy.path(), policy.line()))
}

fn result(found: &Found<'_>) -> Value {
    let region = json!({"startLine": found.line.max(1), "startColumn": found.column.max(1)});
    json!({
        "ruleId": found.rule,
        "level": found.level,
        "message": {"text": found.message},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri(found.path)}, "region": region}}],
    })
}

/// A path as a relative URI reference (RFC 3986): what is not unreserved is percent-encoded.
fn uri(path: &str) -> String {
    path.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}
