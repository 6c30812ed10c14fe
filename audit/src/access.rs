//! The gRPC service `signet.audit.v1.Access`: reading is a record too, and what left is signed for.
//!
//! INVARIANT: an answer means that the record of it is committed; a reader that waits for it has not read in secret.
//! A statement cannot be taken for a checkpoint: a checkpoint's first line is the log's origin (C2SP tlog-checkpoint).

use std::sync::Arc;

use signet_api::audit::access_server::{Access, AccessServer};
use signet_api::audit::{BeginRequest, BeginResponse, EndRequest, EndResponse, SealRequest, SealResponse};
use signet_mtls::grpc::Peer;
use signet_mtls::{SpiffeId, TrustDomain};
use signet_spool::Record;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::note::{LogKey, Statement, StatementKind};
use crate::recorder::{NotRecorded, Recorder};
use crate::store::Store;

/// Longest detail, and name of a person.
const MAX_DETAIL: usize = 2_000;
const MAX_NAME: usize = 256;
/// Why someone reads.
const PURPOSES: [&str; 9] = ["query", "tail", "why", "verify", "export", "evidence", "stream", "replay", REVIEW];
/// Someone looked through what happened; the next review is due from then on.
const REVIEW: &str = "review";
/// Which components may read for people.
const READERS: [&str; 3] = ["operator", "auditor", "ui"];

/// The service.
#[derive(Clone)]
pub(crate) struct AccessService {
    trust_domain: TrustDomain,
    key: Arc<LogKey>,
    recorder: Recorder,
    store: Store,
}

impl AccessService {
    pub(crate) fn new(trust_domain: TrustDomain, key: Arc<LogKey>, recorder: Recorder, store: Store) -> Self {
        Self { trust_domain, key, recorder, store }
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
        self.recorder.record(record).await.map_err(|error| match error {
            NotRecorded::Prepare(_) => Status::unavailable("no random numbers; try again"),
            NotRecorded::Stopping => Status::unavailable("the audit service is stopping; try again"),
            NotRecorded::Refused(_) => {
                Status::internal("the access could not be recorded; see the audit service's log")
            }
        })
    }

    /// What is recorded of an access: `reason` is `began`, `answered`, `ended` or `sealed`.
    fn event(&self, reader: &SpiffeId, purpose: &str, reason: &str, detail: &serde_json::Value) -> Record {
        let event = self.recorder.event(format!("audit:{purpose}"), reason, detail);
        Record { source_spiffe_id: Some(reader.to_string()), ..event }
    }
}

fn known(purpose: &str) -> Result<(), Status> {
    if PURPOSES.contains(&purpose) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("purpose must be one of {}", PURPOSES.join(", "))))
}

fn parse(access_id: &str) -> Result<Uuid, Status> {
    access_id.parse().map_err(|_| Status::invalid_argument("access_id is not a UUID"))
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
        let BeginRequest { purpose, detail, on_behalf_of, records } = request.into_inner();
        known(&purpose)?;
        fits("detail", &detail, MAX_DETAIL)?;
        fits("on_behalf_of", &on_behalf_of, MAX_NAME)?;
        let detail: serde_json::Value = match detail.as_str() {
            "" => serde_json::Value::Null,
            text => serde_json::from_str(text).map_err(|_| Status::invalid_argument("detail is not JSON"))?,
        };
        let told = serde_json::json!({
            "purpose": purpose, "asked": detail, "on_behalf_of": on_behalf_of, "records": records,
        });
        let reason = if records.is_some() { "answered" } else { "began" };
        let access_id = self.record(self.event(&reader, &purpose, reason, &told)).await?;
        if purpose == REVIEW {
            self.store.put_review(access_id, reader.as_str()).await.map_err(|error| {
                tracing::warn!(error = signet_observe::error_chain(&error), "could not note a review");
                Status::unavailable("the audit store is away; review again")
            })?;
        }
        Ok(Response::new(BeginResponse { access_id: access_id.to_string() }))
    }

    async fn end(&self, request: Request<EndRequest>) -> Result<Response<EndResponse>, Status> {
        let reader = self.reader(&request)?;
        let EndRequest { access_id, purpose, records, on_behalf_of } = request.into_inner();
        known(&purpose)?;
        fits("on_behalf_of", &on_behalf_of, MAX_NAME)?;
        let access = parse(&access_id)?;
        let told = serde_json::json!({ "access": access, "records": records, "on_behalf_of": on_behalf_of });
        self.record(self.event(&reader, &purpose, "ended", &told)).await?;
        Ok(Response::new(EndResponse {}))
    }

    async fn seal(&self, request: Request<SealRequest>) -> Result<Response<SealResponse>, Status> {
        let reader = self.reader(&request)?;
        let SealRequest { access_id, kind, manifest_sha256, records, on_behalf_of } = request.into_inner();
        fits("on_behalf_of", &on_behalf_of, MAX_NAME)?;
        let access = parse(&access_id)?;
        let digest = <[u8; 32]>::try_from(manifest_sha256)
            .map_err(|_| Status::invalid_argument("manifest_sha256 must have 32 bytes"))?;
        let kind =
            StatementKind::named(&kind).ok_or_else(|| Status::invalid_argument("kind must be export or evidence"))?;
        let statement = Statement::new(kind, digest);
        let detail = serde_json::json!({
            "access": access, "manifest": statement.digest_text(), "records": records, "on_behalf_of": on_behalf_of,
        });
        // Recorded first: a signature that is out there has its record.
        let event_id = self.record(self.event(&reader, kind.name(), "sealed", &detail)).await?.to_string();
        Ok(Response::new(SealResponse { note: self.key.sign_statement(&statement), event_id }))
    }
}
