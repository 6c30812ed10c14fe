//! The gRPC service `signet.audit.v1.Ingest`: who may send, what a batch must be, and answers in order.
//!
//! Untrusted until checked: every record is decoded strictly, and its producer must be the peer. A bad batch ends its
//! stream with a reason and stops no other.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt as _};
use prometheus_client::metrics::gauge::Gauge;
use signet_api::audit::ingest_server::{Ingest, IngestServer};
use signet_api::audit::{Ack, Batch, PutBundleRequest, PutBundleResponse, SpoolState};
use signet_mtls::grpc::Peer;
use signet_mtls::{SpiffeId, TrustDomain};
use signet_policy::BundleSource;
use signet_spool::{MAX_CANONICAL_BYTES, tag};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::faults::{Cause, Faults};
use crate::metrics::Metrics;
use crate::sequencer::{Committed, Outcome, Queue, Work, now_us};
use crate::store::Store;
use crate::store::compact::Prepared;

/// Most records of a batch.
const MAX_ENTRIES: usize = 10_000;
/// Most bytes of a message.
const MAX_MESSAGE: usize = 40 * 1024 * 1024;
/// Batches of one stream that wait for their commit.
const IN_FLIGHT: usize = 4;
/// Openings of one record, and bytes of them.
const MAX_OPENINGS: usize = 256;
const MAX_OPENED: usize = 64 * 1024;
/// Files and bytes of a policy bundle.
const MAX_BUNDLE: (usize, usize) = (20_000, 32 * 1024 * 1024);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct IngestService {
    trust_domain: TrustDomain,
    store: Store,
    queue: Queue,
    metrics: Metrics,
    faults: Faults,
}

impl IngestService {
    pub(crate) fn new(trust_domain: TrustDomain, store: Store, queue: Queue, metrics: Metrics, faults: Faults) -> Self {
        Self { trust_domain, store, queue, metrics, faults }
    }

    pub(crate) fn into_server(self) -> IngestServer<Self> {
        IngestServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// Which components of a trust domain make records.
const PRODUCERS: [&str; 5] = ["gateway", "identity", "control", "ui", "audit"];

/// Whether this peer may send records to the log of `trust_domain`.
pub(crate) fn may_send(trust_domain: &TrustDomain, peer: &SpiffeId) -> bool {
    peer.trust_domain() == trust_domain
        && (peer.as_proxy().is_some() || peer.as_component().is_some_and(|name| PRODUCERS.contains(&name)))
}

fn peer_of<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.clone());
    peer.ok_or_else(|| Status::unauthenticated("present an SVID"))
}

/// Why a batch is not taken as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBatch {
    #[error("the epoch has {0} bytes, it must be a UUID of 16")]
    Epoch(usize),
    #[error("first_sequence {0} is out of range")]
    Sequence(u64),
    #[error("{0} entries are too many for a batch")]
    TooMany(usize),
    #[error("entry {sequence} has {bytes} bytes, allowed are {MAX_CANONICAL_BYTES}")]
    TooLong { sequence: u64, bytes: usize },
    #[error("the openings of entry {0} are malformed or too many")]
    Openings(u64),
    #[error("entry {sequence} is not a record: {why}")]
    Record { sequence: u64, why: String },
    #[error("entry {sequence} names producer `{named}`, the stream is of `{peer}`")]
    Producer { sequence: u64, named: String, peer: String },
}

/// Checks a batch of `peer` and prepares its records.
pub(crate) fn check(peer: &str, batch: Batch) -> Result<(Uuid, u64, Vec<Prepared>), BadBatch> {
    let epoch = Uuid::from_slice(&batch.epoch).map_err(|_| BadBatch::Epoch(batch.epoch.len()))?;
    if batch.entries.len() > MAX_ENTRIES {
        return Err(BadBatch::TooMany(batch.entries.len()));
    }
    let first = batch.first_sequence;
    let last = first.checked_add(batch.entries.len() as u64);
    if first == 0 || last.is_none_or(|last| i64::try_from(last).is_err()) {
        return Err(BadBatch::Sequence(first));
    }
    let mut prepared = Vec::with_capacity(batch.entries.len());
    for (sequence, entry) in (first..).zip(batch.entries) {
        if entry.canonical.len() > MAX_CANONICAL_BYTES {
            return Err(BadBatch::TooLong { sequence, bytes: entry.canonical.len() });
        }
        let opened: usize = entry.openings.iter().map(|opening| opening.value.len()).sum();
        if entry.openings.len() > MAX_OPENINGS || opened > MAX_OPENED {
            return Err(BadBatch::Openings(sequence));
        }
        let openings = crate::wire::openings(entry.openings).map_err(|_| BadBatch::Openings(sequence))?;
        let entry = Prepared::check(entry.canonical, &openings)
            .map_err(|error| BadBatch::Record { sequence, why: error.to_string() })?;
        let named = entry.fields().text(tag::PRODUCER).unwrap_or_default();
        if named != peer {
            return Err(BadBatch::Producer { sequence, named: named.to_owned(), peer: peer.to_owned() });
        }
        prepared.push(entry);
    }
    Ok((epoch, first, prepared))
}

