//! `signet-proxy --config FILE`: one sidecar. `init`, `undo` and `counters` concern its namespace's redirect rules.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use signet_proxy::redirect::{Backend, InitArguments, apply};
use signet_proxy::runtime;

#[cfg(feature = "bench-unenforced")]
compile_error!("a sidecar that enforces nothing must not be called signet-proxy: build signet-proxy-unenforced alone");

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sidecar: mTLS, a policy decision and an audit record for every call of one workload.
#[derive(Parser)]
#[command(version, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Args {
    /// Configuration file (YAML).
    #[arg(long, required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Init(InitArguments),
    /// Removes the redirect rules from this network namespace.
    Undo {
        /// Which program wrote them.
        #[arg(long, value_enum, default_value = "auto")]
        backend: Backend,
        /// Print what would be done and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Prints what the redirect rules of this network namespace counted, as JSON.
    Counters,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (&args.command, &args.config) {
        (Some(command), _) => rules(command),
        (None, Some(config)) => run(config),
        (None, None) => Err(anyhow::anyhow!("no configuration was named; give --config FILE")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn rules(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Init(arguments) => {
            let script = apply::init(&arguments.rules(), arguments.backend, arguments.dry_run)?;
            if arguments.dry_run {
                print!("{script}");
            } else {
                eprintln!("signet-proxy: connections of this network namespace go through the sidecar now");
            }
        }
        Command::Undo { backend, dry_run } => {
            let script = apply::undo(*backend, *dry_run)?;
            if *dry_run {
                print!("{script}");
            }
        }
        Command::Counters => println!("{}", serde_json::to_string_pretty(&apply::counters()?)?),
    }
    Ok(())
}

fn run(config: &std::path::Path) -> anyhow::Result<()> {
    runtime::run(signet_observe::load_config(config)?)
}
