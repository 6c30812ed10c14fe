//! What the control plane did and refused, as records in the audit log.

use serde_json::{Value, json};
use signet_api::control::TapFilter;
use signet_mtls::{SpiffeId, TrustDomain};
use signet_spool::{Kind, Record, Spool, SpoolError};
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

    /// `operator` is about to watch calls.
    ///
    /// # Errors
    /// When it cannot be recorded; then nobody may watch.
    pub(crate) fn tap_began(&self, operator: &SpiffeId, filter: &TapFilter, seconds: u32) -> Result<(), SpoolError> {
        let TapFilter { source, destination, route, path_prefix, decision } = filter;
        let filter = json!({
            "source": source, "destination": destination, "route": route, "path_prefix": path_prefix,
            "decision": decision,
        });
        let record = tapped(operator, "began", &json!({ "filter": filter, "seconds": seconds }));
        self.spool.append(&self.event(record)).map(drop)
    }

    /// `operator` has watched; `dropped` calls fitted and were not shown.
    pub(crate) fn tap_ended(&self, operator: &SpiffeId, shown: u64, dropped: u64) {
        self.append(tapped(operator, "ended", &json!({ "shown": shown, "dropped": dropped })));
    }

    fn event(&self, record: Record) -> Record {
        Record {
            id: Uuid::now_v7(),
            time_us: jiff::Timestamp::now().as_microsecond(),
            kind: Kind::Event,
            producer: self.producer.clone(),
            tls: "none".into(),
            ..record
        }
    }

    fn append(&self, record: Record) {
        let record = self.event(record);
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

fn tapped(operator: &SpiffeId, reason: &str, detail: &Value) -> Record {
    Record {
        action: "mesh:tap".into(),
        allow: true,
        reason: reason.to_owned(),
        source_spiffe_id: Some(operator.to_string()),
        detail: Some(detail.to_string()),
        ..Record::default()
    }
}
