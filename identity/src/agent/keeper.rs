//! The agent's one writer: keeps its own identity, follows the server's state, keeps every entry's SVID signed, and
//! publishes what is served.
//!
//! A reconciler: each round looks at what should be and at what is, does what is due, and waits for a change or the next
//! due time. Whatever fails is tried again with backoff while everything held stays served until it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use signet_api::identity::{NodeState, SignItem, SignRequest, SignedSvid, WatchRequest};
use signet_mtls::{SpiffeId, Svid};
use signet_observe::Condition;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};

use super::{
    metrics::Metrics,
    own::Own,
    state::{HeldSvid, Served, State},
};
use crate::{bundle::TrustBundle, clock, csr, entries::Entry};

const CALL: Duration = Duration::from_secs(10);
const BATCH: usize = 128;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Even with nothing due the round is made now and then: the wall clock may have jumped.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What the readiness page says about this task.
pub(crate) struct Conditions {
    pub identity: Condition,
    pub server: Condition,
    pub svids: Condition,
}

struct Held {
    spiffe_id: SpiffeId,
    ttl_seconds: u32,
    svid: Arc<HeldSvid>,
    renew_at_ms: i64,
}

/// The task.
pub(crate) struct Keeper {
    own: Own,
    state: watch::Sender<Arc<State>>,
    metrics: Metrics,
    conditions: Conditions,
    stream: Option<Streaming<NodeState>>,
    wanted: Vec<Entry>,
    held: BTreeMap<String, Held>,
    backoff: Duration,
    /// No calls before this, Unix milliseconds.
    not_before_ms: i64,
}

impl Keeper {
    /// A keeper that publishes to `state`.
    pub(crate) fn new(own: Own, state: watch::Sender<Arc<State>>, metrics: Metrics, conditions: Conditions) -> Self {
        Self {
            own,
            state,
            metrics,
            conditions,
            stream: None,
            wanted: Vec::new(),
            held: BTreeMap::new(),
            backoff: BACKOFF_MIN,
            not_before_ms: 0,
        }
    }

