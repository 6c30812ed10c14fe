//! What the control planes and identity servers say, asked over and over with the dashboard's own SVID.
//!
//! One task per cluster asks every two seconds and publishes an immutable [`ClusterState`]. A part that does not answer
//! is marked unreachable since then; what it said last is kept and shown as such. Nothing here fails a request.

mod federation;
mod view;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use signet_api::audit::access_client::AccessClient;
use signet_api::control::{MeshRequest, MeshState, status_client::StatusClient};
use signet_api::identity::{
    FederationState, ListFederationRequest, ListSvidsRequest, ListSvidsResponse, operator_client::OperatorClient,
};
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use crate::access::Access;
use crate::config::ClusterConfig;
use crate::model::{Reach, ReachStatus};

const INTERVAL: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(3);

/// A cluster as it was last seen.
#[derive(Debug, Clone)]
pub struct ClusterState {
    pub name: String,
    pub trust_domain: String,
    pub control: Reach,
    pub identity: Reach,
    pub mesh: Option<MeshState>,
    pub svids: Option<ListSvidsResponse>,
    pub federation: Option<FederationState>,
}

impl ClusterState {
    fn unknown(config: &ClusterConfig, now: Timestamp) -> Self {
        let unknown = Reach { status: ReachStatus::Unknown, since: now.to_string(), error: None };
        Self {
            name: config.name.clone(),
            trust_domain: config.trust_domain.clone(),
            control: unknown.clone(),
            identity: unknown,
            mesh: None,
            svids: None,
            federation: None,
        }
    }
}

/// All clusters' newest states.
#[derive(Clone)]
pub struct Clusters {
    states: Vec<watch::Receiver<Arc<ClusterState>>>,
    access: Access,
}

impl Clusters {
    /// Starts one watching task per cluster on `tasks`; they end with `cancel`.
    pub fn watch(configs: &[ClusterConfig], tasks: &TaskTracker, cancel: &CancellationToken) -> Self {
        let mut states = Vec::new();
        let mut audits = Vec::new();
        for config in configs {
            let (publish, state) = watch::channel(Arc::new(ClusterState::unknown(config, Timestamp::now())));
            let (connect, audit) = watch::channel(None);
            states.push(state);
            audits.push((signet_audit::config::origin(&config.trust_domain), audit));
            let config = config.clone();
            let cancel = cancel.clone();
            tasks.spawn(async move {
                let run = watch_cluster(config, publish, connect, cancel.clone());
                cancel.run_until_cancelled(run).await;
            });
        }
        Self { states, access: Access::new(audits) }
    }

    /// Where reading is recorded.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub fn snapshot(&self) -> Vec<Arc<ClusterState>> {
        self.states.iter().map(|state| state.borrow().clone()).collect()
    }
}

async fn watch_cluster(
    config: ClusterConfig,
    publish: watch::Sender<Arc<ClusterState>>,
    audit: watch::Sender<Option<AccessClient<Channel>>>,
    cancel: CancellationToken,
) {
    let peers = connect(&config, &publish, &cancel).await;
    audit.send_replace(Some(peers.audit.clone()));
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (mesh, svids, federation) = tokio::join!(peers.mesh(), peers.svids(), peers.federation());
        publish.send_modify(|state| {
            let mut next = ClusterState::clone(state);
            let now = Timestamp::now();
            note(&mut next.control, &config.name, "control plane", mesh.as_ref().err(), now);
            let identity = svids.as_ref().err().or(federation.as_ref().err());
            note(&mut next.identity, &config.name, "identity server", identity, now);
            next.mesh = mesh.ok().or(next.mesh);
            next.svids = svids.ok().or(next.svids);
            next.federation = federation.ok().or(next.federation);
            *state = Arc::new(next);
        });
    }
}

/// Waits for an SVID of the cluster's trust domain; meanwhile the cluster shows as unreachable.
async fn connect(
    config: &ClusterConfig,
    publish: &watch::Sender<Arc<ClusterState>>,
    cancel: &CancellationToken,
) -> Peers {
    loop {
        let connecting = Peers::connect(config, cancel);
        tokio::pin!(connecting);
        let cause = loop {
            match tokio::time::timeout(DEADLINE, connecting.as_mut()).await {
                Ok(Ok(peers)) => return peers,
                Ok(Err(cause)) => break cause,
                Err(_) => unreachable_both(publish, &format!("no SVID from {} yet", config.workload_api)),
            }
        };
        unreachable_both(publish, &cause);
        tokio::time::sleep(INTERVAL).await;
    }
}

