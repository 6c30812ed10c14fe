//! `signet policy check`: parses, validates, lints and tests a repository.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use signet_policy::Problem;
use signet_policy_repository as repository;

use super::sides;
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output::{self, Format, printable};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The repository's root.
    #[arg(default_value = ".")]
    path: PathBuf,
}

#[derive(Serialize)]
struct Report<'a> {
    broken: bool,
    digest: String,
    problems: &'a [Problem],
    tests: Vec<Test<'a>>,
}

#[derive(Serialize)]
struct Test<'a> {
    name: &'a str,
    path: &'a str,
    line: u32,
    passed: bool,
    message: &'a str,
}

/// Exits 0 unless something is broken: an error, or a test that fails.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let source = sides::working_tree(&arguments.path)?;
    let report = repository::check(&source);
    let failed_tests = report.tests.iter().filter(|test| !test.passed).count();
    let errors = report.problems.iter().filter(|problem| problem.is_error()).count();
    let broken = failed_tests > 0 || errors > 0;
    match global.output {
        Format::Table => {
            for problem in &report.problems {
                output::line(&problem_text(problem))?;
            }
            for test in report.tests.iter().filter(|test| !test.passed) {
                output::line(&format!(
                    "{}:{}: test `{}` failed: {}",
                    test.path,
                    test.line,
                    printable(&test.name),
                    printable(test.message.as_deref().unwrap_or_default())
                ))?;
            }
            let warnings = report.problems.len() - errors;
            eprintln!(
                "{} tests passed, {failed_tests} failed; {errors} errors, {warnings} warnings.",
                report.tests.len() - failed_tests
            );
        }
        format => {
            let tests = report.tests.iter();
            let tests = tests.map(|test| Test {
                name: &test.name,
                path: &test.path,
                line: test.line,
                passed: test.passed,
                message: test.message.as_deref().unwrap_or_default(),
            });
            let digest = source.digest();
            output::value(format, &Report { broken, digest, problems: &report.problems, tests: tests.collect() })?;
        }
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) fn problem_text(problem: &Problem) -> String {
    let severity = if problem.is_error() { "error" } else { "warning" };
    let help = problem.help.as_deref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
    format!(
        "{}:{}:{}: {severity}[{}]: {}{help}",
        problem.path,
        problem.line,
        problem.column,
        problem.code,
        problem.message.lines().map(printable).collect::<Vec<_>>().join("\n  ")
    )
}
