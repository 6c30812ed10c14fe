//! What the control plane did and refused, as records in the audit log.

use serde_json::{Value, json};
use signet_mtls::{SpiffeId, TrustDomain};
use signet_spool::{Kind, Record, Spool};
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::model::ActivePolicy;

/// Writes event records.
#[derive(Clone)]
pub(crate) struct Events {
    spool: Spool,
    producer: String,
    metrics: Metrics,
}

impl Events {
    /// Events of `producer` into `spool`.
    pub(crate) fn new(spool: Spool, producer: &SpiffeId, metrics: Metrics) -> Self {
        Self { spool, producer: producer.to_string(), metrics }
    }

    /// A commit became the policy in force.
    pub(crate) fn policy_activated(&self, active: &ActivePolicy) {
        self.append(Record {
            action: "policy:activate".into(),
            allow: true,
            reason: "accepted".into(),
            policy_commit: active.source.commit.clone(),
            bundle_digest: active.digest.clone(),
            detail: Some(json!({ "signer": active.source.signer }).to_string()),
            ..Record::default()
        });
    }

    /// A commit was refused; `active` stays in force.
    pub(crate) fn policy_refused(&self, commit: &str, reason: &str, detail: &Value, active: Option<&ActivePolicy>) {
        self.append(Record {
            action: "policy:refuse".into(),
            reason: reason.to_owned(),
            policy_commit: commit.to_owned(),
            bundle_digest: active.map(|active| active.digest.clone()).unwrap_or_default(),
            detail: Some(detail.to_string()),
            ..Record::default()
        });
    }

    /// The policy `active` is in force again, because the commit `from` denied what it should not have.
    pub(crate) fn policy_returned(&self, from: &str, active: &ActivePolicy, detail: &Value) {
        self.append(Record {
            action: "policy:return".into(),
            allow: true,
            reason: "lost_calls".into(),
            policy_commit: active.source.commit.clone(),
            bundle_digest: active.digest.clone(),
            detail: Some(json!({ "from": from, "lost": detail }).to_string()),
            ..Record::default()
        });
    }

    /// A linked cluster's exports came or their lease ended.
    pub(crate) fn link(&self, reason: &str, peer: &TrustDomain, detail: &Value) {
        self.append(Record {
            action: "federation:link".into(),
            allow: reason == "connected",
            reason: reason.to_owned(),
            source_spiffe_id: SpiffeId::component(peer, "control").ok().map(|id| id.to_string()),
            detail: Some(detail.to_string()),
            ..Record::default()
        });
    }

    fn append(&self, mut record: Record) {
        record.id = Uuid::now_v7();
        record.time_us = jiff::Timestamp::now().as_microsecond();
        record.kind = Kind::Event;
        record.producer.clone_from(&self.producer);
        record.tls = "none".into();
        // An event tells what happened already: holding it back would not undo it. It is counted and logged instead.
        if let Err(error) = self.spool.append(&record) {
            self.metrics.events_lost.inc();
            tracing::error!(
                %error, action = record.action, reason = record.reason,
                "an event could not be recorded; give the spool more space"
            );
        }
    }
}
