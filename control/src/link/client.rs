//! Listens to the control plane of each linked cluster, and keeps the link table on disk.
//!
//! A peer that is away is a line in the log and a status, never a reason to wait: nothing local depends on this task.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use signet_api::control::ExportsRequest;
use signet_api::control::link_client::LinkClient as Api;
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, TrustDomain, alpn, client_config, grpc};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::events::Events;
use crate::links::{Address, LinkTable};
use crate::metrics::{ByTrustDomain, Metrics};
use crate::persist::{self, unix_now};

/// A link on which nothing comes for this long is opened anew; peers speak every five seconds.
const SILENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(500);
/// The table is written at least this often while messages come, so that a restart knows how old they are.
const KEEP_EVERY_SECONDS: i64 = 60;

/// Keeps one stream per linked cluster.
pub(crate) struct LinkClient {
    /// Presented to peers.
    pub(crate) identity: IdentitySource,
    /// What is learned goes here.
    pub(crate) table: watch::Sender<LinkTable>,
    /// Where the table is kept.
    pub(crate) file: PathBuf,
    /// Records what happened.
    pub(crate) events: Events,
    /// Counts it.
    pub(crate) metrics: Metrics,
}

struct Running {
    address: Address,
    cancel: CancellationToken,
}

impl LinkClient {
    /// What was kept by an earlier run; leases go on running meanwhile.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn load(file: &std::path::Path) -> Result<LinkTable, persist::PersistError> {
        Ok(persist::load(file)?.unwrap_or_default())
    }

    /// Follows the table's relationships until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut table = self.table.subscribe();
        let mut running: BTreeMap<TrustDomain, Running> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut timer = tokio::time::interval(TICK);
        let mut kept = (LinkTable::default(), 0);
        loop {
            self.reconcile(&mut running, &mut tasks, &cancel);
            self.expire();
            self.show();
            self.keep(&mut kept).await;
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = timer.tick() => {}
                _ = table.changed() => {}
                Some(_) = tasks.join_next() => {}
            }
        }
        // Every listener watches a child of `cancel`.
        while tasks.join_next().await.is_some() {}
        self.keep(&mut kept).await;
    }

    fn reconcile(
        &self,
        running: &mut BTreeMap<TrustDomain, Running>,
        tasks: &mut JoinSet<()>,
        cancel: &CancellationToken,
    ) {
        let wanted = self.table.borrow().addresses();
        running.retain(|peer, task| {
            let stays = wanted.get(peer) == Some(&task.address);
            if !stays {
                task.cancel.cancel();
                let trust_domain = peer.to_string();
                let label = ByTrustDomain { trust_domain };
                self.metrics.link_connected.remove(&label);
                self.metrics.link_services.remove(&label);
                self.metrics.link_last_message.remove(&label);
            }
            stays
        });
        for (peer, address) in wanted {
            running.entry(peer.clone()).or_insert_with(|| {
                let cancel = cancel.child_token();
                let listener = Listener {
                    peer,
                    address: address.control.clone(),
                    identity: self.identity.clone(),
                    table: self.table.clone(),
                    events: self.events.clone(),
                };
                tasks.spawn(listener.run(cancel.clone()));
                Running { address, cancel }
            });
        }
    }

    fn expire(&self) {
        let mut expired = Vec::new();
        self.table.send_if_modified(|table| {
            expired = table.expire(unix_now());
            !expired.is_empty()
        });
        for peer in expired {
            tracing::error!(%peer, "the lease of a linked cluster's exports ended; its services are gone from the mesh");
            self.events.link("lease_expired", &peer, &json!({}));
        }
    }

    fn show(&self) {
        for link in self.table.borrow().status() {
            let label = ByTrustDomain { trust_domain: link.trust_domain };
            let connected = i64::from(link.connected);
            self.metrics.link_connected.get_or_create(&label).set(connected);
            self.metrics.link_services.get_or_create(&label).set(i64::from(link.services));
            self.metrics.link_last_message.get_or_create(&label).set(link.last_message);
        }
    }

    async fn keep(&self, kept: &mut (LinkTable, i64)) {
        let table = self.table.borrow().clone();
        let substance = table.substance();
        if substance == kept.0 && unix_now() < kept.1 + KEEP_EVERY_SECONDS {
            return;
        }
        *kept = (substance, unix_now());
        let file = self.file.clone();
        let saved = tokio::task::spawn_blocking(move || persist::save(&file, &table)).await;
        if let Ok(Err(error)) = saved {
            let error = signet_observe::error_chain(&error);
            tracing::error!(error, "linked clusters could not be kept on disk");
        }
    }
}

struct Listener {
    peer: TrustDomain,
    address: String,
    identity: IdentitySource,
    table: watch::Sender<LinkTable>,
    events: Events,
}

impl Listener {
    async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        loop {
            let ended = tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.listen(&mut backoff) => ended,
            };
            let was_connected = self.is_connected();
            self.table.send_modify(|table| table.disconnected(&self.peer, ended.clone()));
            if was_connected {
                tracing::warn!(
                    peer = %self.peer, error = ended,
                    "a linked cluster fell silent; its services stay until their lease ends"
                );
                self.events.link("disconnected", &self.peer, &json!({ "error": ended }));
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
    }

    /// Listens until something is wrong, and says what.
    async fn listen(&self, backoff: &mut Backoff) -> String {
        let control = match SpiffeId::component(&self.peer, "control") {
            Ok(control) => control,
            Err(error) => return error.to_string(),
        };
        // Without its trust bundle no handshake can succeed, and each try would be a refusal in somebody's log.
        if !self.identity.current().bundles.contains_key(&self.peer) {
            return "its trust bundle has not come yet".to_owned();
        }
        let rule = PeerRule::AnyOf(vec![control]);
        let tls = client_config(&self.identity, Select::Component, rule, &[alpn::GRPC]);
        let mut api = Api::new(grpc::channel(&self.address, tls));
        let opened = tokio::time::timeout(SILENCE, api.exports(ExportsRequest {})).await;
        let mut states = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return describe(&status),
            Err(_) => return "no answer".to_owned(),
        };
        loop {
            let state = match tokio::time::timeout(SILENCE, states.message()).await {
                Ok(Ok(Some(state))) => state,
                Ok(Ok(None)) => return "the peer ended the stream".to_owned(),
                Ok(Err(status)) => return describe(&status),
                Err(_) => return format!("nothing came for {} s", SILENCE.as_secs()),
            };
            let connected_before = self.is_connected();
            let services = state.services.len();
            let mut outcome = Ok(Vec::new());
            self.table.send_modify(|table| {
                outcome = table.accept(&self.peer, state, unix_now());
            });
            match outcome {
                Ok(refused) => {
                    for reason in refused.iter().filter(|_| !connected_before) {
                        tracing::warn!("a linked cluster's export was refused: {reason}");
                    }
                    if !connected_before {
                        tracing::info!(peer = %self.peer, services, "linked cluster connected");
                        let detail = json!({ "services": services, "refused": refused.len() });
                        self.events.link("connected", &self.peer, &detail);
                    }
                    backoff.reset();
                }
                Err(reason) => return reason,
            }
        }
    }

    fn is_connected(&self) -> bool {
        let name = self.peer.to_string();
        let status = self.table.borrow().status();
        status.iter().any(|link| link.trust_domain == name && link.connected)
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
