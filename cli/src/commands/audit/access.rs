//! Reading is a record too: says to each log's audit service what is about to be read, and has it sign what left.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use signet_api::audit::{BeginRequest, SealRequest};
use signet_audit::query::{self, Stretch, TailCursor};
use signet_audit_export::export::Access;

use super::failure;
use crate::context::{Cluster, Context};
use crate::failure::{Exit, Failure};
use crate::rpc::{self, Operator};

/// How long a checkpoint may take to cover what was committed before; one is signed each second.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// Accesses that have begun, one in each log that is read.
pub(super) struct Accesses<'a> {
    begun: BTreeMap<String, Begun<'a>>,
}

struct Begun<'a> {
    cluster: &'a Cluster,
    operator: Operator,
    access_id: String,
}

impl<'a> Accesses<'a> {
    /// Records in each log, or in that of cluster `only`, that someone reads. Nothing may be read when this fails.
    pub(super) async fn begin(
        context: &'a Context,
        only: Option<&str>,
        purpose: &str,
        detail: &serde_json::Value,
    ) -> Result<Self, Failure> {
        let mut begun = BTreeMap::new();
        for (_, cluster, operator) in Operator::of_each(context, only).await? {
            let request =
                BeginRequest { purpose: purpose.to_owned(), detail: detail.to_string(), on_behalf_of: String::new() };
            let answer = operator.access().begin(request).await.map_err(|status| {
                rpc::failure(
                    "the audit service did not record this access, so nothing is read",
                    &cluster.audit,
                    &status,
                )
            })?;
            let access_id = answer.into_inner().access_id;
            begun.insert(cluster.log_origin.clone(), Begun { cluster, operator, access_id });
        }
        Ok(Self { begun })
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
    pub(super) async fn stretches(&self, pool: &sqlx::PgPool, after: &TailCursor) -> Result<Vec<Stretch>, Failure> {
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