    /// Runs until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let round = async {
                self.round().await;
                let wait = self.wait_for();
                match &mut self.stream {
                    Some(stream) => tokio::select! {
                        message = stream.message() => Some(message),
                        () = tokio::time::sleep(wait) => None,
                    },
                    None => {
                        tokio::time::sleep(wait).await;
                        None
                    }
                }
            };
            let message = tokio::select! {
                () = cancel.cancelled() => return,
                message = round => message,
            };
            match message {
                Some(Ok(Some(state))) => self.heard(&state),
                Some(Ok(None)) => self.lost("the identity server ended the stream"),
                Some(Err(status)) => self.lost(&status.to_string()),
                None => {}
            }
        }
    }

    async fn round(&mut self) {
        if clock::now_ms() >= self.not_before_ms {
            self.keep_own().await;
            self.keep_stream().await;
            self.sign_due().await;
        }
        self.publish();
    }

    fn failed(&mut self) {
        let jittered = self.backoff.mul_f64(0.75 + 0.5 * fastrand::f64());
        self.not_before_ms = clock::now_ms() + i64::try_from(jittered.as_millis()).unwrap_or(1000);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn succeeded(&mut self) {
        self.backoff = BACKOFF_MIN;
    }

    async fn keep_own(&mut self) {
        match self.own.ensure(clock::now()).await {
            Ok(changed) => {
                if changed {
                    self.metrics.own_renewals.inc();
                    self.stream = None;
                    self.succeeded();
                }
                self.conditions.identity.set(Ok::<(), &str>(()));
            }
            Err(error) => {
                let why = signet_observe::error_chain(&error);
                tracing::warn!(error = why, "this agent could not attest or renew itself; trying again");
                if !self.own.is_valid(clock::now()) {
                    self.conditions.identity.set(Err(why));
                }
                self.failed();
            }
        }
    }

    async fn keep_stream(&mut self) {
        if self.stream.is_some() || !self.own.is_valid(clock::now()) || clock::now_ms() < self.not_before_ms {
            return;
        }
        let mut client = self.own.client().max_decoding_message_size(64 << 20);
        // Not a deadline of the call itself: it is a stream that stays open.
        let opened = tokio::time::timeout(CALL, async {
            let mut stream = client.watch(Request::new(WatchRequest {})).await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, tonic::Status>((stream, first))
        });
        match opened.await {
            Ok(Ok((stream, Some(first)))) => {
                self.stream = Some(stream);
                self.succeeded();
                self.heard(&first);
            }
            Ok(Ok((_, None))) => self.lost("the identity server ended the stream at once"),
            Ok(Err(status)) => self.lost(&status.to_string()),
            Err(_) => self.lost("no answer in time"),
        }
    }

    fn lost(&mut self, why: &str) {
        tracing::warn!(why, "the identity server is away; serving what there is, trying again");
        self.stream = None;
        self.conditions.server.set(Err(why));
        self.failed();
    }

    /// Takes the server's whole state; what is absent from it has been withdrawn.
    fn heard(&mut self, state: &NodeState) {
        let trust_domain = self.state.borrow().trust_domain.clone();
        self.wanted.clear();
        for entry in &state.entries {
            match Entry::from_api(entry, &trust_domain) {
                Some(entry) => self.wanted.push(entry),
                None => tracing::warn!(id = entry.id, spiffe_id = entry.spiffe_id, "an entry was not understood"),
            }
        }
        let mut bundles = BTreeMap::new();
        for bundle in &state.bundles {
            match TrustBundle::from_api(bundle) {
                Ok(bundle) => {
                    bundles.insert(bundle.trust_domain.clone(), bundle);
                }
                Err(error) => tracing::error!(trust_domain = bundle.trust_domain, %error, "a trust bundle was refused"),
            }
        }
        let ids: BTreeSet<&str> = self.wanted.iter().map(|entry| entry.id.as_str()).collect();
        self.held.retain(|id, _| ids.contains(id.as_str()));
        self.conditions.server.set(Ok::<(), &str>(()));
        self.state.send_modify(|current| {
            let mut next = State::clone(current);
            next.synced = true;
            next.bundles = bundles;
            *current = Arc::new(next);
        });
    }

    /// Entries whose SVID is missing, of another shape, or at half of its life; the most urgent first.
    fn due(&self, now_ms: i64) -> Vec<&Entry> {
        let mut due: Vec<(i64, &Entry)> = self
            .wanted
            .iter()
            .filter_map(|entry| match self.held.get(&entry.id) {
                Some(held) if held.spiffe_id == entry.spiffe_id && held.ttl_seconds == entry.ttl_seconds => {
                    (held.renew_at_ms <= now_ms).then_some((held.renew_at_ms, entry))
                }
                _ => Some((0, entry)),
            })
            .collect();
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, entry)| entry).collect()
    }

    async fn sign_due(&mut self) {
        loop {
            let now_ms = clock::now_ms();
            if now_ms < self.not_before_ms || !self.own.is_valid(now_ms / 1000) {
                return;
            }
            let batch: Vec<Entry> = self.due(now_ms).into_iter().take(BATCH).cloned().collect();
            if batch.is_empty() {
                self.conditions.svids.set(Ok::<(), &str>(()));
                return;
            }
            if let Err(why) = self.sign(&batch).await {
                self.metrics.sign_failures.inc();
                tracing::warn!(why, entries = batch.len(), "SVIDs could not be signed; trying again");
                self.conditions.svids.set(Err(why));
                self.failed();
                return;
            }
            self.succeeded();
        }
    }

    async fn sign(&mut self, batch: &[Entry]) -> Result<(), String> {
        let mut keys = BTreeMap::new();
        let mut items = Vec::with_capacity(batch.len());
        for entry in batch {
            let key = KeyPair::generate().map_err(|error| error.to_string())?;
            let csr = csr::make(&key).map_err(|error| error.to_string())?;
            items.push(SignItem { entry_id: entry.id.clone(), csr });
            keys.insert(entry.id.as_str(), (entry, key));
        }
        let mut request = Request::new(SignRequest { items });
        request.set_timeout(CALL);
        let answer = self.own.client().sign(request).await.map_err(|status| status.to_string())?.into_inner();
        let mut signed = 0;
        for svid in answer.svids {
            let Some((entry, key)) = keys.remove(svid.entry_id.as_str()) else { continue };
            let held = held(entry, &key, svid)?;
            self.metrics.rotations.inc();
            self.held.insert(entry.id.clone(), held);
            signed += 1;
        }
        if signed == 0 {
            // The server no longer knows any of them; its next state will say so.
            return Err("the identity server signed none of the entries".to_owned());
        }
        Ok(())
    }

    /// Publishes when something differs, and drops what has ended.
    fn publish(&mut self) {
        let now = clock::now();
        self.held.retain(|id, held| {
            let live = held.svid.not_after > now;
            if !live {
                tracing::error!(entry = id, spiffe_id = %held.spiffe_id, "an SVID ended before it could be renewed");
            }
            live
        });
        let served: Vec<Served> = self
            .wanted
            .iter()
            .map(|entry| {
                let held = self.held.get(&entry.id).filter(|held| held.spiffe_id == entry.spiffe_id);
                Served { entry: entry.clone(), svid: held.map(|held| Arc::clone(&held.svid)) }
            })
            .collect();
        self.metrics.svids.set(i64::try_from(self.held.len()).unwrap_or(i64::MAX));
        let first = self.held.values().map(|held| held.svid.not_after).min();
        self.metrics.first_expiry.set(first.unwrap_or(0));
        self.state.send_if_modified(|current| {
            let same = current.served.len() == served.len()
                && current.served.iter().zip(&served).all(|(old, new)| {
                    old.entry == new.entry
                        && match (&old.svid, &new.svid) {
                            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                            (None, None) => true,
                            _ => false,
                        }
                });
            if !same {
                let mut next = State::clone(current);
                next.served = served;
                *current = Arc::new(next);
            }
            !same
        });
    }

    /// Until the next thing is due.
    fn wait_for(&self) -> Duration {
        let now_ms = clock::now_ms();
        let ends = self.held.values().map(|held| held.svid.not_after * 1000);
        // Calls wait for their backoff, ends do not.
        let calls = self.held.values().map(|held| held.renew_at_ms).chain([self.own.renew_at() * 1000]);
        let blocked = self.stream.is_none() || !self.due(now_ms).is_empty();
        let next_call = calls.chain(blocked.then_some(now_ms)).min().map(|at| at.max(self.not_before_ms));
        let next = ends.chain(next_call).min().unwrap_or(i64::MAX);
        let wait = Duration::from_millis(u64::try_from(next.saturating_sub(now_ms)).unwrap_or(0));
        wait.clamp(Duration::from_millis(10), LONGEST_WAIT)
    }
}

fn held(entry: &Entry, key: &KeyPair, signed: SignedSvid) -> Result<Held, String> {
    let chain: Vec<CertificateDer<'static>> = signed.chain.into_iter().map(CertificateDer::from).collect();
    let concatenated: Vec<u8> = chain.iter().flat_map(|certificate| certificate.iter().copied()).collect();
    // Read as any client would read it: what would not work there is not handed out.
    let svid =
        Svid::new(chain, key.serialize_der(), &entry.hint).map_err(|error| signet_observe::error_chain(&error))?;
    if svid.id != entry.spiffe_id {
        return Err(format!("the identity server signed `{}` for the entry of `{}`", svid.id, entry.spiffe_id));
    }
    let now_ms = clock::now_ms();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a life in ms is small")]
    let half = ((svid.not_after * 1000 - now_ms) as f64 * (0.5 + 0.1 * fastrand::f64())) as i64;
    Ok(Held {
        spiffe_id: entry.spiffe_id.clone(),
        ttl_seconds: entry.ttl_seconds,
        svid: Arc::new(HeldSvid { chain: concatenated, key: key.serialize_der(), not_after: svid.not_after }),
        renew_at_ms: now_ms + half,
    })
}
