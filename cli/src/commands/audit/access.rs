//! Reading is a record too: says to each log's audit service what is about to be read, and has it sign what left.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use signet_api::audit::{BeginRequest, BeginResponse, EndRequest, SealRequest};
use signet_audit::query::{self, Stretch, TailCursor};
use signet_audit_export::export::Access;

use super::failure;
use crate::context::{Cluster, Context};
use crate::failure::{Exit, Failure};
use crate::rpc::{self, Operator};
use tonic::{Code, Status};

/// How long a checkpoint may take to cover what was committed before; one is signed each second.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);
/// How long an audit service that is being started again may take to record an access.
const RECORD_TIMEOUT: Duration = Duration::from_secs(8);

/// How many records of each log an answer holds, by the log's origin.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Counts rows by the log that each names.
pub(crate) fn counts<'r>(logs: impl Iterator<Item = &'r str>) -> Counts {
    let mut counts = Counts::new();
    for log in logs {
        *counts.entry(log.to_owned()).or_default() += 1;
    }
    counts
}

/// Accesses that have begun, one in each log that is read.
pub(crate) struct Accesses<'a> {
    begun: BTreeMap<String, Begun<'a>>,
}

struct Begun<'a> {
    cluster: &'a Cluster,
    operator: Operator,
    purpose: &'static str,
    access_id: String,
}

impl<'a> Accesses<'a> {
    /// Records in each log, or in that of cluster `only`, that someone reads. Nothing may be read when this fails.
    pub(in crate::commands) async fn begin(
        context: &'a Context,
        only: Option<&str>,
        purpose: &'static str,
        detail: &serde_json::Value,
    ) -> Result<Self, Failure> {
        Self::record(context, only, purpose, detail, None).await
    }

    /// Records in each log, or in that of cluster `only`, that someone was answered with so many records of it. Nothing
    /// may be shown when this fails.
    pub(crate) async fn answered(
        context: &'a Context,
        only: Option<&str>,
        purpose: &'static str,
        detail: &serde_json::Value,
        counts: &Counts,
    ) -> Result<(), Failure> {
        let accesses = Self::record(context, only, purpose, detail, Some(counts)).await?;
        match counts.keys().find(|log| !accesses.begun.contains_key(*log)) {
            None => Ok(()),
            Some(log) => {
                Err(Failure::failed(format!("the context names no audit service of log `{log}`, so nothing is shown"))
                    .at("clusters, in the context file")
                    .next("give a context with that cluster, or read one log with --cluster"))
            }
        }
    }

    async fn record(
        context: &'a Context,
        only: Option<&str>,
        purpose: &'static str,
        detail: &serde_json::Value,
        counts: Option<&Counts>,
    ) -> Result<Self, Failure> {
        let mut begun = BTreeMap::new();
        for (_, cluster, operator) in Operator::of_each(context, only).await? {
            let request = BeginRequest {
                purpose: purpose.to_owned(),
                detail: detail.to_string(),
                on_behalf_of: String::new(),
                records: counts.map(|counts| counts.get(&cluster.log_origin).copied().unwrap_or_default()),
            };
            let answer = patiently(&operator, &request).await.map_err(|status| {
                rpc::failure(
                    "the audit service did not record this access, so nothing is read",
                    &cluster.audit,
                    &status,
                )
            })?;
            begun.insert(cluster.log_origin.clone(), Begun { cluster, operator, purpose, access_id: answer.access_id });
        }
        Ok(Self { begun })
    }

    /// Records how many records of each log were read.
    pub(in crate::commands) async fn end(&self, counts: &Counts) -> Result<(), Failure> {
        for (log, begun) in &self.begun {
            let request = EndRequest {
                access_id: begun.access_id.clone(),
                purpose: begun.purpose.to_owned(),
                records: counts.get(log).copied().unwrap_or_default(),
                on_behalf_of: String::new(),
            };
            let mut client = begun.operator.access();
            within(client.end(request)).await.map_err(|status| {
                rpc::failure("the audit service did not record how much was read", &begun.cluster.audit, &status)
            })?;
        }
        Ok(())
    }

    /// As a manifest names them.
    pub(super) fn named(&self) -> Vec<Access> {
        let named =
            |(log, begun): (&String, &Begun<'_>)| Access { log: log.clone(), access_id: begun.access_id.clone() };
        self.begun.iter().map(named).collect()
    }

    /// Who reads, by SPIFFE ID; one for each cluster.
    pub(super) fn by(&self) -> String {
        let ids: Vec<String> = self.begun.values().filter_map(|begun| begun.operator.id()).collect();
        ids.join(", ")
    }

    /// What the logs have now, once checkpoints cover it, from where `after` ends. Without a checkpoint in time, what
    /// the newest one covers, with a warning.
    pub(in crate::commands) async fn stretches(
        &self,
        pool: &sqlx::PgPool,
        after: &TailCursor,
    ) -> Result<Vec<Stretch>, Failure> {
        let committed = TailCursor::now(pool).await.map_err(|error| failure(&error))?;
        let deadline = tokio::time::Instant::now() + CHECKPOINT_TIMEOUT;
        loop {
            let mut stretches = query::stretches(pool, None, after).await.map_err(|error| failure(&error))?;
            stretches.retain(|stretch| self.begun.contains_key(&stretch.log));
            let late: Vec<String> = self
                .begun
                .keys()
                .filter(|log| {
                    let signed =
                        stretches.iter().find(|stretch| stretch.log == **log).map_or(0, |stretch| stretch.size);
                    signed < committed.of(log).unwrap_or(0)
                })
                .cloned()
                .collect();
            if late.is_empty() {
                return Ok(stretches);
            }
            if tokio::time::Instant::now() >= deadline {
                eprintln!("warning: no checkpoint covers the newest records of {}; they are left out", late.join(", "));
                return Ok(stretches);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Has each audit service record what left and sign for its manifest; gives one note with all signatures.
    pub(super) async fn seal(&self, kind: &str, manifest: &[u8], records: u64) -> Result<String, Failure> {
        let mut text = String::new();
        let mut signatures = String::new();
        for begun in self.begun.values() {
            let request = SealRequest {
                access_id: begun.access_id.clone(),
                kind: kind.to_owned(),
                manifest_sha256: digest(&SHA256, manifest).as_ref().to_vec(),
                records,
                on_behalf_of: String::new(),
            };
            let answer = begun.operator.access().seal(request).await.map_err(|status| {
                rpc::failure("the audit service did not sign for the manifest", &begun.cluster.audit, &status)
            })?;
            let note = answer.into_inner().note;
            let (body, signature) = note.split_once("\n\n").ok_or_else(|| {
                Failure::new(Exit::Failed, "the audit service's note has no signature")
                    .at(&begun.cluster.audit)
                    .next("compare the versions of `signet` and of the audit service")
            })?;
            text = format!("{body}\n");
            signatures.push_str(signature);
        }
        Ok(format!("{text}\n{signatures}"))
    }
}

/// Begins an access; an audit service that cannot be reached is asked again for a moment.
async fn patiently(operator: &Operator, request: &BeginRequest) -> Result<BeginResponse, Status> {
    let deadline = tokio::time::Instant::now() + RECORD_TIMEOUT;
    loop {
        match within(operator.access().begin(request.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(status) if status.code() == Code::Unavailable && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            Err(status) => return Err(status),
        }
    }
}

/// An answer in time.
async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(RECORD_TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", RECORD_TIMEOUT.as_secs()))),
    }
}
