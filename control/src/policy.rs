//! Follows a branch, or the signed tags, of the policy repository: a head that is accepted becomes the policy in force at once, a head that
//! is refused is recorded and changes nothing.
//!
//! INVARIANT: history goes forward only. The last accepted commit is on disk before its bundle is in force, so a restart
//! asks for descent from the same commit as before. INVARIANT: a bundle is in force only after it was kept for the audit
//! service, which must be able to show it for as long as records name its digest.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;
use signet_observe::error_chain;
use signet_policy::BundleSource;
use signet_policy_repository::{Refusal, Repository, RepositoryError, ReviewRules, TrustedSigners};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bundles::BundleStore;
use crate::config::PolicyConfig;
use crate::events::Events;
use crate::metrics::{ByReason, Metrics};
use crate::model::ActivePolicy;
use crate::persist::{self, PersistError, unix_now};

mod trial;

pub(crate) use trial::{Flow, Lost};

use trial::Trial;

/// The head of a local repository is one small file: asking this often costs next to nothing.
const POLL: Duration = Duration::from_millis(200);
/// Reports of lost calls that wait to be counted; more are dropped, and their proxies will have others.
const LOST_QUEUE: usize = 1024;

/// What is in force and what was refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct PolicyState {
    /// The bundle in force.
    pub(crate) active: Option<Arc<ActivePolicy>>,
    /// The branch's head, when it was refused.
    pub(crate) refused: Option<RefusedHead>,
    /// Why the repository or the trusted signers cannot be read now.
    pub(crate) unreadable: Option<String>,
}

/// A commit that did not become the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedHead {
    /// Which.
    pub(crate) commit: String,
    /// Stable snake_case reason.
    pub(crate) code: String,
    /// What is wrong, where, and what to do.
    pub(crate) message: String,
}

/// Why following cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The state file.
    #[error("the last accepted policy is not known")]
    State(#[from] PersistError),
    /// Someone changed the state file.
    #[error(
        "the policy state file `{path}` holds files that do not match its digest; restore it, or delete it to accept the \
         branch's head anew"
    )]
    Altered {
        /// Which file.
        path: String,
    },
}

/// The state file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    active: Option<KeptActive>,
    refused: Option<RefusedHead>,
    #[serde(default)]
    before: Option<KeptBefore>,
    /// The head that control went back from. It is not accepted again; a commit on top of it may be.
    #[serde(default)]
    returned_from: Option<String>,
}

/// What comes back when the active bundle fails its trial.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptBefore {
    policy: KeptActive,
    trial: Trial,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptActive {
    digest: String,
    activated_at: i64,
    source: BundleSource,
}

/// What a head was judged by; it is judged again only when one of these changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Judged {
    head: String,
    /// The commit, or the tag of it.
    position: String,
    signers: Option<(SystemTime, u64)>,
    reviews: Option<(SystemTime, u64)>,
}

/// Tells whether a file may have changed.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

/// Follows the branch.
pub(crate) struct PolicySource {
    config: PolicyConfig,
    state: watch::Sender<PolicyState>,
    bundles: BundleStore,
    events: Events,
    metrics: Metrics,
    repository: Option<Repository>,
    judged: Option<Judged>,
    before: Option<(Arc<ActivePolicy>, Trial)>,
    returned_from: Option<String>,
    lost: (mpsc::Sender<Lost>, mpsc::Receiver<Lost>),
}

impl KeptActive {
    fn of(active: &ActivePolicy) -> Self {
        Self { digest: active.digest.clone(), activated_at: active.activated_at, source: active.source.clone() }
    }

    fn open(self, state: &Path) -> Result<ActivePolicy, PolicyError> {
        if self.source.digest() != self.digest {
            return Err(PolicyError::Altered { path: state.display().to_string() });
        }
        Ok(ActivePolicy::new(self.source, self.activated_at))
    }
}

impl PolicySource {
    /// Begins with the bundle that was in force when an earlier run ended. Blocks on the disk.
    ///
    /// # Errors
    /// When the state file cannot be trusted.
    pub(crate) fn open(
        config: PolicyConfig,
        bundles: BundleStore,
        events: Events,
        metrics: Metrics,
    ) -> Result<Self, PolicyError> {
        let kept: Kept = persist::load(&config.state)?.unwrap_or_default();
        let mut state = PolicyState { refused: kept.refused, ..PolicyState::default() };
        if let Some(active) = kept.active {
            let active = active.open(&config.state)?;
            tracing::info!(commit = active.source.commit, digest = active.digest, "policy of the last run is in force");
            metrics.policy_activated_at.set(active.activated_at);
            state.active = Some(Arc::new(active));
        }
        let before = match kept.before {
            Some(KeptBefore { policy, trial }) => Some((Arc::new(policy.open(&config.state)?), trial)),
            None => None,
        };
        metrics.policy_is_refused.set(i64::from(state.refused.is_some()));
        let state = watch::Sender::new(state);
        Ok(Self {
            config,
            state,
            bundles,
            events,
            metrics,
            repository: None,
            judged: None,
            before,
            returned_from: kept.returned_from,
            lost: mpsc::channel(LOST_QUEUE),
        })
    }

