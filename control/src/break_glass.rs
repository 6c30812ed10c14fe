//! Grants for an emergency: which are in force, which were, and that none comes twice.
//!
//! INVARIANT: a grant is recorded and on disk before a proxy hears of it, and its id is remembered for as long as its
//! signatures could bring it back. INVARIANT: a state file gives nothing that its signatures do not: grants are judged
//! again when they are read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use signet_mtls::TrustDomain;
use signet_observe::error_chain;
use signet_policy_repository::{AcceptedGrant, GrantRefusal, GrantRules, TrustedSigners};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::BreakGlassConfig;
use crate::events::Events;
use crate::metrics::{ByReason, Metrics};
use crate::model::Given;
use crate::persist::{self, PersistError, unix_now};

/// Grants that can be in force at once, and ids that are remembered.
const MOST: usize = 64;
const MOST_REMEMBERED: usize = 10_000;
/// How often is looked for grants that are over; sidecars do not wait for it.
const LOOK: Duration = Duration::from_secs(1);

/// Grants in force, in order of their ids.
pub(crate) type Grants = Arc<Vec<Arc<Given>>>;

/// Why a grant was not given or not ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// Without `policy.break_glass` in the configuration nothing is granted.
    #[error("not_configured: this control plane gives no grants; configure `policy.break_glass`")]
    NotConfigured,
    /// The document or its signatures.
    #[error(transparent)]
    Refused(#[from] GrantRefusal),
    /// Who may sign is not known now.
    #[error("unreadable: the trusted signers cannot be read")]
    Signers(#[source] signet_policy_repository::SignersError),
    /// It was given before: in force, ended or revoked.
    #[error("replayed: the grant `{0}` was given before; make a new one")]
    Replayed(String),
    /// Bounds.
    #[error("too_many: {MOST} grants are in force; revoke one that is not needed")]
    TooMany,
    /// Nothing to revoke.
    #[error("unknown: no grant `{0}` is in force; `signet policy break-glass list` shows those that are")]
    Unknown(String),
    /// Nothing takes effect without its record.
    #[error("unrecorded: the grant could not be recorded, so it is not given; give the spool more space")]
    Unrecorded,
    /// Nothing takes effect that a restart would forget.
    #[error("unkept: the grant could not be kept on disk")]
    Unkept(#[from] PersistError),
}

impl GrantError {
    /// Stable, for events and metrics.
    fn code(&self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::Refused(refusal) => refusal.code,
            Self::Signers(_) => "unreadable",
            Self::Replayed(_) => "replayed",
            Self::TooMany => "too_many",
            Self::Unknown(_) => "unknown",
            Self::Unrecorded => "unrecorded",
            Self::Unkept(_) => "unkept",
        }
    }
}

/// The state file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    grants: Vec<KeptGrant>,
    /// Ids that were given, by the end of their grant in Unix seconds.
    given: BTreeMap<String, i64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptGrant {
    document: String,
    signatures: Vec<String>,
    granted_at: i64,
    granted_by: String,
}

#[derive(Default)]
struct State {
    /// By id; with what was sent, so that it can be judged again.
    grants: BTreeMap<String, (Arc<Given>, KeptGrant)>,
    given: BTreeMap<String, i64>,
}

/// The grants of one control plane. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct BreakGlass {
    trust_domain: TrustDomain,
    config: Option<BreakGlassConfig>,
    file: PathBuf,
    state: Arc<Mutex<State>>,
    published: Arc<watch::Sender<Grants>>,
    events: Events,
    metrics: Metrics,
}

impl BreakGlass {
    /// Begins with what an earlier run gave. Blocks on the disk.
    ///
    /// # Errors
    /// When the state file cannot be read: a grant that was revoked could come back.
    pub(crate) fn open(
        trust_domain: TrustDomain,
        config: Option<BreakGlassConfig>,
        file: PathBuf,
        events: Events,
        metrics: Metrics,
    ) -> Result<Self, PersistError> {
        let kept: Kept = persist::load(&file)?.unwrap_or_default();
        let table = Self {
            trust_domain,
            config,
            file,
            state: Arc::default(),
            published: Arc::new(watch::Sender::new(Grants::default())),
            events,
            metrics,
        };
        let mut state = table.lock();
        state.given = kept.given;
        let mut dropped = false;
        for kept in kept.grants {
            match table.judge(&kept.document, &kept.signatures) {
                Ok(grant) => {
                    let id = grant.document.id.clone();
                    let (granted_at, granted_by) = (kept.granted_at, kept.granted_by.clone());
                    state.grants.insert(id, (Arc::new(Given { grant, granted_at, granted_by }), kept));
                }
                Err(error) => {
                    dropped = true;
                    table.events.break_glass_dropped(error.code(), &error.to_string());
                }
            }
        }
        if dropped {
            table.save(&state)?;
        }
        table.publish(&state);
        drop(state);
        Ok(table)
    }

