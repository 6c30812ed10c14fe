//! Calls that the bundle in force denies and the one before would have allowed.
//!
//! While a bundle says `automatic_return`, the sidecar keeps the one that it replaced and asks it again about each call
//! that it denies; allowed calls cost nothing. What was lost goes to the control plane, which may go back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signet_mtls::SpiffeId;
use signet_policy::{Bundle, Effect};

use super::Call;
use super::in_force::Question;

/// For how long the bundle before is kept. Longer than any control plane goes on judging a bundle by it.
const KEPT: Duration = Duration::from_secs(3600);
/// Flows that are told apart between two reports; more are not counted.
const MAX_FLOWS: usize = 256;

/// The bundle that was replaced.
#[derive(Clone)]
pub(super) struct Before {
    bundle: Arc<Bundle>,
    since: Instant,
}

impl Before {
    /// What to keep when `new` replaces `old`, before which `kept` was in force.
    pub(super) fn of(new: &Bundle, old: &Arc<Bundle>, kept: Option<&Self>) -> Option<Self> {
        if !new.settings().automatic_return {
            return None;
        }
        if new.digest() == old.digest() {
            // Another commit or slice of the same bundle.
            return kept.cloned();
        }
        let back = kept.is_some_and(|kept| kept.bundle.digest() == new.digest());
        (!back).then(|| Self { bundle: Arc::clone(old), since: Instant::now() })
    }

    pub(super) fn allowed(&self, question: &Question<'_>) -> bool {
        self.since.elapsed() < KEPT && question.ask(Some(&self.bundle)).effect == Effect::Allow
    }
}

/// Lost calls of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// Empty: unauthenticated.
    pub(crate) principal: String,
    pub(crate) action: &'static str,
    pub(crate) service: String,
}

/// Counts lost calls until they are reported. Touched only by calls that are lost.
#[derive(Default)]
pub struct LostCalls(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// Of the bundle that denied them.
    digest: String,
    flows: BTreeMap<Flow, u64>,
}

impl LostCalls {
    pub(super) fn add(&self, call: &Call<'_>, digest: &str) {
        let flow = Flow {
            principal: call.peer.id.as_ref().map(SpiffeId::to_string).unwrap_or_default(),
            action: call.action.cedar_id(),
            service: call.service.to_owned(),
        };
        let mut counts = self.lock();
        if counts.digest != digest {
            *counts = Counts { digest: digest.to_owned(), flows: BTreeMap::new() };
        }
        if counts.flows.len() < MAX_FLOWS || counts.flows.contains_key(&flow) {
            *counts.flows.entry(flow).or_default() += 1;
        }
    }

    /// What was lost to the bundle `digest` since the last call of this.
    pub(crate) fn take(&self, digest: &str) -> BTreeMap<Flow, u64> {
        let mut counts = self.lock();
        if counts.digest == digest { std::mem::take(&mut counts.flows) } else { BTreeMap::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // A panic elsewhere leaves at worst a count that is one short.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use signet_policy::BundleSource;

    use super::*;

    fn bundle(settings: &str, commit: &str, policies: &str) -> Arc<Bundle> {
        let files = [("signet.yaml", settings), ("policies/a.cedar", policies)];
        let files = files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        let source = BundleSource { commit: commit.to_owned(), files, ..BundleSource::default() };
        Arc::new(Bundle::compile(&source).unwrap())
    }

    #[test]
    fn the_bundle_before_is_kept_only_while_it_may_come_back() {
        const ON: &str = "version: 1\nautomatic_return: true\n";
        const A: &str = "@id(\"a\") permit(principal, action, resource);";
        const B: &str = "@id(\"b\") forbid(principal, action, resource);";
        let (a, b) = (bundle(ON, "1", A), bundle(ON, "2", B));
        let kept = Before::of(&b, &a, None).unwrap();
        assert_eq!(kept.bundle.commit(), "1");
        // Another commit with the same files keeps what was kept.
        let again = bundle(ON, "3", B);
        assert_eq!(Before::of(&again, &b, Some(&kept)).unwrap().bundle.commit(), "1");
        assert!(Before::of(&again, &b, None).is_none());
        // Going back is not a change to go back from.
        assert!(Before::of(&a, &b, Some(&kept)).is_none());
        // Nothing is kept where the bundle does not ask for it.
        assert!(Before::of(&bundle("version: 1\n", "4", B), &a, Some(&kept)).is_none());
    }
}
