//! `signet policy test`: a repository's decision tables, and which policies none of them needs.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use signet_policy_analysis::junit;
use signet_policy_repository::{self as repository, TestResult, Untested};

use super::check::problem_text;
use super::report::write;
use super::sides;
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output::{self, Format, printable};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The repository's root.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

#[derive(Serialize)]
struct Results<'a> {
    passed: usize,
    failed: usize,
    tests: &'a [TestResult],
    /// Enforced policies.
    policies: usize,
    /// Those of them that determined no case.
    untested: &'a [Untested],
}

/// Exits 0 when every case passes; a policy that no case needs is said and is no failure.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let report = repository::check(&sides::working_tree(&arguments.path)?);
    let errors: Vec<_> = report.problems.iter().filter(|problem| problem.is_error()).collect();
    if let Some(first) = errors.first() {
        errors.iter().for_each(|problem| eprintln!("{}", problem_text(problem)));
        return Err(Failure::failed("the tests cannot run: the repository has errors")
            .at(format!("{}:{}", first.path, first.line))
            .next("mend what is listed above"));
    }
    let failed = report.tests.iter().filter(|test| !test.passed).count();
    if let Some(file) = &arguments.junit {
        write(file, &junit(&report.tests))?;
    }
    let results = Results {
        passed: report.tests.len() - failed,
        failed,
        tests: &report.tests,
        policies: report.enforced,
        untested: &report.untested,
    };
    match global.output {
        Format::Table => print(&results)?,
        format => output::value(format, &results)?,
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(results: &Results<'_>) -> Result<(), Failure> {
    for test in results.tests.iter().filter(|test| !test.passed) {
        output::line(&format!("failed: {}", printable(&test.to_string())))?;
    }
    for policy in results.untested {
        output::line(&format!("no case needs: {}:{}: `{}`", policy.path, policy.line, printable(&policy.id)))?;
    }
    let tested = results.policies - results.untested.len();
    output::line(&format!(
        "{} tests passed, {} failed; {tested} of {} policies determined a case.",
        results.passed, results.failed, results.policies
    ))
}
