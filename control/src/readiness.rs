//! `/readyz`: the control plane is ready when it has its own identity, manifests and a policy to serve.

use std::sync::Arc;
use std::time::Duration;

use signet_mtls::{Identity, IdentitySource, Select, SpiffeId};
use signet_observe::{Condition, Readiness};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::manifests::ManifestState;
use crate::metrics::Metrics;
use crate::persist::unix_now;
use crate::policy::PolicyState;

/// An SVID can also end without anything changing.
const TICK: Duration = Duration::from_secs(5);

/// Keeps the conditions true to what they name.
pub(crate) struct ReadinessWatch {
    own: SpiffeId,
    identity: watch::Receiver<Arc<Identity>>,
    manifests: watch::Receiver<ManifestState>,
    policy: watch::Receiver<PolicyState>,
    conditions: [Condition; 3],
    metrics: Metrics,
}

impl ReadinessWatch {
    pub(crate) fn new(
        readiness: &Readiness,
        own: SpiffeId,
        identity: &IdentitySource,
        manifests: watch::Receiver<ManifestState>,
        policy: watch::Receiver<PolicyState>,
        metrics: Metrics,
    ) -> Self {
        let conditions = ["identity", "manifests", "policy"].map(|name| readiness.condition(name));
        let watch = Self { own, identity: identity.watch(), manifests, policy, conditions, metrics };
        watch.show();
        watch
    }

    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut timer = tokio::time::interval(TICK);
        loop {
            let source_ended = tokio::select! {
                () = cancel.cancelled() => return,
                _ = timer.tick() => false,
                changed = self.identity.changed() => changed.is_err(),
                changed = self.manifests.changed() => changed.is_err(),
                changed = self.policy.changed() => changed.is_err(),
            };
            self.show();
            if source_ended {
                // It ends with the process; do not spin until then.
                cancel.cancelled().await;
            }
        }
    }

    fn show(&self) {
        let [identity, manifests, policy] = &self.conditions;
        identity.set(self.identity_state());
        let state = self.manifests.borrow();
        self.metrics.manifest_errors.set(i64::try_from(state.errors.len()).unwrap_or(i64::MAX));
        manifests.set(match (&state.good, state.errors.first()) {
            (Some(_), _) => Ok(()),
            (None, Some(error)) => Err(error.to_string()),
            (None, None) => Err("not read yet".to_owned()),
        });
        drop(state);
        let state = self.policy.borrow();
        policy.set(match (&state.active, &state.refused, &state.unreadable) {
            (Some(_), _, _) => Ok(()),
            (None, Some(refused), _) => Err(format!("commit {} was refused: {}", refused.commit, refused.message)),
            (None, None, Some(error)) => Err(error.clone()),
            (None, None, None) => Err("no commit was accepted yet".to_owned()),
        });
    }

    fn identity_state(&self) -> Result<(), String> {
        let identity = self.identity.borrow();
        match Select::Component.svid(&identity) {
            None => Err("the Workload API gives no SVID for a component".to_owned()),
            Some(svid) if svid.id != self.own => Err(format!(
                "the SVID is `{}`, not `{}`; check the registration entry and `workload_api`",
                svid.id, self.own
            )),
            Some(svid) if svid.not_after <= unix_now() => Err("the SVID has expired".to_owned()),
            Some(_) => Ok(()),
        }
    }
}
