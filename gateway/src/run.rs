//! Puts the gateway together, runs it and drains it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, TrustDomain, alpn};
use signet_observe::{Admin, Readiness};
use signet_proxy::decide::{Enforcer, Recorder};
use signet_proxy::live::Live;
use signet_proxy::metrics::Metrics;
use signet_proxy::refusal::Refusals;
use signet_proxy::snapshot::{Discovery, DiscoveryConfig, ProxyKind, Snapshot};
use signet_spool::{RefusalAggregator, Spool};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::balancer::Balancer;
use crate::forward::Shared;
use crate::metrics::GatewayMetrics;
use crate::{Config, server};

/// After the listener is closed, for what the spool still holds. What is left stays on disk.
const SPOOL_DRAIN: Duration = Duration::from_secs(3);

/// Runs a gateway until `cancel`, then drains it.
///
/// # Errors
/// When something that it cannot do without is missing at the start: the message names it.
pub async fn run(config: Config, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let own = GatewayMetrics::register(&mut registry);
    let admin = Admin::new(registry).config_json(serde_json::to_value(&config)?);
    let (readiness, registry) = (admin.readiness(), admin.registry());
    let identity_ready = readiness.condition("identity");
    for later in ["snapshot", "spool", "listener"] {
        readiness.condition(later);
    }
    let bound = admin.bind(config.admin).await?;
    // Ends last, so that a drain can be watched.
    let ending = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(bound.run(ending.clone()));

    let identity = match IdentitySource::connect(&config.workload_api, cancel.clone()).await {
        Ok(identity) => identity,
        Err(_) if cancel.is_cancelled() => return Ok(()),
        Err(error) => return Err(error).context("`workload_api` of the configuration"),
    };
    let own_id = own_id(&identity)
        .context("the Workload API gave no SVID of a gateway; is `/signet/gateway` registered for this socket?")?;
    let trust_domain = own_id.trust_domain().clone();
    identity_ready.set(Ok::<_, String>(()));

    let spool = Spool::open(config.spool.clone(), own_id.as_str()).context("`spool` of the configuration")?;
    with_registry(&registry, |registry| {
        signet_mtls::register_metrics(&identity, registry);
        spool.register(registry);
    });
    let aggregator = Arc::new(RefusalAggregator::new(spool.clone(), own_id.as_str()));
    let refusals = Refusals::new(Arc::clone(&metrics), Some(aggregator));
    let recorder = Recorder { spool: spool.clone(), producer: Arc::from(own_id.as_str()) };
    let enforcer = Enforcer::new(Some(recorder), identity.current(), Arc::clone(&metrics));

    let discovery = DiscoveryConfig {
        kind: ProxyKind::Gateway,
        trust_domain: trust_domain.clone(),
        state_dir: config.state_dir.clone(),
    };
    let (discovery, snapshots) = Discovery::open(discovery).context("`state_dir` of the configuration")?;
    let control = signet_mtls::grpc::channel(&config.control, component(&identity, &trust_domain, "control")?);
    tasks.spawn(discovery.with_lost(enforcer.lost()).run(control.clone(), ending.clone()));
    tasks.spawn(Live::new(Arc::clone(&metrics.flows), enforcer.taps()).run(control, ending.clone()));

    let shared = Arc::new(Shared {
        enforcer: Arc::clone(&enforcer),
        snapshot: ArcSwap::from_pointee(Snapshot::empty(trust_domain.clone())),
        identity: identity.clone(),
        refusals: refusals.clone(),
        metrics,
        own,
        balancer: Balancer::default(),
        idle: config.idle(),
        tunnels: TaskTracker::new(),
        kill: CancellationToken::new(),
    });
    let applied = Arc::clone(&shared);
    let follow =
        enforcer.follow(snapshots.clone(), identity.watch(), move |snapshot| applied.apply(snapshot), ending.clone());
    tasks.spawn(follow);
    tasks.spawn(watch_readiness(readiness.clone(), identity.clone(), snapshots, spool.clone(), cancel.clone()));

    let shipping = CancellationToken::new();
    let audit = component(&identity, &trust_domain, "audit")?;
    tasks.spawn(signet_spool::ship(spool.clone(), config.audit.clone(), audit, shipping.clone()));
    let aggregating = CancellationToken::new();
    let aggregates = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(refusals.run(aggregating.clone())));

    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on `{}` (`listen` of the configuration); is it taken?", config.listen)
    })?;
    readiness.condition("listener").set(Ok::<_, String>(()));
    tracing::info!(listen = %config.listen, id = %own_id, "gateway ready to accept");
    server::serve(listener, server::tls(&identity, &trust_domain), shared, config.drain(), cancel).await;

    // Nothing makes records any more; the last aggregates go into the spool, and the spool as far as it gets.
    aggregating.cancel();
    let _ = aggregates.await;
    if !spool.drain(SPOOL_DRAIN).await {
        tracing::warn!("records are left in the spool; the next start ships them");
    }
    let closing = spool.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || closing.close()).await {
        tracing::warn!(%error, "the spool was not closed in order");
    }
    shipping.cancel();
    ending.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn own_id(identity: &IdentitySource) -> Option<SpiffeId> {
    Select::Component
        .svid(&identity.current())
        .map(|svid| svid.id.clone())
        .filter(|id| id.as_component() == Some("gateway"))
}

/// mTLS to a component of our own trust domain.
fn component(identity: &IdentitySource, domain: &TrustDomain, name: &str) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let id = SpiffeId::component(domain, name)?;
    Ok(signet_mtls::client_config(identity, Select::Component, PeerRule::AnyOf(vec![id]), &[alpn::GRPC]))
}

fn with_registry(registry: &std::sync::Mutex<Registry>, add: impl FnOnce(&mut Registry)) {
    add(&mut registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// Looks at what readiness rests on each time something changes and every second.
async fn watch_readiness(
    readiness: Readiness,
    identity: IdentitySource,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    spool: Spool,
    cancel: CancellationToken,
) {
    let names = ["identity", "snapshot", "spool"].map(|name| readiness.condition(name));
    let [has_identity, has_snapshot, has_spool] = names;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let valid = identity.current().not_after().is_some_and(|end| end > i64::try_from(now).unwrap_or(i64::MAX));
        has_identity.set(if valid { Ok(()) } else { Err("the SVID has ended; see the agent") });
        let has_bundle = snapshots.borrow_and_update().bundle.is_some();
        has_snapshot.set(if has_bundle {
            Ok(())
        } else {
            Err("no snapshot with a policy bundle; see the control plane")
        });
        let stats = spool.stats();
        has_spool.set(stats.failed.map_or(Ok(()), Err));
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = tick.tick() => {}
            changed = snapshots.changed() => if changed.is_err() {
                tick.tick().await;
            },
        }
    }
    readiness.condition("listener").set(Err("draining"));
}
