//! `signet policy test`: a repository's decision tables, which policies none of them needs, and which clauses they try.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use signet_policy::{ClauseCoverage, PolicyCoverage};
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
    /// Fail when the cases had less than this share of the outcomes that policies and their clauses can have.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
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
    coverage: &'a Coverage,
}

/// Outcomes: that a policy decides, and that a clause is true and that it is false.
#[derive(Serialize)]
struct Coverage {
    percent: u64,
    covered: u64,
    outcomes: u64,
    policies: Vec<PolicyCoverage>,
}

impl Coverage {
    fn new(policies: Vec<PolicyCoverage>) -> Self {
        let (covered, outcomes) =
            policies.iter().map(PolicyCoverage::outcomes).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        // Rounded down, so that 100 is all; of nothing everything was tried.
        let percent = (covered * 100).checked_div(outcomes).unwrap_or(100);
        Self { percent, covered, outcomes, policies }
    }
}

/// Exits 0 when every case passes and coverage is what was asked for; a policy that no case needs is said and is no failure.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let source = sides::working_tree(&arguments.path)?;
    let report = repository::check(&source);
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
    let coverage = Coverage::new(repository::coverage(&source));
    let results = Results {
        passed: report.tests.len() - failed,
        failed,
        tests: &report.tests,
        policies: report.enforced,
        untested: &report.untested,
        coverage: &coverage,
    };
    match global.output {
        Format::Table => print(&results)?,
        format => output::value(format, &results)?,
    }
    let wanted = arguments.min_coverage.unwrap_or(0);
    let is_short = coverage.percent < u64::from(wanted);
    if is_short {
        eprintln!("broken: {} % of the outcomes were tried, --min-coverage asks for {wanted} %", coverage.percent);
        eprintln!("next: add cases for the clauses that are listed");
    }
    Ok(if failed > 0 || is_short { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(results: &Results<'_>) -> Result<(), Failure> {
    for test in results.tests.iter().filter(|test| !test.passed) {
        output::line(&format!("failed: {}", printable(&test.to_string())))?;
    }
    for policy in results.untested {
        output::line(&format!("no case needs: {}:{}: `{}`", policy.path, policy.line, printable(&policy.id)))?;
    }
    for policy in &results.coverage.policies {
        for (clause, outcome) in policy.clauses.iter().flat_map(untried) {
            let place = format!("{}:{}", policy.path, clause.line);
            output::line(&format!("never {outcome}: {place}: `{}`: {}", policy.id, printable(&clause.text)))?;
        }
    }
    let tested = results.policies - results.untested.len();
    output::line(&format!(
        "{} tests passed, {} failed; {tested} of {} policies determined a case.",
        results.passed, results.failed, results.policies
    ))?;
    let Coverage { percent, covered, outcomes, .. } = results.coverage;
    output::line(&format!("{covered} of {outcomes} outcomes of policies and clauses were tried ({percent} %)."))
}

/// The outcomes that no case gave a clause.
fn untried(clause: &ClauseCoverage) -> impl Iterator<Item = (&ClauseCoverage, &'static str)> {
    let untried = [(clause.holds, "true"), (clause.fails, "false")].into_iter().filter(|(seen, _)| *seen == 0);
    untried.map(move |(_, outcome)| (clause, outcome))
}