type Acks = Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for IngestService {
    type StreamStream = Acks;

    async fn stream(&self, request: Request<Streaming<Batch>>) -> Result<Response<Acks>, Status> {
        let peer = peer_of(&request)?;
        if !may_send(&self.trust_domain, &peer) {
            tracing::warn!(%peer, "refused a stream: this peer makes no records of this trust domain");
            return Err(Status::permission_denied("only components of this trust domain send records"));
        }
        let (acks, answers) = mpsc::channel(IN_FLIGHT);
        let stream = request.into_inner();
        let (queue, metrics, faults) = (self.queue.clone(), self.metrics.clone(), self.faults.clone());
        // Runs inside the response: it ends with the stream and needs no task of its own.
        let work = async move {
            let _counted = Counted::new(&metrics.streams);
            receive(Arc::from(peer.as_str()), stream, queue, &metrics, &faults, acks).await;
        };
        Ok(Response::new(Box::pin(driven(work, answers))))
    }

    async fn put_bundle(&self, request: Request<PutBundleRequest>) -> Result<Response<PutBundleResponse>, Status> {
        let peer = peer_of(&request)?;
        if peer.trust_domain() != &self.trust_domain || peer.as_component() != Some("control") {
            return Err(Status::permission_denied("only the control plane of this trust domain keeps bundles here"));
        }
        let PutBundleRequest { commit, digest, files, signer } = request.into_inner();
        let bytes: usize = files.iter().map(|file| file.path.len() + file.content.len()).sum();
        if files.len() > MAX_BUNDLE.0 || bytes > MAX_BUNDLE.1 {
            return Err(Status::invalid_argument("the bundle is too large"));
        }
        let texts =
            [&commit, &digest, &signer].into_iter().chain(files.iter().flat_map(|file| [&file.path, &file.content]));
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(Status::invalid_argument("the bundle holds a NUL character"));
        }
        let count = files.len();
        let source =
            BundleSource { commit, signer, files: files.into_iter().map(|file| (file.path, file.content)).collect() };
        if source.files.len() != count {
            return Err(Status::invalid_argument("the bundle names a file twice"));
        }
        let computed = source.digest();
        if computed != digest {
            return Err(Status::invalid_argument(format!("the bundle's digest is {computed}, not the named one")));
        }
        self.store.put_bundle(&digest, &source).await.map_err(|error| {
            tracing::warn!(error = signet_observe::error_chain(&error), "could not keep a bundle");
            Status::unavailable("the audit store is away; send the bundle again")
        })?;
        tracing::info!(digest, commit = source.commit, files = count, "kept a policy bundle");
        Ok(Response::new(PutBundleResponse {}))
    }
}

/// What a producer says of its spool. A full one counts for a while after it has space again: a spool is full when its
/// producer cannot tell.
fn note_spool(faults: &Faults, peer: &str, epoch: Uuid, state: SpoolState) {
    match state {
        SpoolState::TakesRecords => {}
        SpoolState::Full => faults.report(Cause::Spool, peer, epoch, "records met a full spool"),
        SpoolState::Failed => {
            faults.report(Cause::Spool, peer, epoch, "a write or fsync failed; it takes no records until a restart");
        }
    }
}

fn rejection(epoch: Vec<u8>, error: String) -> Ack {
    Ack { epoch, committed: 0, error, closed: false }
}

/// The answers, while `work` makes them.
fn driven(
    work: impl Future<Output = ()> + Send + 'static,
    answers: mpsc::Receiver<Result<Ack, Status>>,
) -> impl Stream<Item = Result<Ack, Status>> + Send {
    let work = futures::stream::once(work).filter_map(|()| futures::future::ready(None));
    futures::stream::select(tokio_stream::wrappers::ReceiverStream::new(answers), work)
}

/// A stream that is counted until it is dropped, however it ends.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

type Pending = Pin<Box<dyn Future<Output = (Uuid, Option<Outcome>)> + Send>>;

