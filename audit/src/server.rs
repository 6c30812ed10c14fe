//! Builds the service from its configuration and runs it: one owner for every task.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, TrustDomain, alpn};
use signet_observe::{Admin, Condition, Readiness};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::AccessService;
use crate::alerts::Alerts;
use crate::checkpoint::{Latest, Signer};
use crate::config::Config;
use crate::continuous;
use crate::faults::Faults;
use crate::ingest::IngestService;
use crate::metrics::Metrics;
use crate::note::{CosignerKey, LogKey, VerifierKey};
use crate::recorder::Recorder;
use crate::sequencer::Sequencer;
use crate::silence::Silence;
use crate::store::guard::Guard;
use crate::store::{Store, StoreError};
use crate::tlog;
use crate::witness::{self, Witness, Witnesses};

/// How often the partitions of the coming days are made.
const PARTITIONS: Duration = Duration::from_secs(1_800);
/// Pause before PostgreSQL is tried again at the start.
const RETRY: Duration = Duration::from_millis(500);

/// Where a running service listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC `Ingest`.
    pub ingest: SocketAddr,
    /// The log.
    pub tlog: SocketAddr,
}

/// Runs the whole process until `cancel`: admin listener, identity, service.
///
/// # Errors
/// When something that no retry mends is wrong: a port is taken, the key is another log's, the database went back.
pub async fn run(config: Config, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    let admin = Admin::new(registry).config_json(config.redacted());
    let registry = admin.registry();
    let readiness = admin.readiness();
    let identity = readiness.condition("identity");
    identity.set(Err::<(), _>("waiting for an SVID"));
    // Named before anybody can ask, so that the first part to come up is not taken for the whole.
    for later in ["database", "sequencer", "checkpoints"] {
        readiness.condition(later);
    }
    let admin = admin.bind(config.admin).await?;
    tracing::info!(address = %admin.local_addr(), "admin listener");

    let mut tasks = JoinSet::new();
    tasks.spawn(admin.run(cancel.clone()));
    let service = async {
        let source = IdentitySource::connect(&config.workload_api, cancel.clone()).await?;
        identity.set(Ok::<(), &str>(()));
        // Registering cannot leave the registry half written, so a poisoned lock is still good.
        signet_mtls::register_metrics(&source, &mut registry.lock().unwrap_or_else(PoisonError::into_inner));
        serve(&config, source, &readiness, metrics, cancel.clone(), |addresses| {
            tracing::info!(ingest = %addresses.ingest, tlog = %addresses.tlog, origin = config.origin(), "ready");
        })
        .await
    };
    let result = service.await;
    let stopping = cancel.is_cancelled();
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
    if stopping { Ok(()) } else { result }
}

