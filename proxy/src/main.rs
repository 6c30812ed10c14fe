//! `signet-proxy --config FILE`: one sidecar.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use signet_proxy::{config::Config, sidecar};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sidecar: mTLS, a policy decision and an audit record for every call of one workload.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML).
    #[arg(long)]
    config: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config: Config = signet_observe::load_config(&args.config)?;
    let data = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_count())
        .max_blocking_threads(4)
        .thread_name("data")
        .enable_all()
        .build()
        .context("no data runtime")?;
    let control = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("no control runtime")?;
    let ended = control.block_on(async {
        let _telemetry = signet_observe::init("proxy", &config.telemetry)?;
        sidecar::run(config, data.handle().clone(), signet_observe::shutdown_signal()).await
    });
    data.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}