    /// Takes what proxies report as lost.
    pub(crate) fn lost(&self) -> mpsc::Sender<Lost> {
        self.lost.0.clone()
    }

    /// Follows what is in force.
    pub(crate) fn subscribe(&self) -> watch::Receiver<PolicyState> {
        self.state.subscribe()
    }

    /// Follows the branch until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut source = self;
        let mut timer = tokio::time::interval(POLL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = timer.tick() => {}
            }
            // Git, signatures and a bundle's tests are work for a thread that may block.
            let step = tokio::task::spawn_blocking(move || {
                source.step();
                source
            });
            match step.await {
                Ok(returned) => source = returned,
                Err(error) => {
                    tracing::error!(%error, "following the policy repository broke; restart this component");
                    cancel.cancelled().await;
                    return;
                }
            }
        }
    }

    /// Looks at the branch once. Idempotent: a head that was judged is not judged again.
    fn step(&mut self) {
        self.try_bundle();
        let (head, position) = match self.head() {
            Ok(found) => found,
            Err(error) => return self.unreadable(error),
        };
        let active = self.state.borrow().active.clone();
        let judged = Judged {
            head,
            position,
            signers: stamp(&self.config.trusted_signers),
            reviews: self.config.reviews.as_deref().and_then(stamp),
        };
        if self.judged.as_ref() == Some(&judged) {
            return;
        }
        if active.as_ref().is_some_and(|active| active.source.commit == judged.head) {
            // Back at what is in force, or nothing new since the last run.
            self.judged = Some(judged);
            self.settle(|state| state.refused = None);
            return;
        }
        if self.returned_from.as_ref() == Some(&judged.head) {
            // Nobody asked for it again: it stays refused until a commit follows it.
            self.judged = Some(judged);
            self.settle(|_| {});
            return;
        }
        let signers = match TrustedSigners::load(&self.config.trusted_signers) {
            Ok(signers) => signers,
            Err(error) => return self.unreadable(error_chain(&error)),
        };
        let reviews = match self.config.reviews.as_ref().map(ReviewRules::load).transpose() {
            Ok(reviews) => reviews.unwrap_or_default(),
            Err(error) => return self.unreadable(error_chain(&error)),
        };
        let Some(repository) = self.repository.as_ref() else { return };
        let last = active.as_ref().map(|active| active.source.commit.as_str());
        match repository.accept(last, &signers, &reviews) {
            Ok(source) => {
                if let Err(error) = self.activate(source) {
                    return self.unreadable(error_chain(&error));
                }
            }
            // Not a judgement of the head: the files were not readable just now.
            Err(refusal) if matches!(refusal.reason_code.as_str(), "unreadable" | "no_branch" | "no_tag") => {
                return self.unreadable(refusal.message);
            }
            Err(refusal) => self.refuse(refusal, active.as_deref()),
        }
        self.judged = Some(judged);
    }

    fn head(&mut self) -> Result<(String, String), String> {
        if self.repository.is_none() {
            let opened = Repository::open(&self.config.repository, &self.config.branch);
            let opened = opened.map_err(|error| error_chain(&error))?;
            self.repository = Some(match &self.config.tags {
                Some(prefix) => opened.with_tags(prefix),
                None => opened,
            });
        }
        let head = self.repository.as_ref().map(|repository| Ok((repository.head()?, repository.position()?)));
        match head {
            Some(Ok((head, position))) => Ok((head.to_string(), position)),
            Some(Err::<_, RepositoryError>(error)) => {
                // It may have been replaced: open it anew next time.
                self.repository = None;
                Err(error_chain(&error))
            }
            None => Err("the repository is not open".to_owned()),
        }
    }

    /// Goes back to the bundle before when the active one lost too many calls.
    fn try_bundle(&mut self) {
        while let Ok(lost) = self.lost.1.try_recv() {
            if let Some((_, trial)) = &mut self.before {
                trial.note(lost);
            }
        }
        let failed = self.before.as_ref().and_then(|(_, trial)| trial.failed(&self.config.automatic_return));
        let Some((message, flows)) = failed else { return };
        let flows = flows.iter().map(|(flow, calls)| json!({ "flow": flow.to_string(), "calls": calls }));
        let detail = json!(flows.take(100).collect::<Vec<_>>());
        let Some((before, trial)) = self.before.take() else { return };
        let Some(failed) = self.state.borrow().active.clone() else { return };
        let from = failed.source.commit.clone();
        let active = Arc::new(before.again(unix_now()));
        let refused = RefusedHead { commit: from.clone(), code: "returned".to_owned(), message };
        let last = self.returned_from.replace(from.clone());
        if let Err(error) = self.keep(Some(&active), Some(&refused)) {
            // A return that a restart would forget is none: it is tried again at the next look.
            tracing::error!(error = error_chain(&error), "the policy before could not be kept on disk");
            (self.before, self.returned_from) = (Some((before, trial)), last);
            return;
        }
        tracing::error!(commit = from, error = refused.message, "a policy was taken back");
        self.events.policy_returned(&from, &active, &detail);
        self.metrics.policy_returns.inc();
        self.metrics.policy_activated_at.set(active.activated_at);
        self.metrics.policy_is_refused.set(1);
        let (active, refused) = (Some(active), Some(refused));
        self.state.send_replace(PolicyState { active, refused, unreadable: None });
    }

    /// What would come back if `new` fails, and what it is judged by.
    fn before(&self, new: &ActivePolicy) -> Option<(Arc<ActivePolicy>, Trial)> {
        let last = self.state.borrow().active.clone().filter(|_| new.automatic_return)?;
        if last.digest == new.digest {
            // The same bundle under another commit: its trial goes on.
            return self.before.clone();
        }
        let announced =
            self.repository.as_ref().map(|repository| repository.announced(&last.source.commit, &new.source.commit));
        let trial = Trial::new(new.digest.clone(), &self.config.automatic_return, announced.unwrap_or_default());
        Some((last, trial))
    }

    fn activate(&mut self, source: BundleSource) -> Result<(), PersistError> {
        let active = ActivePolicy::new(source, unix_now());
        self.bundles.put(&active.source, &active.digest)?;
        let before = self.before(&active);
        let old = (std::mem::replace(&mut self.before, before), self.returned_from.take());
        if let Err(error) = self.keep(Some(&active), None) {
            (self.before, self.returned_from) = old;
            return Err(error);
        }
        self.events.policy_activated(&active);
        self.metrics.policy_activated_at.set(active.activated_at);
        self.metrics.policy_is_refused.set(0);
        tracing::info!(
            commit = active.source.commit,
            digest = active.digest,
            signer = active.source.signer,
            "policy activated"
        );
        let active = Some(Arc::new(active));
        self.state.send_replace(PolicyState { active, refused: None, unreadable: None });
        Ok(())
    }

    fn refuse(&self, refusal: Refusal, active: Option<&ActivePolicy>) {
        let refused = RefusedHead { commit: refusal.commit, code: refusal.reason_code, message: refusal.message };
        let known = self.state.borrow().refused.as_ref() == Some(&refused);
        if !known {
            tracing::error!(
                commit = refused.commit,
                reason = refused.code,
                error = refused.message,
                "a policy commit was refused; the last good policy stays in force"
            );
            let reason = ByReason { reason: refused.code.clone() };
            self.metrics.policy_refused.get_or_create(&reason).inc();
            let detail = json!({ "message": refused.message });
            self.events.policy_refused(&refused.commit, &refused.code, &detail, active);
            if let Err(error) = self.keep(active, Some(&refused)) {
                tracing::error!(error = error_chain(&error), "the refused commit could not be kept on disk");
            }
        }
        self.metrics.policy_is_refused.set(1);
        self.settle(|state| state.refused = Some(refused));
    }

    fn keep(&self, active: Option<&ActivePolicy>, refused: Option<&RefusedHead>) -> Result<(), PersistError> {
        let before = self.before.as_ref();
        let kept = Kept {
            active: active.map(KeptActive::of),
            refused: refused.cloned(),
            before: before.map(|(policy, trial)| KeptBefore { policy: KeptActive::of(policy), trial: trial.clone() }),
            returned_from: self.returned_from.clone(),
        };
        persist::save(&self.config.state, &kept)
    }

    /// The repository is readable: whatever `change` says, and nothing is unreadable any more.
    fn settle(&self, change: impl FnOnce(&mut PolicyState)) {
        self.state.send_modify(|state| {
            change(state);
            state.unreadable = None;
        });
        let refused = self.state.borrow().refused.is_some();
        self.metrics.policy_is_refused.set(i64::from(refused));
    }

    fn unreadable(&mut self, error: String) {
        self.judged = None;
        self.state.send_if_modified(|state| {
            if state.unreadable.as_ref() == Some(&error) {
                return false;
            }
            tracing::error!(
                repository = %self.config.repository.display(), error,
                "the policy repository cannot be followed; the last good policy stays in force"
            );
            state.unreadable = Some(error);
            true
        });
    }
}
