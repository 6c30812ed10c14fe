//! `signet-identity`: the identity server, the node agent, and join tokens for whoever runs the server.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use signet_identity::{
    agent::{self, config::AgentConfig},
    operator,
    server::{self, config::ServerConfig},
};
use tokio_util::sync::CancellationToken;

/// Identities for one trust domain.
#[derive(Parser)]
#[command(name = "signet-identity", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the identity server.
    Server {
        /// Configuration, YAML.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run the node agent.
    Agent {
        /// Configuration, YAML.
        #[arg(long)]
        config: PathBuf,
    },
    /// Create a join token through the server's operator socket and print it.
    Token {
        /// The server's `operator_socket`.
        #[arg(long)]
        socket: PathBuf,
        /// Seconds until it expires unused.
        #[arg(long, default_value_t = 600)]
        ttl: u32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match runtime.block_on(run(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "signet-identity: {}", signet_observe::error_chain(error.as_ref()));
    ExitCode::FAILURE
}

async fn run(command: Command) -> anyhow::Result<()> {
    let stopping = CancellationToken::new();
    match command {
        Command::Server { config } => {
            let config: ServerConfig = signet_observe::load_config(&config)?;
            let _telemetry = signet_observe::init("signet-identity", &config.telemetry)?;
            let running = server::start(config, stopping.clone()).await?;
            signet_observe::shutdown_signal().await;
            stopping.cancel();
            running.wait().await;
        }
        Command::Agent { config } => {
            let config: AgentConfig = signet_observe::load_config(&config)?;
            let _telemetry = signet_observe::init("signet-agent", &config.telemetry)?;
            let running = agent::start(config, stopping.clone()).await?;
            signet_observe::shutdown_signal().await;
            stopping.cancel();
            running.wait().await;
        }
        Command::Token { socket, ttl } => {
            let mut client = operator::connect(&socket).await?;
            let request = signet_api::identity::CreateJoinTokenRequest { ttl_seconds: ttl };
            let answer = client.create_join_token(request).await.context("the identity server refused")?.into_inner();
            writeln!(std::io::stdout(), "{}", answer.token)?;
        }
    }
    Ok(())
}