/// Runs the service over an identity until `cancel`; `ready` is told the addresses once it takes records.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    config: &Config,
    source: IdentitySource,
    readiness: &Readiness,
    metrics: Metrics,
    cancel: CancellationToken,
    ready: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    let trust_domain: TrustDomain = config.trust_domain.parse().context("trust_domain")?;
    let component = SpiffeId::component(&trust_domain, "audit")?;
    let key = LogKey::load_or_create(&config.log_key_file, &config.origin())?;
    let verifier: VerifierKey = key.verifier_key().parse()?;
    let guard = Arc::new(Guard::open(&config.state_file(), &verifier)?);
    let witness = open_witness(config)?;
    let witnesses = Witnesses::new(verifier, &config.witnesses)?;
    // No checkpoint may be shown to the network at large without the auditor role; on loopback it is the machine's own.
    anyhow::ensure!(config.tlog.listen.ip().is_loopback(), "tlog.listen is plain HTTP and must be on loopback");
    let ingest = TcpListener::bind(config.listen).await.with_context(|| format!("listen on `{}`", config.listen))?;
    let log = TcpListener::bind(config.tlog.listen)
        .await
        .with_context(|| format!("tlog.listen on `{}`", config.tlog.listen))?;
    let addresses = Addresses { ingest: ingest.local_addr()?, tlog: log.local_addr()? };

    let database = readiness.condition("database");
    let sequencing = readiness.condition("sequencer");
    let signing = readiness.condition("checkpoints");
    sequencing.set(Err::<(), _>("waiting for PostgreSQL"));
    signing.set(Err::<(), _>("waiting for PostgreSQL"));
    let public = key.verifier_key();
    let open = open(config, &public, &database);
    let store = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        store = open => store?,
    };

    let key = Arc::new(key);
    let latest = Latest::default();
    let signer = Signer {
        store: store.clone(),
        guard: Arc::clone(&guard),
        key: Arc::clone(&key),
        latest: Arc::clone(&latest),
        metrics: metrics.clone(),
        condition: signing,
        witnesses,
    };
    // Before anything is taken: a database that went back stops the service here, with its reason.
    first_checkpoint(&signer, &cancel).await?;
    let (sequencer, queue) =
        Sequencer::new(store.clone(), guard, metrics.clone(), sequencing.clone(), component.as_str());
    sequencing.set(Ok::<(), &str>(()));
    let (recorder, recording) = Recorder::new(component.as_str(), queue.clone());
    let silence = Silence::new(store.clone(), recorder.clone(), config.silent_after(), metrics.clone());
    let faults = Faults::default();
    let (to_record, failing) = (recorder.clone(), readiness.clone());
    let alerts = Alerts::new(&config.alerts, store.clone(), to_record, faults.clone(), failing, metrics.clone())?;
    let exports = continuous::open(&config.export, &store, &recorder, &faults, &metrics)?;
    let access = AccessService::new(trust_domain.clone(), key, recorder, store.clone());
    let service = IngestService::new(trust_domain.clone(), store.clone(), queue, metrics, faults);
    let tls = signet_mtls::server_config_with_rule(
        &source,
        Select::Component,
        PeerRule::TrustDomain(trust_domain),
        &[alpn::GRPC],
    );
    let routes = tonic::service::Routes::new(service.into_server()).add_service(access.into_server());
    let options = signet_mtls::grpc::ServeOptions { on_refusal: None, identity: Some(source) };

    // One end stops all: a service without one of its parts must not look alive.
    let stop = cancel.child_token();
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    {
        let stop = stop.clone();
        tasks.spawn(async move { Ok(signet_mtls::grpc::serve_with(ingest, tls, routes, options, stop).await?) });
    }
    let app = tlog::router(store.clone(), latest);
    let app = match witness {
        Some(witness) => app.merge(witness::router(Arc::new(witness))),
        None => app,
    };
    let log_stop = stop.clone();
    tasks.spawn(async move { Ok(axum::serve(log, app).with_graceful_shutdown(log_stop.cancelled_owned()).await?) });
    tasks.spawn(finish(sequencer.run(stop.clone())));
    tasks.spawn(finish(recording.run(stop.clone())));
    tasks.spawn(finish(signer.run(stop.clone())));
    tasks.spawn(finish(silence.run(stop.clone())));
    tasks.spawn(finish(alerts.run(stop.clone())));
    for export in exports {
        tasks.spawn(finish(export.run(stop.clone())));
    }
    tasks.spawn(finish(keep_partitions(store, database, stop.clone())));
    ready(addresses);
    let mut result = Ok(());
    tokio::select! {
        // First: parts that end because all of it is stopping are no failure.
        biased;
        () = cancel.cancelled() => {}
        ended = tasks.join_next() => {
            result = match ended {
                Some(Ok(Err(error))) => Err(error),
                Some(Err(error)) => Err(error.into()),
                _ => Err(anyhow::anyhow!("a part of the service ended by itself")),
            };
        }
    }
    stop.cancel();
    // Connections may linger; what they hold was not acknowledged and comes again.
    let drained = tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tasks.shutdown().await;
    }
    result
}

async fn finish(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// The service as a witness of other logs, where it is one.
fn open_witness(config: &Config) -> anyhow::Result<Option<Witness>> {
    let Some(witness) = &config.witness else { return Ok(None) };
    anyhow::ensure!(
        witness.key_file != config.log_key_file,
        "witness.key_file is the log's key; a witness needs a key of its own"
    );
    let key = CosignerKey::load_or_create(&witness.key_file, &crate::config::witness_name(&config.trust_domain))?;
    let logs: Vec<VerifierKey> =
        witness.logs.iter().map(|log| log.parse()).collect::<Result<_, _>>().context("witness.logs")?;
    Ok(Some(Witness::open(key, &config.witnessed_dir(), logs)?))
}

/// Opens the store, waiting for PostgreSQL as long as it takes.
async fn open(config: &Config, verifier_key: &str, database: &Condition) -> Result<Store, StoreError> {
    loop {
        let opened = match Store::open(&config.database_url, &config.trust_domain, verifier_key).await {
            Ok(store) => store.make_partitions().await.map(|_| store),
            Err(error) => Err(error),
        };
        match opened {
            Ok(store) => {
                database.set(Ok::<(), &str>(()));
                return Ok(store);
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                let text = signet_observe::error_chain(&error);
                tracing::warn!(error = text, "waiting for PostgreSQL");
                database.set(Err::<(), _>(&text));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Signs what is there, or says why that must not be.
async fn first_checkpoint(signer: &Signer, cancel: &CancellationToken) -> Result<(), StoreError> {
    loop {
        match signer.sign().await {
            Err(error) if !error.is_final() && !cancel.is_cancelled() => {
                tracing::warn!(error = signet_observe::error_chain(&error), "waiting for PostgreSQL");
                tokio::time::sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

/// Makes partitions ahead, and reports whether PostgreSQL answers.
async fn keep_partitions(store: Store, database: Condition, cancel: CancellationToken) {
    let mut next = tokio::time::Instant::now() + PARTITIONS;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        let answer = if tokio::time::Instant::now() >= next {
            next = tokio::time::Instant::now() + PARTITIONS;
            store.make_partitions().await.map(|_| ())
        } else {
            sqlx::query("SELECT 1").execute(store.pool()).await.map(|_| ()).map_err(StoreError::from)
        };
        match answer {
            Ok(()) => database.set(Ok::<(), &str>(())),
            Err(error) => database.set(Err::<(), _>(signet_observe::error_chain(&error))),
        }
    }
}
