//! Which proxies are connected and what they last said; for `Status.Mesh` and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signet_api::control::{ProxyStatus, Report};
use signet_mtls::SpiffeId;

use crate::metrics::{ByKind, Metrics};
use crate::snapshot::Subject;

/// More open streams than this are refused.
const MAX_STREAMS: usize = 20_000;
/// More open streams of one SPIFFE ID (replicas of one workload) than this are refused.
const MAX_STREAMS_OF_ONE: usize = 1_000;
/// A report's texts are kept up to this many characters.
const MAX_TEXT: usize = 1_000;

/// All proxies known since the start.
///
/// A stream that ended stays visible until its proxy connects again, so that a lost proxy shows.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    entries: Arc<Mutex<Entries>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    by_stream: BTreeMap<u64, ProxyStatus>,
}

/// There are too many streams already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// One open stream; dropping it marks the proxy as gone.
#[derive(Debug)]
pub(crate) struct Connected {
    proxies: Proxies,
    stream: u64,
    kind: &'static str,
}

impl Proxies {
    /// None yet.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { entries: Arc::default(), metrics }
    }

    /// A proxy opened a stream.
    ///
    /// # Errors
    /// When it, or all together, have too many already.
    pub(crate) fn connect(&self, id: &SpiffeId, subject: &Subject) -> Result<Connected, TooMany> {
        let kind = subject.kind();
        let mut entries = self.lock();
        let id = id.to_string();
        entries.by_stream.retain(|_, proxy| proxy.connected || proxy.spiffe_id != id);
        let open = entries.by_stream.values().filter(|proxy| proxy.connected);
        let (all, own) = open.fold((0, 0), |(all, own), proxy| (all + 1, own + usize::from(proxy.spiffe_id == id)));
        if all >= MAX_STREAMS || own >= MAX_STREAMS_OF_ONE {
            return Err(TooMany);
        }
        if entries.by_stream.len() >= MAX_STREAMS {
            // Only proxies that are gone can be in the way here; the one that went first makes room.
            let gone = entries.by_stream.iter().find(|(_, proxy)| !proxy.connected);
            let gone = gone.map(|(stream, _)| *stream);
            gone.and_then(|stream| entries.by_stream.remove(&stream));
        }
        let stream = entries.next;
        entries.next += 1;
        let status = ProxyStatus { spiffe_id: id, kind: kind.to_owned(), connected: true, ..ProxyStatus::default() };
        entries.by_stream.insert(stream, status);
        self.metrics.proxies.get_or_create(&ByKind { kind }).inc();
        Ok(Connected { proxies: self.clone(), stream, kind })
    }

    /// All of them, by SPIFFE ID.
    pub(crate) fn status(&self) -> Vec<ProxyStatus> {
        let mut all: Vec<ProxyStatus> = self.lock().by_stream.values().cloned().collect();
        all.sort_by(|a, b| a.spiffe_id.cmp(&b.spiffe_id));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Each change is one assignment: a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    /// Notes that the proxy runs a snapshot that is still what the control plane would send at this version.
    pub(crate) fn current(&self, version: u64) {
        if let Some(status) = self.proxies.lock().by_stream.get_mut(&self.stream) {
            status.current_version = status.current_version.max(version);
        }
    }

    /// Notes what the proxy says.
    pub(crate) fn report(&self, report: &Report) {
        let cut = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
        let mut entries = self.proxies.lock();
        if let Some(status) = entries.by_stream.get_mut(&self.stream) {
            if report.error.is_empty() {
                status.acked_version = report.version;
            }
            status.last_error = cut(&report.error);
            status.bundle_digest = cut(&report.bundle_digest);
            status.policy_commit = cut(&report.policy_commit);
            status.slice_digest = cut(&report.slice_digest);
        }
        drop(entries);
        let label = ByKind { kind: self.kind };
        match (report.version, report.error.is_empty()) {
            (0, _) => {}
            (_, true) => drop(self.proxies.metrics.acks.get_or_create(&label).inc()),
            (_, false) => drop(self.proxies.metrics.nacks.get_or_create(&label).inc()),
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(status) = self.proxies.lock().by_stream.get_mut(&self.stream) {
            status.connected = false;
        }
        self.proxies.metrics.proxies.get_or_create(&ByKind { kind: self.kind }).dec();
    }
}
