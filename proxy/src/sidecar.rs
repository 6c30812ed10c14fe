//! A whole sidecar: builds its parts, runs them on two runtimes, drains them in order.
//!
//! Listeners and calls live on the data runtime. Identity, snapshots, records on their way to the audit service and the
//! admin listener live on the caller's (a single thread), so that neither can starve the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use serde_json::json;
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, TrustDomain, alpn};
use signet_observe::{Admin, Condition};
use signet_spool::{RefusalAggregator, Spool};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::decide::{Enforcer, Recorder};
use crate::egress::Egress;
use crate::inbound::{Inbound, Intercepted};
use crate::intercept;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::refusal::Refusals;
use crate::serve::Stop;
use crate::snapshot::{Discovery, DiscoveryConfig, ProxyKind, Snapshot};

/// How often idle pools are swept and conditions looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long the last records may take to reach the audit service; what is left waits on disk.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// What readiness rests on.
struct Conditions {
    identity: Condition,
    snapshot: Condition,
    spool: Condition,
}

/// Runs a sidecar until `shutdown` resolves, and drains it. `data` is the runtime that calls run on.
///
/// # Errors
/// What keeps it from starting, with what to do about it.
pub async fn run(config: Config, data: Handle, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let cancel = CancellationToken::new();
    let background = TaskTracker::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let stop = Stop::default();

    // Ports are taken first: a sidecar that cannot have them should say so before anything else.
    let listeners = listen(&config, &data).await?;

    tokio::pin!(shutdown);
    let source = tokio::select! {
        () = &mut shutdown => return Ok(()),
        source = IdentitySource::connect(&config.workload_api, cancel.clone()) => {
            source.with_context(|| format!("no identity from `{}`", config.workload_api))?
        }
    };
    signet_mtls::register_metrics(&source, &mut registry);
    let own = proxy_id(&source, &config)?;
    info!(spiffe_id = %own, "identity");

    let spool_config = config.spool.clone();
    let producer = own.to_string();
    let spool = tokio::task::spawn_blocking(move || Spool::open(spool_config, &producer))
        .await
        .context("opening the spool was interrupted")?
        .with_context(|| format!("no spool in `{}`", config.spool.dir.display()))?;
    spool.register(&mut registry);
    let refusals =
        Refusals::new(Arc::clone(&metrics), Some(Arc::new(RefusalAggregator::new(spool.clone(), own.as_str()))));
    let recorder = Recorder { spool: spool.clone(), producer: Arc::from(own.as_str()) };
    let enforcer = Enforcer::new(Some(recorder), source.current(), Arc::clone(&metrics));

    let td = own.trust_domain().clone();
    let (discovery, snapshots) = Discovery::open(DiscoveryConfig {
        kind: ProxyKind::Sidecar,
        trust_domain: td.clone(),
        state_dir: config.state_dir.clone(),
    })
    .context("no state directory")?;

    let outbound =
        Outbound::new(source.clone(), Arc::clone(&enforcer), refusals.clone(), Arc::clone(&metrics), stop.clone())
            .with_egress(egress(&config, &enforcer, &metrics, &stop));
    let inbound: Vec<Arc<Inbound>> = config
        .inbound
        .iter()
        .map(|i| {
            Inbound::new(
                i.listen.port(),
                i.app,
                source.clone(),
                Arc::clone(&enforcer),
                refusals.clone(),
                Arc::clone(&metrics),
                stop.clone(),
            )
        })
        .collect();

    let intercepted = config.transparent.as_ref().map(|transparent| {
        Intercepted::new(
            transparent.app_host,
            source.clone(),
            Arc::clone(&enforcer),
            refusals.clone(),
            Arc::clone(&metrics),
            stop.clone(),
        )
    });

    let in_force = Arc::clone(&outbound);
    let connections = {
        let (outbound, inbound, intercepted) = (Arc::clone(&outbound), inbound.clone(), intercepted.clone());
        move || {
            let ports = inbound.iter().map(|port| port.connections());
            let ports = ports.chain(intercepted.iter().flat_map(|intercepted| intercepted.connections()));
            json!({ "outbound": outbound.connections(), "inbound": ports.collect::<Vec<_>>() })
        }
    };
    let admin = Admin::new(registry)
        .config_json(serde_json::to_value(&config).unwrap_or_default())
        .in_force(move || in_force.in_force())
        .page("/connections", connections);
    let readiness = admin.readiness();
    let conditions = Conditions {
        identity: readiness.condition("identity"),
        snapshot: readiness.condition("snapshot"),
        spool: readiness.condition("spool"),
    };
    let admin = admin.bind(config.admin).await.context("no admin listener")?;

    background.spawn(admin.run(cancel.clone()));
    let control = signet_mtls::grpc::channel(&config.control, component(&source, &td, "control")?);
    background.spawn(discovery.with_lost(enforcer.lost()).run(control.clone(), cancel.clone()));
    background.spawn(Live::new(Arc::clone(&metrics.flows), enforcer.taps()).run(control, cancel.clone()));
    // Refusals and records go on until the last call has ended.
    let records = CancellationToken::new();
    background.spawn(refusals.run(records.clone()));
    background.spawn(signet_spool::ship(
        spool.clone(),
        config.audit.clone(),
        component(&source, &td, "audit")?,
        records.clone(),
    ));
    {
        let (outbound, inbound, intercepted) = (Arc::clone(&outbound), inbound.clone(), intercepted.clone());
        let apply = move |snapshot: &Arc<Snapshot>| {
            outbound.apply(snapshot);
            for listener in &inbound {
                listener.apply(snapshot);
            }
            if let Some(intercepted) = &intercepted {
                intercepted.apply(snapshot);
            }
        };
        background.spawn(Arc::clone(&enforcer).follow(snapshots.clone(), source.watch(), apply, cancel.clone()));
    }
    let sweep = {
        let (outbound, inbound, intercepted) = (Arc::clone(&outbound), inbound.clone(), intercepted.clone());
        move || {
            outbound.sweep();
            inbound.iter().for_each(|listener| listener.sweep());
            intercepted.iter().for_each(|intercepted| intercepted.sweep());
        }
    };
    background.spawn(housekeeping(conditions, source.clone(), snapshots, spool.clone(), sweep, cancel.clone()));
    stop.tasks.spawn_on(Arc::clone(&outbound).watch(), &data);
    if let Some(listener) = listeners.outbound {
        stop.tasks.spawn_on(Arc::clone(&outbound).run(listener), &data);
    }
    for (listener, tcp) in inbound.into_iter().zip(listeners.inbound) {
        stop.tasks.spawn_on(listener.run(tcp), &data);
    }
    for (upstream, listener) in config.upstreams.iter().zip(listeners.upstreams) {
        let to_one = Arc::clone(&outbound).run_upstream(listener, upstream.host.as_str().into(), upstream.port);
        stop.tasks.spawn_on(to_one, &data);
    }
    for listener in listeners.intercepted_outbound {
        stop.tasks.spawn_on(Arc::clone(&outbound).run_intercepted(listener), &data);
    }
    for listener in listeners.intercepted_inbound {
        if let Some(intercepted) = &intercepted {
            stop.tasks.spawn_on(Arc::clone(intercepted).run(listener), &data);
        }
    }

    shutdown.await;
    drain(&stop, &config).await;
    if !spool.drain(LAST_RECORDS).await {
        info!("some records wait on disk for the next start");
    }
    cancel.cancel();
    records.cancel();
    background.close();
    if tokio::time::timeout(LAST_RECORDS, background.wait()).await.is_err() {
        warn!("a background task did not end in time");
    }
    tokio::task::spawn_blocking(move || spool.close())
        .await
        .context("closing the spool was interrupted")?
        .context("the last records may not be on stable storage")
}