/// Takes batches until the stream ends; answers each in order once it is committed.
async fn receive(
    peer: Arc<str>,
    mut stream: Streaming<Batch>,
    queue: Queue,
    metrics: &Metrics,
    faults: &Faults,
    acks: mpsc::Sender<Result<Ack, Status>>,
) {
    let mut pending: FuturesOrdered<Pending> = FuturesOrdered::new();
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            Some((epoch, outcome)) = pending.next() => {
                let ack = match outcome {
                    Some(Ok(Committed { last, closed })) => {
                        faults.works(Cause::Ingestion, &peer, epoch);
                        Ack { epoch: epoch.as_bytes().to_vec(), committed: last, error: String::new(), closed }
                    }
                    Some(Err(refused)) => {
                        let error = refused.to_string();
                        faults.report(Cause::Ingestion, &peer, epoch, error.as_str());
                        let _ = acks.send(Ok(rejection(epoch.as_bytes().to_vec(), error))).await;
                        return;
                    }
                    // The service is stopping: the producer delivers again to its successor.
                    None => {
                        let _ = acks.send(Err(Status::unavailable("the audit service is stopping"))).await;
                        return;
                    }
                };
                if acks.send(Ok(ack)).await.is_err() {
                    return;
                }
            }
            message = stream.message(), if open && pending.len() < IN_FLIGHT => match message {
                Ok(Some(batch)) => {
                    let offset = batch.sent_at_us.saturating_sub(now_us());
                    let (closing, named, spool) = (batch.closing, batch.epoch.clone(), batch.spool());
                    match check(&peer, batch) {
                        Ok((epoch, first_sequence, entries)) => {
                            note_spool(faults, &peer, epoch, spool);
                            let (reply, outcome) = oneshot::channel();
                            let producer = Arc::clone(&peer);
                            let work =
                                Work { producer, epoch, first_sequence, entries, closing, clock_offset_us: offset, reply };
                            if queue.put(work).await.is_none() {
                                let _ = acks.send(Err(Status::unavailable("the audit service is stopping"))).await;
                                return;
                            }
                            pending.push_back(Box::pin(async move { (epoch, outcome.await.ok()) }));
                        }
                        Err(bad) => {
                            metrics.refused_batches.inc();
                            tracing::warn!(%peer, error = %bad, "refused a batch");
                            let epoch = Uuid::from_slice(&named).unwrap_or_default();
                            faults.report(Cause::Ingestion, &peer, epoch, bad.to_string());
                            let _ = acks.send(Ok(rejection(named, bad.to_string()))).await;
                            return;
                        }
                    }
                }
                Ok(None) => open = false,
                Err(status) => {
                    tracing::debug!(%peer, %status, "a producer's stream broke");
                    return;
                }
            },
            else => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_recording_components_of_the_own_trust_domain_may_send() {
        let own: TrustDomain = "east.bank.example".parse().unwrap();
        for (id, may) in [
            ("spiffe://east.bank.example/ns/bank/proxy/web", true),
            ("spiffe://east.bank.example/signet/gateway", true),
            ("spiffe://east.bank.example/signet/control", true),
            ("spiffe://east.bank.example/signet/operator", false),
            ("spiffe://east.bank.example/ns/bank/sa/web", false),
            ("spiffe://west.bank.example/ns/bank/proxy/web", false),
            ("spiffe://west.bank.example/signet/gateway", false),
        ] {
            assert_eq!(may_send(&own, &id.parse().unwrap()), may, "{id}");
        }
    }

    #[test]
    fn malformed_batches_are_refused_with_what_is_wrong() {
        let epoch = Uuid::from_u128(1).as_bytes().to_vec();
        let batch = Batch { epoch, first_sequence: 1, ..Batch::default() };
        assert!(check("p", batch.clone()).is_ok());
        assert!(matches!(check("p", Batch { epoch: vec![1], ..batch.clone() }), Err(BadBatch::Epoch(1))));
        assert!(matches!(check("p", Batch { first_sequence: 0, ..batch.clone() }), Err(BadBatch::Sequence(0))));
        assert!(matches!(check("p", Batch { first_sequence: u64::MAX, ..batch.clone() }), Err(BadBatch::Sequence(_))));
        let garbage = signet_api::audit::Entry { canonical: b"garbage".to_vec(), openings: Vec::new() };
        let bad = Batch { entries: vec![garbage], ..batch };
        assert!(matches!(check("p", bad), Err(BadBatch::Record { sequence: 1, .. })));
    }
}
