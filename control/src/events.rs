//! What the control plane did and refused, as records in the audit log.

use serde_json::{Value, json};
use signet_api::control::TapFilter;
use signet_mtls::{SpiffeId, TrustDomain};
use signet_spool::{Kind, Record, Spool, SpoolError};
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::model::{ActivePolicy, Given};

/// A message is kept up to this many characters.
const MAX_MESSAGE: usize = 1_000;

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

    /// A grant for an emergency is about to be in force; `false`: nothing was recorded, so it must not be.
    #[must_use]
    pub(crate) fn break_glass_granted(&self, given: &Given) -> bool {
        self.append(Record {
            action: "break_glass:grant".into(),
            allow: true,
            reason: "signed".into(),
            source_spiffe_id: Some(given.granted_by.clone()),
            detail: Some(json!({ "grant": given.grant.document, "approvers": given.grant.approvers }).to_string()),
            ..Record::default()
        })
    }

    /// What an operator brought was refused.
    pub(crate) fn break_glass_refused(&self, operator: &str, reason: &str, message: &str) {
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        self.append(Record {
            action: "break_glass:refuse".into(),
            reason: reason.to_owned(),
            source_spiffe_id: Some(operator.to_owned()),
            detail: Some(json!({ "message": message }).to_string()),
            ..Record::default()
        });
    }

    /// A grant ended: `over`, `revoked` (by whom and why), or `unkept`.
    pub(crate) fn break_glass_ended(&self, given: &Given, reason: &str, by: Option<(&str, &str)>) {
        let document = &given.grant.document;
        self.append(Record {
            action: "break_glass:end".into(),
            allow: true,
            reason: reason.to_owned(),
            source_spiffe_id: by.map(|(operator, _)| operator.to_owned()),
            detail: Some(
                json!({ "id": document.id, "ticket": document.ticket, "why": by.map(|(_, why)| why) }).to_string(),
            ),
            ..Record::default()
        });
    }

    /// A grant of an earlier run is over, or is no grant any more.
    pub(crate) fn break_glass_dropped(&self, reason: &str, message: &str) {
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        self.append(Record {
            action: "break_glass:end".into(),
            allow: true,
            reason: reason.to_owned(),
            detail: Some(json!({ "message": message }).to_string()),
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

    fn append(&self, record: Record) -> bool {
        let record = self.event(record);
        // Most events tell what happened already: holding them back would not undo it. They are counted and logged instead.
        let kept = self.spool.append(&record);
        if let Err(error) = &kept {
            self.metrics.events_lost.inc();
            tracing::error!(
                %error, action = record.action, reason = record.reason,
                "an event could not be recorded; give the spool more space"
            );
        }
        kept.is_ok()
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
