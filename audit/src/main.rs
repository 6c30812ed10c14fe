//! `signet-audit --config FILE`: takes records, stores them, signs the log.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use signet_audit::config::Config;
use tokio_util::sync::CancellationToken;

/// Takes audit records, stores them in PostgreSQL and keeps the signed log of a trust domain.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Configuration file (YAML).
    #[arg(long)]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-audit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config: Config = signet_observe::load_config(&arguments.config)?;
    let _telemetry = signet_observe::init("signet-audit", &config.telemetry)?;
    let cancel = CancellationToken::new();
    let service = signet_audit::server::run(config, cancel.clone());
    tokio::pin!(service);
    let result = tokio::select! {
        result = &mut service => result,
        () = signet_observe::shutdown_signal() => {
            cancel.cancel();
            service.await
        }
    };
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "the audit service ends");
    }
    result
}
