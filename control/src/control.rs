//! Puts the parts together: what reads, what joins, what serves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use signet_api::control::discovery_server::DiscoveryServer;
use signet_api::control::emergency_server::EmergencyServer;
use signet_api::control::link_server::LinkServer;
use signet_api::control::live_server::LiveServer;
use signet_api::control::status_server::StatusServer;
use signet_mtls::grpc::{self, ServeOptions};
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, SpiffeIdError, alpn, client_config, server_config};
use signet_observe::{Admin, BoundAdmin, ObserveError};
use signet_spool::{RefusalAggregator, Refused, Spool, SpoolError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::break_glass::BreakGlass;
use crate::bundles::BundleStore;
use crate::config::Config;
use crate::discovery::DiscoveryService;
use crate::emergency::EmergencyService;
use crate::events::Events;
use crate::federation::FederationWatch;
use crate::gate::Gate;
use crate::hub::Hub;
use crate::link::{LinkClient, LinkService};
use crate::links::LinkTable;
use crate::live::{LiveHub, LiveService};
use crate::manifests::DirectorySource;
use crate::metrics::{ByReason, Metrics};
use crate::persist::PersistError;
use crate::policy::{PolicyError, PolicySource};
use crate::proxies::Proxies;
use crate::readiness::ReadinessWatch;
use crate::status::StatusService;

/// What a report of a proxy may take on the wire; it holds a few short texts.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// What a proxy shows at once while somebody watches: all its flows, or some dozens of calls.
const MAX_SIGHTINGS_BYTES: usize = 512 * 1024;
/// A grant's document and its signatures.
const MAX_GRANT_BYTES: usize = 256 * 1024;
const DRAIN: Duration = Duration::from_secs(3);

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The listener.
    #[error("`listen: {address}` could not be bound; is the port taken?")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The admin listener.
    #[error("the admin listener could not start")]
    Admin(#[from] ObserveError),
    /// The spool.
    #[error("the spool for events could not be opened")]
    Spool(#[from] SpoolError),
    /// State of linked clusters.
    #[error("the linked clusters of the last run are not known")]
    Links(#[from] PersistError),
    /// State of grants.
    #[error("the grants of the last run are not known")]
    Grants(#[source] PersistError),
    /// State of policy.
    #[error("policy cannot be followed")]
    Policy(#[from] PolicyError),
    /// Our own name.
    #[error("the trust domain gives no SPIFFE ID for the control plane")]
    Name(#[from] SpiffeIdError),
}

/// A control plane that listens but does not serve yet.
pub struct Control {
    listener: TcpListener,
    local: SocketAddr,
    admin: BoundAdmin,
    config: Config,
    identity: IdentitySource,
    spool: Spool,
    refusals: Arc<RefusalAggregator>,
    metrics: Metrics,
    events: Events,
    manifests: DirectorySource,
    policy: PolicySource,
    break_glass: BreakGlass,
    links: watch::Sender<LinkTable>,
    bundles: BundleStore,
    hub: Hub,
    readiness: ReadinessWatch,
}

impl Control {
    /// Reads what earlier runs left, opens the spool and both listeners.
    ///
    /// # Errors
    /// When one of these is not possible. Manifests, policy, identity server and audit service may all be missing.
    pub async fn bind(config: Config, identity: IdentitySource) -> Result<Self, ControlError> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        signet_mtls::register_metrics(&identity, &mut registry);
        let own = SpiffeId::component(&config.trust_domain, "control")?;
        let spool = Spool::open(config.spool.clone(), own.as_str())?;
        spool.register(&mut registry);
        let refusals = Arc::new(RefusalAggregator::new(spool.clone(), own.as_str()));
        let events = Events::new(spool.clone(), &own, metrics.clone());

        let manifests = DirectorySource::open(config.manifests.clone());
        let bundles = BundleStore::new(config.state_dir.join("bundles"), metrics.clone());
        let policy = PolicySource::open(config.policy.clone(), bundles.clone(), events.clone(), metrics.clone())?;
        let break_glass = BreakGlass::open(
            config.trust_domain.clone(),
            config.policy.break_glass.clone(),
            config.state_dir.join("break-glass.json"),
            events.clone(),
            metrics.clone(),
        )
        .map_err(ControlError::Grants)?;
        let links = watch::Sender::new(LinkClient::load(&config.state_dir.join("links.json"))?);
        let hub = Hub::new(
            config.trust_domain.clone(),
            manifests.subscribe(),
            policy.subscribe(),
            links.subscribe(),
            break_glass.subscribe(),
            metrics.clone(),
        );

        let address = config.listen;
        let listen = |source| ControlError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let shown = serde_json::to_value(&config).unwrap_or_default();
        let admin = Admin::new(registry).config_json(shown);
        let readiness = ReadinessWatch::new(
            &admin.readiness(),
            own,
            &identity,
            manifests.subscribe(),
            policy.subscribe(),
            metrics.clone(),
        );
        let admin = admin.bind(config.admin).await?;
        Ok(Self {
            listener,
            local,
            admin,
            config,
            identity,
            spool,
            refusals,
            metrics,
            events,
            manifests,
            policy,
            break_glass,
            links,
            bundles,
            hub,
            readiness,
        })
    }

    /// Where Discovery, Link and Status are.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where the admin listener is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Follows the newest world; for tests and embedding.
    pub fn world(&self) -> watch::Receiver<Arc<crate::model::World>> {
        self.hub.subscribe()
    }

    /// Serves until `cancel`, then hands the last events to the audit service if it is there.
    pub async fn run(self, cancel: CancellationToken) {
        let routes = self.routes(&cancel);
        let tls = server_config(&self.identity, Select::Component, &[alpn::GRPC]);
        let options = ServeOptions { on_refusal: Some(self.on_refusal()), identity: Some(self.identity.clone()) };
        let audit_rule = SpiffeId::component(&self.config.trust_domain, "audit");
        let audit_rule = PeerRule::AnyOf(audit_rule.into_iter().collect());
        let audit_tls = client_config(&self.identity, Select::Component, audit_rule, &[alpn::GRPC]);
        let audit = grpc::channel(&self.config.audit, Arc::clone(&audit_tls));

        let mut tasks = JoinSet::new();
        let federation = FederationWatch {
            own: self.config.trust_domain.clone(),
            address: self.config.identity.clone(),
            identity: self.identity.clone(),
            table: self.links.clone(),
        };
        let links = LinkClient {
            identity: self.identity.clone(),
            table: self.links.clone(),
            file: self.config.state_dir.join("links.json"),
            events: self.events,
            metrics: self.metrics,
        };
        tasks.spawn(self.manifests.run(cancel.clone()));
        tasks.spawn(self.policy.run(cancel.clone()));
        tasks.spawn(self.break_glass.run(cancel.clone()));
        tasks.spawn(self.hub.run(cancel.clone()));
        tasks.spawn(federation.run(cancel.clone()));
        tasks.spawn(links.run(cancel.clone()));
        tasks.spawn(self.bundles.run(audit, cancel.clone()));
        tasks.spawn(self.readiness.run(cancel.clone()));
        tasks.spawn(self.admin.run(cancel.clone()));
        let (refusals, stop) = (Arc::clone(&self.refusals), cancel.clone());
        tasks.spawn(async move { refusals.run(stop).await });
        let shipping = CancellationToken::new();
        let ship = signet_spool::ship(self.spool.clone(), self.config.audit.clone(), audit_tls, shipping.clone());
        let mut shipper = JoinSet::new();
        shipper.spawn(ship);

        tracing::info!(listen = %self.local, trust_domain = %self.config.trust_domain, "control plane runs");
        if let Err(error) = grpc::serve_with(self.listener, tls, routes, options, cancel.clone()).await {
            tracing::error!(%error, "the listener broke; the control plane stops");
        }
        cancel.cancel();
        while tasks.join_next().await.is_some() {}
        if let Err(error) = self.spool.close() {
            tracing::error!(error = signet_observe::error_chain(&error), "the spool was not closed well");
        }
        self.spool.drain(DRAIN).await;
        shipping.cancel();
        while shipper.join_next().await.is_some() {}
    }

    fn routes(&self, cancel: &CancellationToken) -> Routes {
        let gate = Gate {
            own: self.config.trust_domain.clone(),
            links: self.links.subscribe(),
            refusals: Arc::clone(&self.refusals),
            metrics: self.metrics.clone(),
        };
        let proxies = Proxies::new(self.metrics.clone());
        let discovery = DiscoveryService {
            gate: gate.clone(),
            world: self.hub.subscribe(),
            proxies: proxies.clone(),
            metrics: self.metrics.clone(),
            lost: self.policy.lost(),
            cancel: cancel.clone(),
        };
        let link = LinkService {
            gate: gate.clone(),
            world: self.hub.subscribe(),
            links: self.links.subscribe(),
            lease_seconds: self.config.link.lease_seconds.max(1),
            cancel: cancel.clone(),
        };
        let hub = LiveHub::new();
        let live =
            LiveService { gate: gate.clone(), world: self.hub.subscribe(), hub: hub.clone(), cancel: cancel.clone() };
        let emergency = EmergencyService { gate: gate.clone(), grants: self.break_glass.clone() };
        let status = StatusService {
            gate,
            world: self.hub.subscribe(),
            manifests: self.manifests.subscribe(),
            policy: self.policy.subscribe(),
            links: self.links.subscribe(),
            proxies,
            live: hub,
            events: self.events.clone(),
            cancel: cancel.clone(),
        };
        let live = LiveServer::new(live).max_decoding_message_size(MAX_SIGHTINGS_BYTES);
        let discovery = DiscoveryServer::new(discovery).max_decoding_message_size(MAX_REQUEST_BYTES);
        let link = LinkServer::new(link).max_decoding_message_size(MAX_REQUEST_BYTES);
        let status = StatusServer::new(status).max_decoding_message_size(MAX_REQUEST_BYTES);
        let emergency = EmergencyServer::new(emergency).max_decoding_message_size(MAX_GRANT_BYTES);
        Routes::new(discovery).add_service(link).add_service(live).add_service(status).add_service(emergency)
    }

    fn on_refusal(&self) -> grpc::OnRefusal {
        let (refusals, metrics) = (Arc::clone(&self.refusals), self.metrics.clone());
        Arc::new(move |address, error| {
            let cause = error.refusal.as_str();
            let reason = ByReason { reason: cause.to_owned() };
            metrics.handshakes_refused.get_or_create(&reason).inc();
            refusals.count(Refused {
                source: Some(address.ip()),
                cause,
                action: "tls:handshake",
                destination_service: "",
                source_spiffe_id: error.claimed.as_ref().map(SpiffeId::as_str),
                tls: "none",
            });
        })
    }
}
