//! Policy, record and spool in one place: the only way to a verdict.
//!
//! INVARIANT: [`Enforcer::decide`] answers allow only after the record of exactly that decision was kept by the spool
//! (as the spool's durability and `on_full` define "kept"). No bundle, no spool, a failing spool: deny.

mod call;
mod clock;
mod in_force;
mod known;
mod lost;
mod seen;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use signet_mtls::{Identity, Refusal, SpiffeId, Usage};
use signet_policy::{Bundle, Decision, Effect, Reason};
use signet_spool::{Appending, ContextRef, Enforcement, Kind, RecordRef, Spool, SpoolError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

pub(crate) use call::grpc_parts;
pub use call::{ActionOwned, Asked, Call, Host, Peer};
pub use known::Known;
pub use lost::LostCalls;

use clock::Clock;
use in_force::{InForce, Question};
use lost::Before;
use text::CallText;

use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::tap::Taps;
use crate::token::{EndUser, Presented, Tokens};

/// What the caller has to enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The record's id: what `x-signet-decision` carries.
    pub decision_id: Uuid,
    pub allow: bool,
    /// UTC microseconds after which an open stream is decided again.
    pub expires_at_us: Option<i64>,
    /// Denied because the end user's token was refused.
    pub token_refused: bool,
}

/// Reasons that are not the policy engine's. Stable: records carry them.
pub mod reason {
    pub const UNKNOWN_SERVICE: &str = "unknown_service";
    pub const PROTOCOL_MISMATCH: &str = "protocol_mismatch";
    pub const RATE_LIMITED: &str = "rate_limited";
    pub const BAD_PATH: &str = "bad_path";
    pub const STRICT_PORT: &str = "plaintext_on_strict_port";
    pub const PEER_EXPIRED: &str = "peer_expired";
    pub const EGRESS_ADDRESS: &str = "egress_address";
    pub const TRUST_WITHDRAWN: &str = "trust_withdrawn";
}

/// Where decisions are recorded.
#[derive(Clone)]
pub struct Recorder {
    pub spool: Spool,
    /// SPIFFE ID of this proxy, as the audit service knows it.
    pub producer: Arc<str>,
}

/// Decides and records. Shared by all connections of a proxy.
pub struct Enforcer {
    in_force: ArcSwapOption<InForce>,
    identity: ArcSwap<Identity>,
    recorder: Option<Recorder>,
    metrics: Arc<Metrics>,
    /// Counts what may change a decision on an open connection: bundle, snapshot, trust bundles.
    changes: watch::Sender<u64>,
    epoch: AtomicU64,
    /// Counts changes of the trust bundles alone.
    trust_epoch: AtomicU64,
    lost: Arc<LostCalls>,
    taps: Arc<Taps>,
}