#[derive(Default)]
struct Listeners {
    outbound: Option<TcpListener>,
    /// In the order of the configuration.
    inbound: Vec<TcpListener>,
    /// In the order of the configuration.
    upstreams: Vec<TcpListener>,
    intercepted_outbound: Vec<TcpListener>,
    intercepted_inbound: Vec<TcpListener>,
}

/// Binds on the data runtime, whose reactor the sockets then belong to.
async fn listen(config: &Config, data: &Handle) -> anyhow::Result<Listeners> {
    anyhow::ensure!(
        config.outbound.is_some() || config.transparent.is_some(),
        "the configuration names no outbound listener: give `outbound`, or `transparent` with the rules of `signet-proxy init`"
    );
    let config = config.clone();
    data.spawn(async move {
        let mut listeners = Listeners::default();
        if let Some(address) = config.outbound {
            listeners.outbound = Some(Outbound::bind(address).await?);
        }
        for upstream in &config.upstreams {
            listeners.upstreams.push(Outbound::bind(upstream.listen).await?);
        }
        for port in &config.inbound {
            listeners.inbound.push(Inbound::bind(port.listen).await?);
        }
        if let Some(transparent) = &config.transparent {
            let bound = intercept::bind(transparent)?;
            listeners.intercepted_outbound = bound.outbound;
            listeners.intercepted_inbound = bound.inbound;
        }
        Ok(listeners)
    })
    .await
    .context("binding was interrupted")?
}

