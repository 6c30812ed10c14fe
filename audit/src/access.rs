//! The gRPC service `signet.audit.v1.Access`: reading is a record too, and what left is signed for.
//!
//! INVARIANT: an answer means that the record of it is committed; a reader that waits for it has not read in secret.
//! A statement cannot be taken for a checkpoint: a checkpoint's first line is the log's origin (C2SP tlog-checkpoint).

use std::sync::Arc;

use signet_api::audit::access_server::{Access, AccessServer};
use signet_api::audit::{BeginRequest, BeginResponse, SealRequest, SealResponse};
use signet_mtls::grpc::Peer;
use signet_mtls::{SpiffeId, TrustDomain};
use signet_spool::{Kind, Record};
use tokio::sync::{Mutex, oneshot};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::note::{LogKey, Statement, StatementKind};
use crate::sequencer::{Queue, Work, now_us};
use crate::store::compact::Prepared;

/// Longest detail, and name of a person.
const MAX_DETAIL: usize = 2_000;
const MAX_NAME: usize = 256;
/// Why someone reads.
const PURPOSES: [&str; 7] = ["query", "tail", "why", "verify", "export", "evidence", "stream"];
/// Which components may read for people.
const READERS: [&str; 3] = ["operator", "auditor", "ui"];

/// The service, with an epoch of its own as a producer.
#[derive(Clone)]
pub(crate) struct AccessService {
    trust_domain: TrustDomain,
    producer: Arc<str>,
    key: Arc<LogKey>,
    queue: Queue,
    epoch: Uuid,
    /// The last sequence that was committed. Held while a record is on its way, so that sequences have no holes.
    last: Arc<Mutex<u64>>,
}

impl AccessService {
    /// `component` is the SPIFFE ID under which the service records.
    pub(crate) fn new(trust_domain: TrustDomain, component: &str, key: Arc<LogKey>, queue: Queue) -> Self {
        let last = Arc::new(Mutex::new(0));
        Self { trust_domain, producer: component.into(), key, queue, epoch: Uuid::now_v7(), last }
    }

    pub(crate) fn into_server(self) -> AccessServer<Self> {
        AccessServer::new(self).max_decoding_message_size(64 * 1024)
    }

    fn reader<T>(&self, request: &Request<T>) -> Result<SpiffeId, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.clone());
        let peer = peer.ok_or_else(|| Status::unauthenticated("present an SVID"))?;
        let may = peer.trust_domain() == &self.trust_domain
            && peer.as_component().is_some_and(|name| READERS.contains(&name));
        if !may {
            tracing::warn!(%peer, "refused a reader: not one of this trust domain");
            return Err(Status::permission_denied(
                "only operators, auditors and the dashboard of this trust domain read",
            ));
        }
        Ok(peer)
    }

    /// Commits a record and gives its id.
    async fn record(&self, record: Record) -> Result<Uuid, Status> {
        let id = record.id;
        let entry = Prepared::of(&record).map_err(|_| Status::unavailable("no random numbers; try again"))?;
        let mut last = self.last.lock().await;
        let (reply, outcome) = oneshot::channel();
        let work = Work {
            producer: Arc::clone(&self.producer),
            epoch: self.epoch,
            first_sequence: *last + 1,
            entries: vec![entry],
            closing: false,
            clock_offset_us: 0,
            reply,
        };
        let stopping = || Status::unavailable("the audit service is stopping; try again");
        self.queue.put(work).await.ok_or_else(stopping)?;
        match outcome.await {
            Ok(Ok(committed)) => {
                *last = committed.last;
                Ok(id)
            }
            Ok(Err(refused)) => {
                tracing::error!(error = %refused, "could not record an access");
                Err(Status::internal("the access could not be recorded; see the audit service's log"))
            }
            Err(_) => Err(stopping()),
        }
    }

    fn event(&self, reader: &SpiffeId, action: &str, detail: serde_json::Value) -> Record {
        Record {
            id: Uuid::now_v7(),
            time_us: now_us(),
            kind: Kind::Event,
            producer: self.producer.to_string(),
            source_spiffe_id: Some(reader.to_string()),
            action: action.to_owned(),
            allow: true,
            tls: "none".to_owned(),
            detail: Some(detail.to_string()),
            ..Record::default()
        }
    }
}

/// Text of a reader that is short and has no control characters.
fn fits(what: &str, text: &str, limit: usize) -> Result<(), Status> {
    if text.len() > limit || text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("{what} is too long or has control characters")));
    }
    Ok(())
}

#[tonic::async_trait]
impl Access for AccessService {
    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        let reader = self.reader(&request)?;
        let BeginRequest { purpose, detail, on_behalf_of } = request.into_inner();
        if !PURPOSES.contains(&purpose.as_str()) {
            return Err(Status::invalid_argument(format!("purpose must be one of {}", PURPOSES.join(", "))));
        }
        fits("detail", &detail, MAX_DETAIL)?;
        fits("on_behalf_of", &on_behalf_of, MAX_NAME)?;
        let detail: serde_json::Value = match detail.as_str() {
            "" => serde_json::Value::Null,
            text => serde_json::from_str(text).map_err(|_| Status::invalid_argument("detail is not JSON"))?,
        };
        let detail = serde_json::json!({ "purpose": purpose, "asked": detail, "on_behalf_of": on_behalf_of });
        let action = format!("audit:{purpose}");
        let record = Record { reason: "began".to_owned(), ..self.event(&reader, &action, detail) };
        let access_id = self.record(record).await?.to_string();
        Ok(Response::new(BeginResponse { access_id }))
    }

    async fn seal(&self, request: Request<SealRequest>) -> Result<Response<SealResponse>, Status> {
        let reader = self.reader(&request)?;
        let SealRequest { access_id, kind, manifest_sha256, records, on_behalf_of } = request.into_inner();
        fits("on_behalf_of", &on_behalf_of, MAX_NAME)?;
        let access: Uuid = access_id.parse().map_err(|_| Status::invalid_argument("access_id is not a UUID"))?;
        let digest = <[u8; 32]>::try_from(manifest_sha256)
            .map_err(|_| Status::invalid_argument("manifest_sha256 must have 32 bytes"))?;
        let kind =
            StatementKind::named(&kind).ok_or_else(|| Status::invalid_argument("kind must be export or evidence"))?;
        let statement = Statement::new(kind, digest);
        let detail = serde_json::json!({
            "access": access, "manifest": statement.digest_text(), "records": records, "on_behalf_of": on_behalf_of,
        });
        let action = format!("audit:{}", kind.name());
        let record = Record { reason: "sealed".to_owned(), ..self.event(&reader, &action, detail) };
        // Recorded first: a signature that is out there has its record.
        let event_id = self.record(record).await?.to_string();
        Ok(Response::new(SealResponse { note: self.key.sign_statement(&statement), event_id }))
    }
}
