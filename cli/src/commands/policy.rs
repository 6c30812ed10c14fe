//! `signet policy`: works on a policy repository; only `status` asks a running mesh.

mod check;
mod diff;
mod sides;
mod status;

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
    /// Parse, validate, lint and test the policies of a repository.
    Check(check::Arguments),
    /// Prove what a change permits and denies that was not so before, with an example for each difference.
    Diff(diff::Arguments),
    /// Show which commit is in force in each cluster and which sidecar and gateway enforces what.
    Status(status::Arguments),
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Check(check) => check::run(global, check),
        Command::Diff(diff) => diff::run(global, diff).await,
        Command::Status(status) => status::run(global, status).await,
    }
}
