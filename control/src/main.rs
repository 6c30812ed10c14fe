//! `signet-control --config FILE`: the control plane of one cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use signet_control::{Config, Control};
use signet_mtls::IdentitySource;
use tokio_util::sync::CancellationToken;

/// Control plane of one cluster: reads manifests and policy, tells each proxy what concerns it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (YAML).
    #[arg(long)]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-control: {}", signet_observe::error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config: Config = signet_observe::load_config(&arguments.config)?;
    let _telemetry = signet_observe::init("control", &config.telemetry)?;
    let cancel = CancellationToken::new();
    let control = async {
        let identity = IdentitySource::connect(&config.workload_api, cancel.clone())
            .await
            .context("no identity came from the Workload API")?;
        let control = Control::bind(config, identity).await?;
        control.run(cancel.clone()).await;
        anyhow::Ok(())
    };
    tokio::pin!(control);
    tokio::select! {
        ended = control.as_mut() => return ended,
        () = signet_observe::shutdown_signal() => {}
    }
    tracing::info!("stopping");
    cancel.cancel();
    control.await
}
