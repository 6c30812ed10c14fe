//! Joins manifests, policy and links into the [`World`] and gives it a version.

use std::sync::Arc;
use std::time::Instant;

use signet_mtls::TrustDomain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::break_glass::Grants;
use crate::links::LinkTable;
use crate::manifests::ManifestState;
use crate::metrics::Metrics;
use crate::model::World;
use crate::policy::PolicyState;

/// Publishes a new [`World`] whenever one of its parts changed.
#[derive(Debug)]
pub(crate) struct Hub {
    manifests: watch::Receiver<ManifestState>,
    policy: watch::Receiver<PolicyState>,
    links: watch::Receiver<LinkTable>,
    break_glass: watch::Receiver<Grants>,
    world: watch::Sender<Arc<World>>,
    metrics: Metrics,
}

impl Hub {
    /// Joins what the four say now.
    pub(crate) fn new(
        trust_domain: TrustDomain,
        manifests: watch::Receiver<ManifestState>,
        policy: watch::Receiver<PolicyState>,
        links: watch::Receiver<LinkTable>,
        break_glass: watch::Receiver<Grants>,
        metrics: Metrics,
    ) -> Self {
        let empty = World {
            version: 0,
            made_at: Instant::now(),
            trust_domain,
            desired: None,
            policy: None,
            imports: Arc::default(),
            break_glass: Arc::default(),
        };
        let world = watch::Sender::new(Arc::new(empty));
        let hub = Self { manifests, policy, links, break_glass, world, metrics };
        hub.join();
        hub
    }

    /// Follows the world.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    /// Follows the parts until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let changed = tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.manifests.changed() => changed,
                changed = self.policy.changed() => changed,
                changed = self.links.changed() => changed,
                changed = self.break_glass.changed() => changed,
            };
            if changed.is_err() {
                // The source of a part ended: so does this process, or the part stays as it is.
                cancel.cancelled().await;
                return;
            }
            self.join();
        }
    }

    fn join(&self) {
        let desired = self.manifests.borrow().good.clone();
        let policy = self.policy.borrow().active.clone();
        let imports = self.links.borrow().imports();
        let break_glass = Arc::clone(&self.break_glass.borrow());
        self.world.send_if_modified(|world| {
            let same_policy = match (&world.policy, &policy) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            let same_grants = Arc::ptr_eq(&world.break_glass, &break_glass);
            if same_policy && same_grants && world.desired == desired && *world.imports == imports {
                return false;
            }
            *world = Arc::new(World {
                version: next_version(world.version),
                made_at: Instant::now(),
                trust_domain: world.trust_domain.clone(),
                desired,
                policy,
                imports: Arc::new(imports),
                break_glass,
            });
            let version = i64::try_from(world.version).unwrap_or(i64::MAX);
            self.metrics.snapshot_version.set(version);
            true
        });
    }
}

/// Unix milliseconds keep versions growing across restarts without a file; the sum keeps them growing within one.
fn next_version(last: u64) -> u64 {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    now.max(last + 1)
}
