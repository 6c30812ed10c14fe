//! The node agent: attests itself to the identity server, keeps SVIDs for the entries it may serve, and hands them to
//! workloads over the SPIFFE Workload API. Keys of workloads are made here and given to the workload alone.
//!
//! Long-lived tasks, all owned by [`Running`]: the keeper (the one writer), the main socket, the named sockets, admin.

mod attestor;
pub mod config;
mod keeper;
mod metrics;
mod own;
mod sockets;
mod state;
mod workload_api;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use prometheus_client::registry::Registry;
use signet_observe::{Admin, ObserveError, Readiness};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    attestor::Scope,
    config::AgentConfig,
    keeper::{Conditions, Keeper},
    metrics::Metrics,
    own::Own,
    state::State,
    workload_api::WorkloadApi,
};
use crate::{
    clock,
    store::{DataDir, StoreError},
};

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Values in the configuration.
    #[error("configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// A file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent's own identity.
    #[error(transparent)]
    Own(#[from] own::OwnError),
    /// The main socket.
    #[error("`socket`: cannot serve the Workload API at `{path}`")]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The admin listener.
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

/// An agent that runs until its cancellation.
pub struct Running {
    /// Where it binds, if it does.
    pub admin: Option<SocketAddr>,
    /// Whether it is attested, in touch with the server and has signed everything.
    pub readiness: Readiness,
    tasks: JoinSet<()>,
    _dir: DataDir,
}

impl Running {
    /// Waits for the end that the cancellation asked for.
    pub async fn wait(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts the agent. It serves its main socket at once and answers `UNAVAILABLE` there until the server was heard.
///
/// # Errors
/// What is wrong, where, and the next step.
pub async fn start(config: AgentConfig, stopping: CancellationToken) -> Result<Running, AgentError> {
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(AgentError::Config(problems));
    }
    let dir = DataDir::open(&config.data_dir)?;
    let own = Own::open(&config, &dir, clock::now())?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    signet_mtls::register_metrics(own.source(), &mut registry);
    let (sender, state) = watch::channel(Arc::new(State::starting(config.trust_domain.clone())));
    let mut tasks = JoinSet::new();

    let admin = Admin::new(registry).config_json(serde_json::to_value(&config).unwrap_or_default());
    let readiness = admin.readiness();
    let conditions = Conditions {
        identity: readiness.condition("identity"),
        server: readiness.condition("server"),
        svids: readiness.condition("svids"),
    };
    let bound = match config.admin {
        Some(address) => Some(admin.bind(address).await?),
        None => None,
    };
    let address = bound.as_ref().map(signet_observe::BoundAdmin::local_addr);

    let api = WorkloadApi { state, metrics: metrics.clone(), stopping: stopping.clone() };
    sockets::serve(&config.socket, Scope::Main, &api, stopping.clone(), &mut tasks)
        .map_err(|source| AgentError::Socket { path: config.socket.clone(), source })?;
    tasks.spawn(sockets::follow(config.workload_socket_dir.clone(), api, stopping.clone()));
    tasks.spawn(Keeper::new(own, sender, metrics, conditions).run(stopping.clone()));
    if let Some(bound) = bound {
        tasks.spawn(bound.run(stopping));
    }
    tracing::info!(trust_domain = %config.trust_domain, socket = %config.socket.display(), "agent is up");
    Ok(Running { admin: address, readiness, tasks, _dir: dir })
}