fn unreachable_both(publish: &watch::Sender<Arc<ClusterState>>, cause: &str) {
    publish.send_modify(|state| {
        let mut next = ClusterState::clone(state);
        let cause = cause.to_owned();
        let now = Timestamp::now();
        let name = next.name.clone();
        note(&mut next.control, &name, "control plane", Some(&cause), now);
        note(&mut next.identity, &name, "identity server", Some(&cause), now);
        *state = Arc::new(next);
    });
}

/// Updates `reach` after a try; `since` moves only when the status changes, and only then a line is logged.
fn note(reach: &mut Reach, cluster: &str, part: &str, error: Option<&String>, now: Timestamp) {
    let status = if error.is_some() { ReachStatus::Unreachable } else { ReachStatus::Reachable };
    if reach.status != status {
        match error {
            Some(cause) => tracing::warn!(cluster, part, cause, "unreachable"),
            None => tracing::info!(cluster, part, "reachable"),
        }
        reach.status = status;
        reach.since = now.to_string();
    }
    reach.error = error.cloned();
}

/// The servers of a cluster that the dashboard asks.
struct Peers {
    audit: AccessClient<Channel>,
    control: StatusClient<Channel>,
    identity: OperatorClient<Channel>,
}

impl Peers {
    async fn connect(config: &ClusterConfig, cancel: &CancellationToken) -> Result<Self, String> {
        let domain: TrustDomain = config
            .trust_domain
            .parse()
            .map_err(|error| format!("`trust_domain: {}` of cluster {}: {error}", config.trust_domain, config.name))?;
        let source = IdentitySource::connect(&config.workload_api, cancel.clone())
            .await
            .map_err(|error| signet_observe::error_chain(&error))?;
        let channel = |address: &str, component: &str| {
            let id = SpiffeId::component(&domain, component).map_err(|error| error.to_string())?;
            let rule = PeerRule::AnyOf(vec![id]);
            let tls = signet_mtls::client_config(&source, Select::Component, rule, &[signet_mtls::alpn::GRPC]);
            Ok::<_, String>(signet_mtls::grpc::channel(address, tls))
        };
        Ok(Self {
            audit: AccessClient::new(channel(&config.audit, "audit")?),
            control: StatusClient::new(channel(&config.control, "control")?),
            identity: OperatorClient::new(channel(&config.identity, "identity")?),
        })
    }

    async fn mesh(&self) -> Result<MeshState, String> {
        let mut client = self.control.clone();
        within("Status.Mesh", client.mesh(MeshRequest {})).await
    }

    async fn svids(&self) -> Result<ListSvidsResponse, String> {
        let mut client = self.identity.clone();
        within("Operator.ListSvids", client.list_svids(ListSvidsRequest {})).await
    }

    async fn federation(&self) -> Result<FederationState, String> {
        let mut client = self.identity.clone();
        within("Operator.ListFederation", client.list_federation(ListFederationRequest {})).await
    }
}

async fn within<T>(
    what: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(format!("{what}: {}: {}", status.code(), status.message())),
        Err(_) => Err(format!("{what}: no answer within {} s", DEADLINE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn keeps_the_moment_since_when_a_part_is_unreachable() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut reach = Reach { status: ReachStatus::Unknown, since: at(0).to_string(), error: None };
        let refused = "connection refused".to_owned();
        note(&mut reach, "east", "control plane", Some(&refused), at(5));
        note(&mut reach, "east", "control plane", Some(&refused), at(7));
        assert_eq!((reach.status, reach.since.as_str()), (ReachStatus::Unreachable, "1970-01-01T00:00:05Z"));
        note(&mut reach, "east", "control plane", None, at(9));
        assert_eq!(
            (reach.status, reach.since.as_str(), reach.error),
            (ReachStatus::Reachable, "1970-01-01T00:00:09Z", None)
        );
    }
}
