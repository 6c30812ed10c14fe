//! `signet`: the command people type. Data goes to standard output, progress and errors to standard error.

mod arguments;
mod commands;
mod context;
mod demo;
mod failure;
mod output;
mod rpc;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::failure::{Failure, ResultExt};

fn main() -> ExitCode {
    // Usage errors and --help end here, with 2 and 0.
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    // One thread: the demo's children ask the kernel to end them with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .failed("cannot start the async runtime", "raise the limits on open files (`ulimit -n`) and try again")?;
    runtime.block_on(async {
        let global = arguments.global;
        match arguments.command {
            Command::Demo(demo) => demo::run(demo).await,
            Command::Diagnostics(diagnostics) => commands::diagnostics::run(&global, diagnostics).await,
            Command::Completion { shell } => commands::completion::run(shell),
            Command::Check(check) => commands::check::run(&global, check).await,
            Command::Why(why) => commands::why::run(&global, why).await,
            Command::Can(can) => commands::can::run(&global, can).await,
            Command::Policy(policy) => commands::policy::run(&global, policy).await,
            Command::Audit(audit) => commands::audit::run(&global, *audit).await,
            Command::Federation(federation) => commands::federation::run(&global, federation).await,
            Command::Identity(identity) => commands::identity::run(&global, identity).await,
            Command::Mesh(mesh) => commands::mesh::run(&global, mesh).await,
        }
    })
}