    /// Follows the grants in force.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Grants> {
        self.published.subscribe()
    }

    /// Gives what `operator` brought. Blocks on the disk.
    pub(crate) fn grant(
        &self,
        operator: &str,
        document: String,
        signatures: Vec<String>,
    ) -> Result<Arc<Given>, GrantError> {
        self.try_grant(operator, document, signatures).inspect_err(|error| {
            tracing::error!(operator, error = error_chain(error), "a break-glass grant was refused");
            self.metrics.break_glass_refused.get_or_create(&ByReason { reason: error.code().to_owned() }).inc();
            self.events.break_glass_refused(operator, error.code(), &error_chain(error));
        })
    }

    fn try_grant(&self, operator: &str, document: String, signatures: Vec<String>) -> Result<Arc<Given>, GrantError> {
        let grant = self.judge(&document, &signatures)?;
        let id = grant.document.id.clone();
        let mut state = self.lock();
        if state.given.contains_key(&id) {
            return Err(GrantError::Replayed(id));
        }
        if state.grants.len() >= MOST || state.given.len() >= MOST_REMEMBERED {
            return Err(GrantError::TooMany);
        }
        let (granted_at, granted_by) = (unix_now(), operator.to_owned());
        let given = Arc::new(Given { grant, granted_at, granted_by: granted_by.clone() });
        if !self.events.break_glass_granted(&given) {
            return Err(GrantError::Unrecorded);
        }
        let kept = KeptGrant { document, signatures, granted_at, granted_by };
        state.given.insert(id.clone(), given.until());
        state.grants.insert(id.clone(), (Arc::clone(&given), kept));
        if let Err(error) = self.save(&state) {
            state.grants.remove(&id);
            state.given.remove(&id);
            self.events.break_glass_ended(&given, "unkept", None);
            return Err(error.into());
        }
        tracing::error!(id, ticket = given.grant.document.ticket, until = %given.grant.document.until, "break glass: a grant is in force");
        self.publish(&state);
        Ok(given)
    }

    /// Ends a grant before its time. Blocks on the disk.
    ///
    /// It ends at once also where that cannot be kept on disk; it would come back with a restart then, which the error says.
    pub(crate) fn revoke(&self, operator: &str, id: &str, why: &str) -> Result<Arc<Given>, GrantError> {
        let mut state = self.lock();
        let (given, _) = state.grants.remove(id).ok_or_else(|| GrantError::Unknown(id.to_owned()))?;
        self.publish(&state);
        self.events.break_glass_ended(&given, "revoked", Some((operator, why)));
        tracing::warn!(id, operator, "break glass: a grant was revoked");
        self.save(&state)?;
        Ok(given)
    }

    /// Ends what is over until `cancel`. A reconciler: it takes no input but the clock.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = looks.tick() => {}
            }
            let table = self.clone();
            if tokio::task::spawn_blocking(move || table.end(unix_now())).await.is_err() {
                tracing::error!("looking for grants that are over failed; sidecars end them by themselves");
            }
        }
    }

    fn end(&self, now: i64) {
        let mut state = self.lock();
        let remembered = state.given.len();
        state.given.retain(|_, until| *until > now);
        let over: Vec<String> =
            state.grants.iter().filter(|(_, (given, _))| given.until() <= now).map(|(id, _)| id.clone()).collect();
        if over.is_empty() && state.given.len() == remembered {
            return;
        }
        for id in &over {
            if let Some((given, _)) = state.grants.remove(id) {
                tracing::warn!(id, "break glass: a grant is over");
                self.events.break_glass_ended(&given, "over", None);
            }
        }
        if !over.is_empty() {
            self.publish(&state);
        }
        if let Err(error) = self.save(&state) {
            // Nothing comes back by it: what is over is refused by its end.
            tracing::error!(error = error_chain(&error), "the grants in force could not be kept on disk");
        }
    }

    fn judge(&self, document: &str, signatures: &[String]) -> Result<AcceptedGrant, GrantError> {
        let config = self.config.as_ref().ok_or(GrantError::NotConfigured)?;
        let signers = TrustedSigners::load(&config.trusted_signers).map_err(GrantError::Signers)?;
        let rules = GrantRules {
            trust_domain: self.trust_domain.as_str(),
            signers: &signers,
            signatures: config.signatures.get(),
            max_minutes: config.max_minutes,
        };
        Ok(AcceptedGrant::judge(document, signatures, &rules, unix_now())?)
    }

    fn publish(&self, state: &State) {
        let grants: Vec<Arc<Given>> = state.grants.values().map(|(given, _)| Arc::clone(given)).collect();
        self.metrics.break_glass_grants.set(i64::try_from(grants.len()).unwrap_or(i64::MAX));
        self.published.send_replace(Arc::new(grants));
    }

    fn save(&self, state: &State) -> Result<(), PersistError> {
        let grants = state.grants.values().map(|(_, kept)| kept.clone()).collect();
        persist::save(&self.file, &Kept { grants, given: state.given.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole entries: each change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
