//! The identity server: one trust domain's authority behind gRPC over mutual TLS, its bundle endpoint, its operator's
//! socket, and the tasks that keep all of it fresh.
//!
//! Long-lived tasks, all owned by [`Running`]: gRPC, operator socket, bundle endpoint, admin, entries, federation polls,
//! the keeper (intermediate, own SVID, index, gauges), the shipper of events.

pub mod access;
pub mod config;
mod issued;
mod metrics;
mod node;
mod operator;
mod own;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use signet_api::identity::{node_server::NodeServer, operator_server::OperatorServer};
use signet_mtls::{HandshakeError, IdentitySource, PeerRule, Select, SpiffeId, TrustDomain, alpn, grpc};
use signet_observe::{Admin, Condition, ObserveError};
use signet_spool::{Durability, OnFull, Spool, SpoolConfig, SpoolError};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes};

use self::{
    access::{Guard, Origin},
    config::ServerConfig,
    issued::Issued,
    metrics::{Metrics, PartnerLabel, ResultLabel},
    own::{Own, OwnError},
};
use crate::{
    bundle::{self, TrustBundle},
    ca::{self, Authority, CaError, Minted},
    clock, endpoint,
    endpoint_url::{EndpointUrl, EndpointUrlError},
    entries::{self, EntriesError, Entry},
    events::{Event, Events},
    federation::Federation,
    fetch,
    store::{self, DataDir, StoreError},
    tokens::JoinTokens,
    unix,
};

