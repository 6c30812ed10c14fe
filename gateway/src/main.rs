//! `signet-gateway --config FILE`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lets sidecars of linked clusters reach the exported services of this one.
#[derive(Parser)]
#[command(name = "signet-gateway", version)]
struct Arguments {
    /// Configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match serve(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let config: signet_gateway::Config = signet_observe::load_config(&arguments.config)?;
    let _telemetry = signet_observe::init("gateway", &config.telemetry)?;
    let cancel = CancellationToken::new();
    let signal = async {
        signet_observe::shutdown_signal().await;
        cancel.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = signet_gateway::run(config, cancel.clone()) => ended,
        never = signal => never,
    }
}
