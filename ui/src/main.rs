//! `signet-ui --config FILE`: the dashboard.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use prometheus_client::registry::Registry;
use signet_ui::app::{App, openapi, router};
use signet_ui::clusters::Clusters;
use signet_ui::config::{Config, read_token};
use signet_ui::live::Live;
use signet_ui::store::Store;
use signet_ui::{assets, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The dashboard of a Signet mesh.
#[derive(Parser)]
#[command(name = "signet-ui", version)]
struct Arguments {
    /// The configuration file, YAML.
    #[arg(long, required_unless_present = "openapi")]
    config: Option<PathBuf>,
    /// Prints the OpenAPI document of the REST API and ends.
    #[arg(long)]
    openapi: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-ui: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.openapi {
        print!("{}", openapi()?);
        return Ok(());
    }
    let path = arguments.config.context("name the configuration file with --config")?;
    let config: Config = signet_observe::load_config(&path)?;
    config.check().with_context(|| path.display().to_string())?;
    let _telemetry = signet_observe::init("ui", &config.telemetry)?;
    let token = read_token(&config.token_file)?;
    let pool = signet_audit::query::connect(&config.database_url)?;

    let admin = signet_observe::Admin::new(Registry::default()).config_json(config.redacted());
    let readiness = admin.readiness();
    let registry = admin.registry();
    let listening = readiness.condition("listener");
    let admin = admin.bind(config.admin).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("could not listen on `{}`; is the port taken?", config.listen))?;
    let address = listener.local_addr()?;

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(admin.run(stop.clone()));
    let store = Store::new(pool);
    let clusters = Clusters::watch(&config.clusters, &tasks, &stop);
    let live = Live::new();
    tasks.spawn({
        let (live, store, stop) = (live.clone(), store.clone(), stop.clone());
        async move { live.follow(store, stop).await }
    });
    if !assets::built() {
        tracing::warn!("the dashboard assets were not built: run `make build`; the REST API works without them");
    }
    let app = App::new(&token, address.port(), store, clusters, live, tasks.clone(), stop.clone());
    if let Ok(mut registry) = registry.lock() {
        app.metrics.register(&mut registry);
    }
    let server = tasks.spawn(serve::serve(listener, router(app), stop.clone()));
    listening.set::<&str>(Ok(()));
    tracing::info!(%address, "the dashboard listens");

    signet_observe::shutdown_signal().await;
    tracing::info!("stopping");
    stop.cancel();
    server.await.context("the listener's task failed")?;
    tasks.close();
    tasks.wait().await;
    Ok(())
}
