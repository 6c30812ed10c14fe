//! What can be typed. Each command's own arguments stand in its module.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::output::Format;
use crate::{commands, demo};

/// Signet: a zero-trust mesh for organisations that answer to a regulator.
#[derive(Parser)]
#[command(name = "signet", version, propagate_version = true, max_term_width = 120)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone)]
pub(crate) struct Global {
    /// The file that says where the mesh is, as `signet demo` writes it (endpoints.json).
    #[arg(long, global = true, env = "SIGNET_CONTEXT", value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
    /// How to write the answer.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run two federated clusters with a bank on this machine.
    Demo(demo::Arguments),
    /// Check the machine before, and the mesh while it runs; each line says the next step.
    Check(commands::check::Arguments),
    /// Explain one decision: what was asked, what decided, and what would have permitted it.
    Why(commands::why::Arguments),
    /// Ask whether a call would be allowed; exits 0 when it would and 3 when not.
    Can(commands::can::Arguments),
    /// Work on a policy repository.
    Policy(commands::policy::Arguments),
    /// Read the audit log.
    Audit(Box<commands::audit::Arguments>),
    /// Link clusters that share no CA.
    Federation(commands::federation::Arguments),
    /// See the identities that were issued.
    Identity(commands::identity::Arguments),
    /// See what the mesh knows.
    Mesh(commands::mesh::Arguments),
    /// Collect what somebody who helps needs to see, without secrets.
    Diagnostics(commands::diagnostics::Arguments),
    /// Print completions for a shell.
    Completion {
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
}
