//! `signet policy`: works on a policy repository; only `status` and `break-glass` ask a running mesh.

mod break_glass;
mod check;
mod diff;
mod fmt;
mod lsp;
mod recorded;
mod replay;
mod report;
mod sides;
mod status;
mod suggest;
mod test;
mod unused;

use std::process::ExitCode;

use clap::Subcommand;

use crate::arguments::Global;
use crate::failure::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Open for an emergency, and for a time, what policies hold back for one.
    BreakGlass(break_glass::Arguments),
    /// Parse, validate, lint and test the policies of a repository.
    Check(check::Arguments),
    /// Prove what a change permits and denies that was not so before, with an example for each difference.
    Diff(diff::Arguments),
    /// Show which commit is in force in each cluster and which sidecar and gateway enforces what.
    Status(status::Arguments),
    /// Put policy files into their one form.
    Fmt(fmt::Arguments),
    /// Serve an editor: findings, completion, hover, definitions and formatting, over the Language Server Protocol.
    Lsp(lsp::Arguments),
    /// Decide recorded traffic again and show which flows would flip.
    Replay(replay::Arguments),
    /// All that is to be said about a change: checks, tests, what it permits and denies, whether the invariants hold.
    Report(report::Arguments),
    /// Propose policies that permit what was recorded and no more.
    Suggest(suggest::Arguments),
    /// Run the decision tables of a repository and say which policies none of them needs.
    Test(test::Arguments),
    /// Find grants that no recorded call used.
    Unused(unused::Arguments),
    /// Write the Cedar schema that policies are validated against, for editors.
    Schema,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::BreakGlass(break_glass) => break_glass::run(global, break_glass).await,
        Command::Check(check) => check::run(global, check),
        Command::Diff(diff) => diff::run(global, diff).await,
        Command::Status(status) => status::run(global, status).await,
        Command::Fmt(fmt) => fmt::run(&fmt),
        Command::Schema => {
            crate::output::line(signet_policy::schema_text().trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Lsp(lsp) => lsp::run(lsp).await,
        Command::Replay(replay) => replay::run(global, replay).await,
        Command::Report(report) => report::run(global, report).await,
        Command::Suggest(suggest) => suggest::run(global, suggest).await,
        Command::Test(test) => test::run(global, test),
        Command::Unused(unused) => unused::run(global, unused).await,
    }
}
