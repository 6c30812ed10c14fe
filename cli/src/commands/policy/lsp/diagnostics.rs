//! What `signet policy check` says, as the editor shows it.

use std::collections::BTreeMap;

use lsp_types::{Diagnostic, DiagnosticSeverity, NumberOrString, Range};
use signet_policy::{BundleSource, Problem};
use signet_policy_repository::{self as repository, DirectoryError};

use super::text;

/// Problems and failed tests of a repository by file; what has no file of its own is said of `signet.yaml`.
pub(super) fn of(source: &BundleSource) -> BTreeMap<String, Vec<Diagnostic>> {
    let report = repository::check(source);
    let mut found: BTreeMap<String, Vec<Diagnostic>> = BTreeMap::new();
    let mut add = |path: &str, line: u32, column: u32, diagnostic: Diagnostic| {
        let (path, text) =
            source.files.get_key_value(path).map_or(("signet.yaml", ""), |(p, t)| (p.as_str(), t.as_str()));
        let range = text::range(text, &text::problem(text, line, column));
        found.entry(path.to_owned()).or_default().push(Diagnostic { range, ..diagnostic });
    };
    for problem in &report.problems {
        add(&problem.path, problem.line, problem.column, diagnostic(problem));
    }
    for test in report.tests.iter().filter(|test| !test.passed) {
        let why = test.message.as_deref().unwrap_or("failed");
        let message = format!("test `{}`: {why}", test.name);
        add(&test.path, test.line, 1, said(DiagnosticSeverity::ERROR, "tests_failed", message));
    }
    found
}

fn diagnostic(problem: &Problem) -> Diagnostic {
    let severity = if problem.is_error() { DiagnosticSeverity::ERROR } else { DiagnosticSeverity::WARNING };
    let help = problem.help.as_deref().map(|help| format!("\nhelp: {help}")).unwrap_or_default();
    said(severity, &problem.code, format!("{}{help}", problem.message))
}

/// The finding that the folder is no policy repository.
pub(super) fn unreadable(error: &DirectoryError) -> Diagnostic {
    said(DiagnosticSeverity::ERROR, "unreadable", signet_observe::error_chain(error))
}

fn said(severity: DiagnosticSeverity, code: &str, message: String) -> Diagnostic {
    Diagnostic {
        range: Range::default(),
        severity: Some(severity),
        code: Some(NumberOrString::String(code.to_owned())),
        source: Some("signet".to_owned()),
        message,
        ..Diagnostic::default()
    }
}