impl Enforcer {
    /// Without a recorder everything is denied.
    #[must_use]
    pub fn new(recorder: Option<Recorder>, identity: Arc<Identity>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            in_force: ArcSwapOption::empty(),
            identity: ArcSwap::new(identity),
            recorder,
            metrics,
            changes: watch::channel(0).0,
            epoch: AtomicU64::new(0),
            trust_epoch: AtomicU64::new(0),
            lost: Arc::default(),
            taps: Arc::default(),
        })
    }

    /// Follows snapshot, identity and the machine's clock until cancelled. `apply` runs on each new snapshot, after the bundle was taken
    /// over and before open connections are told.
    pub async fn follow(
        self: Arc<Self>,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut identities: watch::Receiver<Arc<Identity>>,
        apply: impl Fn(&Arc<Snapshot>) + Send,
        cancel: CancellationToken,
    ) {
        let first = snapshots.borrow_and_update().clone();
        self.take_snapshot(&first);
        apply(&first);
        self.tell();
        let mut clock = Clock::new(now_us(), Instant::now());
        let mut looks = tokio::time::interval(clock::EVERY);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = looks.tick() => {
                    if let Some(step_us) = clock.stepped(now_us(), Instant::now()) {
                        self.clock_stepped(step_us);
                    }
                    if snapshots.has_changed().is_err() && identities.has_changed().is_err() {
                        return;
                    }
                    continue;
                }
                Ok(()) = snapshots.changed() => {
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.take_snapshot(&snapshot);
                    apply(&snapshot);
                }
                Ok(()) = identities.changed() => {
                    let new = identities.borrow_and_update().clone();
                    let old = self.identity.swap(Arc::clone(&new));
                    if old.bundles == new.bundles {
                        continue; // An SVID was renewed: new handshakes use it, nothing else changes.
                    }
                    self.trust_epoch.fetch_add(1, Ordering::AcqRel);
                }
            }
            self.tell();
        }
    }

    /// The machine's clock was set: certificates and time bounds of open connections may have been reached by it.
    fn clock_stepped(&self, step_us: i64) {
        warn!(seconds = step_us / 1_000_000, "the clock was set; open connections are decided again");
        self.metrics.clock_steps.inc();
        self.trust_epoch.fetch_add(1, Ordering::AcqRel);
        self.tell();
    }

    /// Takes over a snapshot's bundle. [`Enforcer::follow`] does it; tests and one-shot uses call it directly.
    pub fn take_snapshot(&self, snapshot: &Snapshot) {
        let old = self.in_force.load();
        let grants = snapshot.break_glass.clone();
        let new = snapshot.bundle.as_ref().map(|new| match old.as_ref() {
            // Verified tokens stay known.
            Some(old) if Arc::ptr_eq(new, &old.bundle) => {
                InForce { bundle: Arc::clone(new), tokens: old.tokens.clone(), before: old.before.clone(), grants }
            }
            old => InForce {
                bundle: Arc::clone(new),
                tokens: Tokens::of(new, &self.metrics).map(Arc::new),
                before: old.and_then(|old| Before::of(new, &old.bundle, old.before.as_ref())),
                grants,
            },
        });
        self.in_force.store(new.map(Arc::new));
        self.metrics.break_glass_grants.set(i64::try_from(snapshot.break_glass.len()).unwrap_or(i64::MAX));
        self.metrics.snapshot_version.set(i64::try_from(snapshot.version).unwrap_or(i64::MAX));
    }

    /// Tells open connections that their decisions may have changed.
    pub fn tell(&self) {
        // INVARIANT: what decisions read was replaced before this; a call that was decided before and registers after
        // sees another epoch and decides again by itself.
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        self.changes.send_replace(epoch);
    }

    /// Differs from an earlier value when [`Enforcer::changes`] has something new.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Changes whenever open connections have to be decided again.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether the peer's certificate verifies against the trust bundles of this moment.
    #[must_use]
    pub fn trusts(&self, peer: &Peer) -> Serves {
        if peer.id.is_none() {
            return Serves::Yes;
        }
        let now = u64::try_from(now_us() / 1_000_000).unwrap_or(0);
        match signet_mtls::verify_chain(&self.identity.load(), &peer.chain, Usage::Client, now) {
            Ok(_) => Serves::Yes,
            Err(e) if e.refusal == Refusal::Expired => Serves::No(reason::PEER_EXPIRED),
            Err(_) => Serves::No(reason::TRUST_WITHDRAWN),
        }
    }

    /// Differs from an earlier value when the trust bundles changed; verifying a chain again costs signatures.
    #[must_use]
    pub fn trust_epoch(&self) -> u64 {
        self.trust_epoch.load(Ordering::Acquire)
    }

    /// Calls that the bundle in force denied and the one before would have allowed.
    #[must_use]
    pub fn lost(&self) -> Arc<LostCalls> {
        Arc::clone(&self.lost)
    }

    /// Whether decisions can be made and recorded at all.
    #[must_use]
    pub fn has_bundle(&self) -> bool {
        self.in_force.load().is_some()
    }

    /// Whether the bundle declares the external service `name` with this host.
    #[must_use]
    pub fn declares_external(&self, name: &str, host: &str) -> bool {
        let in_force = self.in_force.load();
        let facts = in_force.as_ref().and_then(|now| now.bundle.settings().external_services.get(name));
        facts.is_some_and(|facts| facts.host.eq_ignore_ascii_case(host))
    }

    /// Whether end users' tokens are read for a service.
    #[must_use]
    pub fn reads_tokens(&self, service: &str) -> bool {
        self.in_force.load().as_ref().and_then(|now| now.tokens.as_ref()).is_some_and(|tokens| tokens.serve(service))
    }

    /// Decides by policy and records.
    pub async fn decide(&self, call: &Call<'_>) -> Verdict {
        let in_force = self.in_force.load_full();
        let bundle = in_force.as_deref().map(|now| now.bundle.as_ref());
        let question = Question::of(call, in_force.as_deref(), now_us());
        let decision = question.ask(bundle);
        self.conclude_by_policy(&question, in_force.as_deref(), &decision).await
    }

    /// As [`Enforcer::decide`], for the end user whom a request presents. Where the bundle declares issuers for the
    /// service, a token that none of them vouches for is denied; elsewhere tokens are the application's.
    pub async fn decide_for(&self, asked: &mut Asked, presented: Presented<'_>) -> Verdict {
        let in_force = self.in_force.load_full();
        let bundle = in_force.as_deref().map(|now| now.bundle.as_ref());
        let tokens = in_force.as_deref().and_then(|now| now.tokens.as_ref());
        let now = now_us();
        asked.end_user = None;
        if let Some(tokens) = tokens.filter(|tokens| tokens.serve(&asked.service)) {
            match tokens.end_user(&asked.service, presented, now) {
                Ok(user) => asked.end_user = user,
                Err(error) => {
                    let decision = Decision::deny(Reason::InvalidRequest);
                    let call = asked.call();
                    let question = Question { call: &call, grant: None, now_us: now };
                    let verdict = self.conclude(&question, bundle, &decision, error.reason(), None).await;
                    return Verdict { token_refused: true, ..verdict };
                }
            }
        }
        let call = asked.call();
        let question = Question::of(&call, in_force.as_deref(), now);
        let decision = question.ask(bundle);
        let verdict = self.conclude_by_policy(&question, in_force.as_deref(), &decision).await;
        let ends = call.end_user.map(EndUser::expires_us);
        Verdict { expires_at_us: [verdict.expires_at_us, ends].into_iter().flatten().min(), ..verdict }
    }

    /// As [`Enforcer::decide`], with what an earlier decision of the same peer about the same service left in `known`.
    /// `None`: tokens are read for the service, so [`Enforcer::decide_for`] has to decide.
    pub async fn decide_known(&self, call: &Call<'_>, known: &mut Option<Known>) -> Option<Verdict> {
        if cfg!(feature = "bench-unenforced") {
            return Some(Verdict { decision_id: Uuid::nil(), allow: true, expires_at_us: None, token_refused: false });
        }
        let Some(in_force) = self.in_force.load_full() else { return Some(self.decide(call).await) };
        if in_force.tokens.as_ref().is_some_and(|tokens| tokens.serve(call.service)) {
            return None;
        }
        let bundle = &in_force.bundle;
        let question = Question::of(call, Some(&in_force), now_us());
        let known = match known {
            Some(known) if known.is_of(bundle) => known,
            _ => known.insert(Known::of(bundle, call)),
        };
        let decision = known.decide(&question.request());
        Some(self.conclude_by_policy(&question, Some(&in_force), &decision).await)
    }

    /// Denies for a reason of the data plane's own, and records.
    pub async fn deny(&self, call: &Call<'_>, reason: &'static str) -> Verdict {
        let in_force = self.in_force.load_full();
        let bundle = in_force.as_deref().map(|now| now.bundle.as_ref());
        let decision = Decision::deny(Reason::InvalidRequest);
        let question = Question { call, grant: None, now_us: now_us() };
        self.conclude(&question, bundle, &decision, reason, None).await
    }

    /// Decides an open connection or stream again. A deny is a decision of its own and is recorded; an allow changes
    /// nothing, and the record that opened the call stands.
    ///
    /// Once its end user's token has ended, or nobody vouches for it any more, a call goes on only if it would be
    /// allowed without an end user too.
    pub async fn decide_again(&self, call: &Call<'_>, opened_by: Uuid, serves: Serves) -> Again {
        let in_force = self.in_force.load_full();
        let bundle = in_force.as_deref().map(|now| now.bundle.as_ref());
        let now = now_us();
        let mut detail = format!("closed an open call that decision {opened_by} had allowed");
        let mut call = *call;
        let mut decision = Question::of(&call, in_force.as_deref(), now).ask(bundle);
        let mut ends = call.end_user.map(EndUser::expires_us);
        if let Some(user) = call.end_user
            && decision.effect == Effect::Allow
            && !in_force.as_deref().is_some_and(|now_in_force| now_in_force.vouches(user, call.service, now))
        {
            // INVARIANT: what policies say against this end user was asked above and still counts.
            ends = None;
            call.end_user = None;
            decision = Question::of(&call, in_force.as_deref(), now).ask(bundle);
            detail.push_str("; its end user's token had ended");
        }
        let question = Question::of(&call, in_force.as_deref(), now);
        self.note_lost(&question, in_force.as_deref(), &decision);
        let mut reason = decision.reason.as_str();
        if let Serves::No(why) = serves {
            decision = Decision::deny(Reason::InvalidRequest);
            reason = why;
        }
        if decision.effect == Effect::Allow {
            return Again::GoesOn { expires_at_us: [decision.expires_at_us, ends].into_iter().flatten().min() };
        }
        Again::Closed(self.conclude(&question, bundle, &decision, reason, Some(detail)).await)
    }

    /// Counts a call that a bundle on trial denies and the one before it would have allowed.
    fn note_lost(&self, question: &Question<'_>, in_force: Option<&InForce>, decision: &Decision) {
        if decision.effect != Effect::Allow
            && let Some(now) = in_force
            && now.before.as_ref().is_some_and(|before| before.allowed(question))
        {
            self.lost.add(question.call, now.bundle.digest());
        }
    }

    /// Writes the record. Not part of [`Enforcer::conclude`], so that nothing of it stays in memory with a connection.
    #[allow(clippy::too_many_arguments, reason = "a record has many sources")]
    fn append(
        &self,
        id: Uuid,
        question: &Question<'_>,
        bundle: Option<&Bundle>,
        decision: &Decision,
        reason: &str,
        detail: Option<&str>,
    ) -> Result<Appending<'_>, Option<SpoolError>> {
        let recorder = self.recorder.as_ref().ok_or(None)?;
        let &Question { call, grant, now_us } = question;
        let text = CallText::of(call);
        let context = call.context(&text, grant, bundle.and_then(Bundle::slice_digest));
        let record = RecordRef {
            id,
            time_us: now_us,
            kind: Kind::Decision,
            producer: &recorder.producer,
            source_spiffe_id: call.peer.id.as_ref().map(SpiffeId::as_str),
            destination_spiffe_id: call.destination,
            destination_service: call.service,
            action: call.action.cedar_id(),
            path: text.path(),
            personal_path: bundle.is_some_and(|b| b.settings().personal.paths),
            allow: decision.effect == Effect::Allow,
            enforcement: Enforcement::Enforce,
            policy_ids: &decision.policies,
            policy_commit: bundle.map_or("", Bundle::commit),
            bundle_digest: bundle.map_or("", Bundle::digest),
            reason,
            source_address: text.source_address(),
            tls: &call.peer.tls,
            trace_id: text.trace_id(),
            latency_us: u64::try_from(call.received.elapsed().as_micros()).ok(),
            context: ContextRef::Borrowed(context.as_slice()),
            count: 1,
            detail,
            shadow: decision.shadow.as_ref().map(|s| (s.effect == Effect::Allow, s.policies.as_slice())),
        };
        recorder.spool.append_first(record).map_err(Some)
    }

    /// Concludes what the engine decided, and says what a grant had a part in.
    async fn conclude_by_policy(
        &self,
        question: &Question<'_>,
        in_force: Option<&InForce>,
        decision: &Decision,
    ) -> Verdict {
        let bundle = in_force.map(|now| now.bundle.as_ref());
        self.note_lost(question, in_force, decision);
        let broken = question.broken(bundle, decision);
        if broken.is_some() {
            self.metrics.break_glass_decisions.inc();
        }
        self.conclude(question, bundle, decision, decision.reason.as_str(), broken).await
    }

    async fn conclude(
        &self,
        question: &Question<'_>,
        bundle: Option<&Bundle>,
        decision: &Decision,
        reason: &str,
        detail: Option<String>,
    ) -> Verdict {
        let decision_id = new_id(question.now_us);
        let allow = decision.effect == Effect::Allow;
        let expires_at_us = decision.expires_at_us;
        let kept = match self.append(decision_id, question, bundle, decision, reason, detail.as_deref()) {
            // For an fsync, without holding the thread.
            Ok(appending) if appending.waits() => Box::pin(appending.kept()).await.map_err(Some),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        self.metrics.decided(allow, question.call.received.elapsed());
        match kept {
            Ok(()) => Verdict { decision_id, allow, expires_at_us, token_refused: false },
            Err(error) => {
                // Rate is bounded by the calls themselves; the metric is what alerts.
                if self.metrics.unrecorded() {
                    error!(
                        error = error.map_or_else(|| "no spool".to_owned(), |e| e.to_string()),
                        "a decision could not be recorded; the call is denied"
                    );
                }
                Verdict { decision_id, allow: false, expires_at_us, token_refused: false }
            }
        }
    }
}

/// What a new decision means for an open call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    GoesOn { expires_at_us: Option<i64> },
    Closed(Verdict),
}

/// Whether the port still serves what an open call was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    Yes,
    No(&'static str),
}

/// UUID v7 from the decision's time. The random part only has to be unique, so it needs no system call.
fn new_id(now_us: i64) -> Uuid {
    let mut random = [0_u8; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(now_us / 1000).unwrap_or(0), &random).into_uuid()
}

pub(crate) fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_micros()).ok()).unwrap_or(0)
}