fn egress(config: &Config, enforcer: &Arc<Enforcer>, metrics: &Arc<Metrics>, stop: &Stop) -> Egress {
    let components = [&config.control, &config.audit];
    let components = components.iter().filter_map(|address| address.parse::<SocketAddr>().ok()).map(|a| a.ip());
    let (enforcer, metrics) = (Arc::clone(enforcer), Arc::clone(metrics));
    Egress::new(enforcer, metrics, stop.clone(), &config.egress_authorities, components.collect(), None)
}

/// The sidecar's own SVID: what it proves itself with to control and audit.
fn proxy_id(source: &IdentitySource, config: &Config) -> anyhow::Result<SpiffeId> {
    let identity = source.current();
    if Select::Workload.svid(&identity).is_none() {
        anyhow::bail!(
            "`{}` gives no workload SVID (/ns/<namespace>/sa/<service account>); see the registration entries",
            config.workload_api
        );
    }
    Select::Proxy.svid(&identity).map(|svid| svid.id.clone()).with_context(|| {
        format!(
            "`{}` gives no sidecar SVID (/ns/<namespace>/proxy/<service account>); see the registration entries",
            config.workload_api
        )
    })
}

/// TLS to a component of the own trust domain, with the sidecar's own SVID.
fn component(source: &IdentitySource, td: &TrustDomain, name: &str) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let peer = PeerRule::AnyOf(vec![SpiffeId::component(td, name)?]);
    Ok(signet_mtls::client_config(source, Select::Proxy, peer, &[alpn::GRPC]))
}

async fn drain(stop: &Stop, config: &Config) {
    info!(seconds = config.drain_seconds, "draining");
    stop.drain.cancel();
    stop.tasks.close();
    if tokio::time::timeout(config.drain(), stop.tasks.wait()).await.is_err() {
        warn!(connections = stop.tasks.len(), "the drain deadline was reached; closing what is left");
        stop.kill.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(1), stop.tasks.wait()).await;
    }
}

async fn housekeeping(
    conditions: Conditions,
    source: IdentitySource,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    spool: Spool,
    sweep: impl Fn() + Send,
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    let mut starting = true;
    loop {
        conditions.identity.set(match source.current().not_after() {
            Some(end) if end.saturating_mul(1_000_000) > crate::decide::now_us() => Ok(()),
            Some(_) => Err("the SVID has ended; is the agent running?"),
            None => Err("no SVID"),
        });
        conditions.snapshot.set({
            let snapshot = snapshots.borrow_and_update();
            match (snapshot.version, &snapshot.bundle) {
                (0, _) => Err("no snapshot yet; is the control plane running?"),
                (_, None) => Err("no policy bundle; everything is denied"),
                _ => Ok(()),
            }
        });
        conditions.spool.set(spool.stats().failed.map_or(Ok(()), Err));
        sweep();
        if starting && snapshots.borrow().bundle.is_some() {
            starting = false;
            // Most of the code that is in memory now compiled policies and read configuration.
            match signet_map::release_code() {
                Ok(bytes) => debug!(bytes, "gave back pages of the program that starting needed"),
                Err(error) => debug!(%error, "the program's pages stay in memory"),
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
            Ok(()) = snapshots.changed() => {}
        }
    }
}
