//! `signet policy diff`: what a change permits and denies that was not so before, proved for each request type.

use std::process::ExitCode;
use std::time::Duration;

use signet_policy_analysis::{Change, Diff, Finding, SolverSettings, diff};

use super::sides::{self, Range};
use crate::arguments::Global;
use crate::failure::{Failure, ResultExt};
use crate::output::{self, Format, printable};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    solver: Solver,
}

/// How long the solver may think.
#[derive(clap::Args)]
pub(crate) struct Solver {
    /// Seconds that the solver may take for one question; past it the answer is "not decided".
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    solver_limit: u64,
}

impl Solver {
    pub(crate) fn settings(&self) -> SolverSettings {
        SolverSettings { limit: Duration::from_secs(self.solver_limit), ..SolverSettings::default() }
    }
}

/// Exits 0 when everything was decided, whatever changed, and 1 when something was not.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let (base, head) = sides::read(&arguments.range)?;
    let settings = arguments.solver.settings();
    let found = tokio::task::spawn_blocking(move || diff(&base, &head, &settings))
        .await
        .failed("the comparison ended early", "report this as a bug")?;
    match global.output {
        Format::Table => print(&found)?,
        Format::Jsonl => found.request_types.iter().try_for_each(|row| output::value(Format::Jsonl, row))?,
        format => output::value(format, &found)?,
    }
    for why in reasons(&found) {
        eprintln!("not decided: {why}");
    }
    Ok(if found.is_decided() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The different reasons for which something is not decided.
pub(crate) fn reasons(found: &Diff) -> Vec<String> {
    let mut reasons: Vec<String> =
        found.request_types.iter().filter_map(|t| t.undecided.as_ref()).map(ToString::to_string).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

fn print(found: &Diff) -> Result<(), Failure> {
    for row in found.request_types.iter().filter(|row| row.result != Change::NoChange) {
        output::line(&format!("{}  {} {} {}", row.result.as_str(), row.principal, row.action, row.resource))?;
        for (sign, finding) in [('+', &row.newly_permitted), ('-', &row.newly_denied)] {
            if let Some(finding) = finding {
                example(sign, finding)?;
            }
        }
    }
    let of = |change| found.request_types.iter().filter(|row| row.result == change).count();
    let total = found.request_types.len();
    if found.is_unchanged() {
        output::line(&format!("No change: proved for all {total} request types."))
    } else {
        output::line(&format!("{} of {total} request types: proved that nothing changes.", of(Change::NoChange)))
    }
}

fn example(sign: char, finding: &Finding) -> Result<(), Failure> {
    let request = &finding.request;
    output::line(&format!("  {sign} {}", printable(&request.line())))?;
    let mut more = vec![format!("from {}", request.src_ip), format!("port {}", request.dst_port), request.time.clone()];
    more.extend(request.host.as_ref().map(|host| format!("host {}", printable(host))));
    output::line(&format!("    {}", more.join(", ")))?;
    for (side, answer) in [("before", &finding.base), ("after", &finding.head)] {
        let by = if answer.policies.is_empty() { String::new() } else { format!(" by {}", answer.policies.join(", ")) };
        output::line(&format!("    {side}: {} ({}{by})", answer.effect, answer.reason))?;
    }
    Ok(())
}
