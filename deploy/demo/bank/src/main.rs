//! The demo's bank: small real services that know nothing of Signet but, where their network does not redirect them, the
//! address of an outbound proxy; and the load generator that makes the calls of the demo's table.

mod fraud;
mod ledger;
mod load;
mod outbound;
mod payments;
mod reporting;
mod serve;
mod web;

/// Generated from `proto/bank.proto`.
#[allow(unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("bank.v1");
}

use std::net::SocketAddr;

use clap::{Parser, Subcommand};

use self::outbound::Way;

/// The demo's bank.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The customers' page.
    Web(ServiceArguments),
    /// Accounts and their entries, kept in the ledger database.
    Ledger(ServiceArguments),
    /// The gRPC payments service.
    Payments(ServiceArguments),
    /// Fraud scores, in the other cluster.
    Fraud(ServiceArguments),
    /// Daily reports over the ledger, in the other cluster.
    Reporting(ServiceArguments),
    /// Calls the services as the demo's table says, and counts the answers.
    Load(load::Arguments),
}

#[derive(clap::Args)]
struct ServiceArguments {
    /// Where the app listens.
    #[arg(long)]
    listen: SocketAddr,
    /// The outbound listener of the app's sidecar; without it calls are made as if there were none.
    #[arg(long)]
    outbound: Option<SocketAddr>,
    /// The ledger database's user, password and name, as a PostgreSQL DSN without a host.
    #[arg(long, env = "LEDGER_DATABASE", hide_env_values = true)]
    database: Option<String>,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Web(service) => web::run(service.listen, Way::of(service.outbound)).await,
            Command::Ledger(service) => ledger::run(service.listen, Way::of(service.outbound), service.database).await,
            Command::Payments(service) => payments::run(service.listen, Way::of(service.outbound)).await,
            Command::Fraud(service) => fraud::run(service.listen).await,
            Command::Reporting(service) => reporting::run(service.listen, Way::of(service.outbound)).await,
            Command::Load(arguments) => load::run(arguments).await,
        }
    })
}