const KEEPER_PERIOD: Duration = Duration::from_millis(500);
const FLUSH_EVERY: u32 = 10;
const MAX_SPOOL: u64 = 64 << 20;
const OPERATOR_CONNECTIONS: usize = 32;
const MAX_INVITE_MESSAGE: usize = 1 << 20;
/// How long the shipper may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(2);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Values in the configuration.
    #[error("configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// A file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root or an intermediate.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The server's own SVID.
    #[error("cannot make the server's own SVID")]
    Own(#[from] OwnError),
    /// The registration entries at start.
    #[error(transparent)]
    Entries(#[from] EntriesError),
    /// A listener.
    #[error("cannot listen on `{address}` (`{field}`); is the port taken?")]
    Listen {
        /// Configuration field.
        field: &'static str,
        /// What was to be bound.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// What invites would say.
    #[error("`federation.advertise_bundle_endpoint`")]
    Advertised(#[from] EndpointUrlError),
    /// The spool of events.
    #[error("cannot open the spool of events")]
    Spool(#[from] SpoolError),
    /// The admin listener.
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

/// What the services share.
pub(crate) struct Shared {
    config: ServerConfig,
    authority: Authority,
    own: Own,
    tokens: JoinTokens,
    issued: Issued,
    entries: watch::Receiver<Arc<Vec<Entry>>>,
    bundle: watch::Receiver<Arc<TrustBundle>>,
    federation: Arc<Federation>,
    advertised: EndpointUrl,
    metrics: Metrics,
    events: Events,
    stopping: CancellationToken,
}

impl Shared {
    /// Signs, counts and records one SVID; `agent` asked for it.
    fn sign(
        &self,
        id: &SpiffeId,
        key: &rcgen::SubjectPublicKeyInfo,
        life: Duration,
        agent: Option<&SpiffeId>,
    ) -> Result<Minted, Status> {
        let now = clock::now();
        let minted = self.authority.sign(id, key, life, now).map_err(|error| {
            tracing::error!(error = signet_observe::error_chain(&error), spiffe_id = %id, "could not sign");
            Status::internal("could not sign; see the server's log")
        })?;
        self.issued_one(&minted, agent, now);
        Ok(minted)
    }

    fn issued_one(&self, minted: &Minted, agent: Option<&SpiffeId>, now: i64) {
        self.issued.note(minted, agent.map(SpiffeId::as_str).unwrap_or_default(), now);
        self.metrics.svids_issued.inc();
        self.events.emit(&Event {
            action: "identity:issue",
            allow: true,
            reason: "signed",
            source: agent,
            subject: Some(&minted.id),
            detail: format!("serial {} not_after {}", minted.serial, minted.not_after),
        });
    }
}

/// A server that runs until its cancellation.
pub struct Running {
    /// gRPC.
    pub listen: SocketAddr,
    /// HTTPS.
    pub bundle_endpoint: SocketAddr,
    /// Where it binds, if it does.
    pub admin: Option<SocketAddr>,
    tasks: JoinSet<()>,
    shipper: Option<(Spool, JoinSet<()>, CancellationToken)>,
    shared: Arc<Shared>,
}

impl Running {
    /// Waits for the end that the cancellation asked for; writes down what is only in memory.
    pub async fn wait(mut self) {
        while self.tasks.join_next().await.is_some() {}
        if let Err(error) = self.shared.issued.flush() {
            tracing::warn!(error = signet_observe::error_chain(&error), "the index of issued SVIDs was not written");
        }
        if let Some((spool, mut shipping, cancel)) = self.shipper {
            if let Err(error) = spool.close() {
                tracing::error!(error = signet_observe::error_chain(&error), "the spool did not close cleanly");
            }
            let _ = spool.drain(DRAIN).await;
            cancel.cancel();
            while shipping.join_next().await.is_some() {}
        }
    }
}

/// Starts the server; everything that can be wrong with its configuration or data directory is found before it listens.
///
/// # Errors
/// What is wrong, where, and the next step.
pub async fn start(config: ServerConfig, stopping: CancellationToken) -> Result<Running, ServerError> {
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(ServerError::Config(problems));
    }
    let now = clock::now();
    let trust_domain = config.trust_domain.clone();
    let dir = DataDir::open(&config.data_dir)?;
    let life = Duration::from_secs(config.intermediate_ttl_seconds.into());
    let authority = Authority::open(&dir, trust_domain.clone(), life, now)?;
    let (own, own_svid) = Own::new(&authority, Duration::from_secs(config.svid_ttl_seconds.into()), now)?;
    let hint = config.bundle_endpoint.refresh_hint_seconds;
    let own_bundle = bundle::own_bundle(&dir, &trust_domain, authority.roots(), hint, now)?;
    store::write_public(&dir.file("bundle.pem"), ca::to_pem(&own_bundle.authorities).as_bytes())?;
    let read = entries::load(&config.entries, &trust_domain)?;
    let (bundle_sender, bundle) = watch::channel(Arc::new(own_bundle));
    let (entries_sender, entries) = watch::channel(Arc::new(read));

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    signet_mtls::register_metrics(own.source(), &mut registry);
    let spool = open_spool(&config, own.id(), &mut registry)?;
    let events = Events::new(spool.clone(), own.id(), &mut registry);

    let grpc_listener = bind("listen", config.listen).await?;
    let bundle_listener = bind("bundle_endpoint.listen", config.bundle_endpoint.listen).await?;
    let (listen, bundle_endpoint) = (local("listen", &grpc_listener)?, local("bundle_endpoint", &bundle_listener)?);
    let advertised = config.federation.advertise_bundle_endpoint.clone();
    let advertised = advertised.unwrap_or_else(|| format!("https://{bundle_endpoint}/")).parse()?;

    let shared = Arc::new(Shared {
        tokens: JoinTokens::open(dir.file("join-tokens.json"))?,
        issued: Issued::open(dir.file("issued.json")),
        federation: Arc::new(Federation::open(trust_domain, dir.file("federation.json"))?),
        config,
        authority,
        own,
        entries,
        bundle,
        advertised,
        metrics,
        events,
        stopping: stopping.clone(),
    });
    shared.issued_one(&own_svid, None, now);

    let mut tasks = JoinSet::new();
    // Before the admin listener, so that whoever hears that the server is ready finds the socket there.
    start_operator_socket(&shared, &mut tasks)?;
    let admin = start_admin(&shared, registry, &mut tasks).await?;
    start_grpc(&shared, grpc_listener, &mut tasks);
    let (served, cancel, source) = (shared.bundle.clone(), stopping.clone(), shared.own.source().clone());
    tasks.spawn(async move {
        // The data directory stays locked, and the bundle's channel open, for as long as the server runs.
        let _held = (dir, bundle_sender);
        if let Err(error) = endpoint::serve(bundle_listener, &source, served, cancel).await {
            tracing::error!(%error, "the bundle endpoint ended");
        }
    });
    start_followers(&shared, entries_sender, &mut tasks);
    tasks.spawn(keep(Arc::clone(&shared)));
    tasks.spawn(shared.events.clone().aggregate(stopping.clone()));
    let shipper = spool.and_then(|spool| start_shipper(&shared, spool));
    tracing::info!(trust_domain = %shared.config.trust_domain, %listen, %bundle_endpoint, "identity server is up");
    Ok(Running { listen, bundle_endpoint, admin, tasks, shipper, shared })
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen {
        field,
        address: address.to_string(),
        source,
    })
}

fn local(field: &'static str, listener: &TcpListener) -> Result<SocketAddr, ServerError> {
    listener.local_addr().map_err(|source| ServerError::Listen { field, address: String::new(), source })
}

fn open_spool(config: &ServerConfig, own: &SpiffeId, registry: &mut Registry) -> Result<Option<Spool>, ServerError> {
    if config.audit.is_none() {
        return Ok(None);
    }
    let spool_config = config.spool.clone().unwrap_or_else(|| SpoolConfig {
        dir: config.spool_dir.clone().unwrap_or_else(|| config.data_dir.join("spool")),
        durability: Durability::default(),
        on_full: OnFull::default(),
        max_bytes: MAX_SPOOL,
    });
    let spool = Spool::open(spool_config, own.as_str())?;
    spool.register(registry);
    Ok(Some(spool))
}

fn start_shipper(shared: &Arc<Shared>, spool: Spool) -> Option<(Spool, JoinSet<()>, CancellationToken)> {
    let address = shared.config.audit.clone()?;
    let audit = SpiffeId::component(&shared.config.trust_domain, "audit").ok()?;
    let tls =
        signet_mtls::client_config(shared.own.source(), Select::Component, PeerRule::AnyOf(vec![audit]), &[alpn::GRPC]);
    let cancel = CancellationToken::new();
    let mut shipping = JoinSet::new();
    shipping.spawn(signet_spool::ship(spool.clone(), address, tls, cancel.clone()));
    Some((spool, shipping, cancel))
}

async fn start_admin(
    shared: &Arc<Shared>,
    registry: Registry,
    tasks: &mut JoinSet<()>,
) -> Result<Option<SocketAddr>, ServerError> {
    let Some(address) = shared.config.admin else { return Ok(None) };
    let admin = Admin::new(registry).config_json(serde_json::to_value(&shared.config).unwrap_or_default());
    let ready: Condition = admin.readiness().condition("authority");
    ready.set(Ok::<(), &str>(()));
    let bound = admin.bind(address).await?;
    let address = bound.local_addr();
    tasks.spawn(bound.run(shared.stopping.clone()));
    Ok(Some(address))
}

fn routes(shared: &Arc<Shared>, origin: Origin) -> Routes {
    let own: TrustDomain = shared.config.trust_domain.clone();
    let operator = OperatorServer::new(operator::OperatorService(Arc::clone(shared)))
        .max_decoding_message_size(MAX_INVITE_MESSAGE);
    let events = &shared.events;
    let routes = Routes::new(Guard::new(operator, own.clone(), origin, events.clone()));
    match origin {
        Origin::OperatorSocket => routes,
        Origin::Tls => {
            let node = NodeServer::new(node::NodeService(Arc::clone(shared)));
            routes.add_service(Guard::new(node, own, origin, events.clone()))
        }
    }
}

fn start_grpc(shared: &Arc<Shared>, listener: TcpListener, tasks: &mut JoinSet<()>) {
    let source: &IdentitySource = shared.own.source();
    // Attest comes without a certificate; the guard asks for one everywhere else.
    let tls = signet_mtls::server_config_optional_client(source, Select::Component, &[alpn::GRPC]);
    let (refused, events) = (shared.metrics.handshakes_refused.clone(), shared.events.clone());
    let options = grpc::ServeOptions {
        on_refusal: Some(Arc::new(move |address: SocketAddr, error: &HandshakeError| {
            refused.inc();
            events.refused("tls:handshake", error.refusal.as_str(), Some(address.ip()), error.claimed.as_ref());
        })),
        identity: Some(source.clone()),
    };
    let routes = routes(shared, Origin::Tls);
    let stopping = shared.stopping.clone();
    tasks.spawn(async move {
        if let Err(error) = grpc::serve_with(listener, tls, routes, options, stopping).await {
            tracing::error!(%error, "the gRPC listener ended");
        }
    });
}

fn start_operator_socket(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> Result<(), ServerError> {
    let Some(path) = &shared.config.operator_socket else { return Ok(()) };
    let socket = unix::bind(path, 0o600).map_err(|source| ServerError::Listen {
        field: "operator_socket",
        address: path.display().to_string(),
        source,
    })?;
    let user = rustix::process::geteuid().as_raw();
    // The mode says it already; this holds even where a directory's owner changed the mode.
    let facts = move |peer: unix::PeerCredentials| (peer.uid == user || peer.uid == 0).then_some(());
    let stopping = shared.stopping.clone();
    let connections = unix::incoming(socket, OPERATOR_CONNECTIONS, facts, stopping.clone());
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(32)
        .add_routes(routes(shared, Origin::OperatorSocket));
    tasks.spawn(async move {
        let serving = server.serve_with_incoming_shutdown(connections, stopping.clone().cancelled_owned());
        tokio::select! {
            ended = serving => if let Err(error) = ended {
                tracing::error!(error = signet_observe::error_chain(&error), "the operator's socket ended");
            },
            () = async { stopping.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
        }
    });
    Ok(())
}

fn start_followers(shared: &Arc<Shared>, entries: watch::Sender<Arc<Vec<Entry>>>, tasks: &mut JoinSet<()>) {
    let reloads = Arc::clone(shared);
    let on_reload: entries::OnReload = Box::new(move |result| match result {
        Ok(_) => {}
        Err(error) => {
            reloads.metrics.entries_refused.inc();
            reloads.events.emit(&Event {
                action: "identity:entries",
                allow: false,
                reason: "entries_refused",
                source: None,
                subject: None,
                detail: error.to_string(),
            });
        }
    });
    tasks.spawn(entries::follow(
        shared.config.entries.clone(),
        shared.config.trust_domain.clone(),
        entries,
        on_reload,
        shared.stopping.clone(),
    ));
    let refreshes = Arc::clone(shared);
    let failing = parking_lot::Mutex::new(std::collections::BTreeMap::<TrustDomain, String>::new());
    let on_refresh: fetch::OnRefresh = Arc::new(move |trust_domain, outcome| {
        let result = if outcome.is_ok() { "ok" } else { "failed" };
        refreshes.metrics.refreshes.get_or_create(&ResultLabel { result }).inc();
        // The log gets what changed; a partner that stays away is not news at each poll.
        let mut failing = failing.lock();
        let detail = match outcome {
            Ok(_) => match failing.remove(trust_domain) {
                Some(_) => format!("{trust_domain} answers again"),
                None => return,
            },
            Err(error) if failing.get(trust_domain).is_some_and(|known| known == error) => return,
            Err(error) => {
                failing.insert(trust_domain.clone(), error.to_owned());
                format!("{trust_domain}: {error}")
            }
        };
        refreshes.events.emit(&Event {
            action: "identity:federation_refresh",
            allow: outcome.is_ok(),
            reason: if outcome.is_ok() { "recovered" } else { "refresh_failed" },
            source: None,
            subject: None,
            detail,
        });
    });
    let floor = Duration::from_secs(shared.config.federation.minimum_refresh_seconds.max(1).into());
    tasks.spawn(fetch::follow(Arc::clone(&shared.federation), floor, on_refresh, shared.stopping.clone()));
}

/// Keeps the intermediate, the own SVID, the index on disk and the gauges fresh. A reconciler: it takes no input.
async fn keep(shared: Arc<Shared>) {
    let mut timer = tokio::time::interval(KEEPER_PERIOD);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            _ = timer.tick() => {}
        }
        ticks = ticks.wrapping_add(1);
        let now = clock::now();
        match shared.authority.rotate_if_due(now) {
            Ok(Some(rotated)) => {
                shared.metrics.intermediate_rotations.inc();
                shared.events.emit(&Event {
                    action: "identity:rotate_intermediate",
                    allow: true,
                    reason: "due",
                    source: None,
                    subject: None,
                    detail: format!("sha256 {} not_after {}", rotated.sha256, rotated.not_after),
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(error = signet_observe::error_chain(&error), "could not rotate the intermediate");
            }
        }
        match shared.own.renew_if_due(&shared.authority, now) {
            Ok(Some(minted)) => shared.issued_one(&minted, None, now),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(error = signet_observe::error_chain(&error), "could not renew the own SVID");
            }
        }
        if ticks.is_multiple_of(FLUSH_EVERY)
            && let Err(error) = shared.issued.flush()
        {
            tracing::warn!(error = signet_observe::error_chain(&error), "the index of issued SVIDs was not written");
        }
        gauges(&shared, now);
    }
}

fn gauges(shared: &Shared, now: i64) {
    let metrics = &shared.metrics;
    metrics.entries.set(i64::try_from(shared.entries.borrow().len()).unwrap_or(i64::MAX));
    metrics.first_expiry.set(shared.issued.first_expiry(now).unwrap_or(0));
    for (trust_domain, relationship) in shared.federation.current().iter() {
        let age = if relationship.last_refresh == 0 { -1 } else { now - relationship.last_refresh };
        metrics.refresh_age.get_or_create(&PartnerLabel { trust_domain: trust_domain.to_string() }).set(age);
    }
}
