//! The proxy's side of the Discovery stream.
//!
//! One long-lived task: connect, report what is enforced, take or refuse each snapshot, say so. It never ends on an
//! error; it backs off and connects again, and meanwhile the last good snapshot is what the proxy runs on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use signet_api::control as wire;
use signet_api::control::discovery_client::DiscoveryClient;
use signet_mtls::TrustDomain;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::store::Store;
use super::{Snapshot, SnapshotError, StoreError};
use crate::decide::LostCalls;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Between two reports of lost calls.
const LOST_EVERY: Duration = Duration::from_secs(1);

/// What kind of proxy asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    Sidecar,
    Gateway,
}

impl ProxyKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "gateway",
        }
    }
}

/// What [`Discovery`] needs to know.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    pub kind: ProxyKind,
    pub trust_domain: TrustDomain,
    /// Where the last good snapshot is kept.
    pub state_dir: PathBuf,
}

/// Takes snapshots from the control plane and publishes them.
pub struct Discovery {
    config: DiscoveryConfig,
    store: Store,
    publish: watch::Sender<Arc<Snapshot>>,
    /// The policy files of the published bundle: kept to write whole snapshots to disk.
    policy: Option<wire::PolicyBundle>,
    connected: watch::Sender<bool>,
    lost: Arc<LostCalls>,
}

impl Discovery {
    /// Opens the state directory and publishes the last good snapshot, or an empty one.
    ///
    /// # Errors
    /// When the state directory cannot be made. A last snapshot that does not read or compile is logged, not an error.
    pub fn open(config: DiscoveryConfig) -> Result<(Self, watch::Receiver<Arc<Snapshot>>), StoreError> {
        let store = Store::open(&config.state_dir)?;
        let kept = match store.load() {
            Ok(kept) => kept,
            Err(error) => {
                warn!(error = %signet_observe::error_chain(&error), "the last good snapshot was not read");
                None
            }
        };
        let mut policy = None;
        let mut first = Snapshot::empty(config.trust_domain.clone());
        if let Some(wire) = kept {
            match Snapshot::from_wire(&wire, None) {
                Ok(snapshot) if snapshot.trust_domain == config.trust_domain => {
                    info!(version = snapshot.version, "starting from the last good snapshot");
                    policy = wire.policy;
                    first = snapshot;
                }
                Ok(snapshot) => warn!(
                    trust_domain = %snapshot.trust_domain,
                    "the last good snapshot is of another trust domain and was not used"
                ),
                Err(error) => warn!(%error, "the last good snapshot is not valid any more and was not used"),
            }
        }
        let (publish, receiver) = watch::channel(Arc::new(first));
        let connected = watch::channel(false).0;
        Ok((Self { config, store, publish, policy, connected, lost: Arc::default() }, receiver))
    }

    /// Reports these calls to the control plane.
    #[must_use]
    pub fn with_lost(mut self, lost: Arc<LostCalls>) -> Self {
        self.lost = lost;
        self
    }

    /// Whether a stream with the control plane is up.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Runs until cancelled. `channel` reconnects by itself.
    pub async fn run(mut self, channel: Channel, cancel: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let ended = tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.stream(channel.clone(), &mut backoff) => ended,
            };
            self.connected.send_replace(false);
            warn!(error = %ended, retry_in_ms = backoff.as_millis(), "the control plane's stream ended; the last good snapshot stays");
            let jitter = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(jitter) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn stream(&mut self, channel: Channel, backoff: &mut Duration) -> tonic::Status {
        let (reports, outgoing) = mpsc::channel(4);
        if reports.send(self.report(0, String::new())).await.is_err() {
            return tonic::Status::internal("the report queue is closed");
        }
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(64 << 20);
        let mut snapshots = match client.stream(ReceiverStream::new(outgoing)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        self.connected.send_replace(true);
        let mut lost_timer = tokio::time::interval(LOST_EVERY);
        lost_timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = snapshots.message() => message,
                _ = lost_timer.tick() => {
                    // A queue that is full has reports that wait; what was lost is counted on.
                    if let Ok(place) = reports.try_reserve()
                        && let Some(report) = self.lost_report()
                    {
                        place.send(report);
                    }
                    continue;
                }
            };
            match message {
                Ok(Some(snapshot)) => {
                    *backoff = BACKOFF_MIN;
                    let version = snapshot.version;
                    let error = match self.take(snapshot).await {
                        Ok(()) => String::new(),
                        Err(error) => {
                            let text = signet_observe::error_chain(&error);
                            warn!(version, error = %text, "snapshot refused; the last good one stays");
                            text
                        }
                    };
                    if reports.send(self.report(version, error)).await.is_err() {
                        return tonic::Status::unavailable("the control plane closed its side");
                    }
                }
                Ok(None) => return tonic::Status::unavailable("the control plane ended the stream"),
                Err(status) => return status,
            }
        }
    }

    /// Compiles, publishes and keeps a snapshot; on any error nothing changes.
    pub(super) async fn take(&mut self, mut wire: wire::Snapshot) -> Result<(), SnapshotError> {
        let held = self.publish.borrow().bundle.clone();
        // Compiling a big bundle takes tens of milliseconds: not on the runtime's threads.
        let read = tokio::task::spawn_blocking(move || {
            let read = Snapshot::from_wire(&wire, held.as_ref());
            (wire, read)
        });
        let snapshot = match read.await {
            Ok((back, read)) => {
                wire = back;
                read?
            }
            Err(_) => {
                return Err(SnapshotError::Field {
                    field: "policy".to_owned(),
                    value: "the bundle".to_owned(),
                    expected: "one that this version can compile",
                });
            }
        };
        if snapshot.trust_domain != self.config.trust_domain {
            return Err(SnapshotError::Field {
                field: "trust_domain".to_owned(),
                value: snapshot.trust_domain.to_string(),
                expected: "this proxy's trust domain",
            });
        }
        match &wire.policy {
            Some(policy) if !policy.files.is_empty() => self.policy = Some(policy.clone()),
            _ => wire.policy.clone_from(&self.policy),
        }
        let version = snapshot.version;
        let commit = snapshot.bundle.as_ref().map(|b| b.commit().to_owned()).unwrap_or_default();
        self.publish.send_replace(Arc::new(snapshot));
        if let Err(error) = self.store.save(&wire) {
            warn!(error = %signet_observe::error_chain(&error), "the snapshot is in force but was not kept on disk");
        }
        info!(version, commit, "snapshot taken");
        Ok(())
    }

    fn lost_report(&self) -> Option<wire::Report> {
        let report = self.report(0, String::new());
        let lost = self.lost.take(&report.bundle_digest);
        let lost: Vec<_> = lost
            .into_iter()
            .map(|(flow, calls)| wire::LostCalls {
                principal: flow.principal,
                action: flow.action.to_owned(),
                service: flow.service,
                calls,
            })
            .collect();
        (!lost.is_empty()).then_some(wire::Report { lost, ..report })
    }

    fn report(&self, version: u64, error: String) -> wire::Report {
        let now = self.publish.borrow();
        let (digest, commit) =
            now.bundle.as_ref().map(|b| (b.digest().to_owned(), b.commit().to_owned())).unwrap_or_default();
        let slice_digest = now.bundle.as_ref().and_then(|b| b.slice_digest()).unwrap_or_default().to_owned();
        wire::Report {
            version,
            error,
            bundle_digest: digest,
            policy_commit: commit,
            kind: self.config.kind.as_str().to_owned(),
            slice_digest,
            lost: Vec::new(),
        }
    }
}
