//! From rows of the audit store to what the REST API says.

use signet_audit::query::{self, DecisionRow, EventRow};
use signet_audit::why::{self, FailedClause, NearestPermit};

use super::Row;
use crate::model::{
    self, ContextValue, Decision, Event, NearestPolicy, PolicyText, Recomputation, RecomputationStatus, ShadowOutcome,
    Verdict, Why,
};

fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}

pub(super) fn row(row: DecisionRow) -> Row {
    Row { leaf_index: row.leaf_index, decision: decision(row) }
}

pub(super) fn decision(row: DecisionRow) -> Decision {
    Decision {
        id: row.decision_id.to_string(),
        time: format!("{:.6}", row.time()),
        decision: verdict(row.allowed()),
        log: row.log,
        proxy: row.proxy,
        source: row.source_spiffe_id,
        destination: row.destination_spiffe_id,
        service: row.destination_service,
        action: row.action,
        path: row.path,
        enforcement: row.enforcement,
        policy_ids: row.policy_ids,
        policy_commit: row.policy_commit,
        bundle_digest: row.bundle_digest,
        reason: row.reason,
        source_address: row.source_address,
        tls: row.tls,
        trace_id: row.trace_id,
        latency_us: row.latency_us,
        refusal: row.kind == "refusal",
        count: row.count,
        leaf_index: row.leaf_index,
    }
}

pub(super) fn alert(row: query::Alert) -> model::Alert {
    model::Alert {
        log: row.log,
        cause: row.cause,
        subject: row.subject,
        detail: row.detail,
        since: jiff::Timestamp::from_microsecond(row.since_us).unwrap_or_default().to_string(),
    }
}

pub(super) fn event(row: EventRow) -> Event {
    Event {
        id: row.event_id.to_string(),
        time: format!("{:.6}", jiff::Timestamp::from_microsecond(row.time_us).unwrap_or_default()),
        log: row.log,
        producer: row.producer,
        action: row.action,
        reason: row.reason,
        succeeded: row.succeeded,
        subject: row.subject,
        object: row.object,
        detail: row.detail,
    }
}

pub(super) fn why(why: why::Why) -> Why {
    let shadow = why.row.shadow_allow.map(|allow| ShadowOutcome {
        decision: verdict(allow),
        policy_ids: why.row.shadow_policy_ids.clone().unwrap_or_default(),
    });
    let recomputation = match why.verdict {
        why::Verdict::Agrees => Recomputation { status: RecomputationStatus::Same, detail: None },
        why::Verdict::Disagrees { now } => {
            Recomputation { status: RecomputationStatus::Different, detail: Some(format!("computed again: {now}")) }
        }
        why::Verdict::NotRecomputable { because } => {
            Recomputation { status: RecomputationStatus::NotRecomputable, detail: Some(because) }
        }
    };
    Why {
        decision: decision(why.row),
        context: why.context.into_iter().map(|(name, value)| ContextValue { name, value }).collect(),
        summary: why.explanation,
        recomputation,
        determining: why.determining.into_iter().map(policy).collect(),
        nearest: why.nearest.into_iter().map(nearest).collect(),
        signer: why.signer.filter(|signer| !signer.is_empty()),
        shadow,
        detail: why.detail,
    }
}

fn policy(policy: why::PolicyText) -> PolicyText {
    PolicyText { id: policy.id, path: policy.path, line: policy.line, text: policy.text }
}

fn nearest(permit: NearestPermit) -> NearestPolicy {
    NearestPolicy { policy: policy(permit.policy), failed: permit.failed.into_iter().map(clause).collect() }
}

fn clause(clause: FailedClause) -> model::FailedClause {
    model::FailedClause { text: clause.text, line: clause.line, expected: clause.expected, actual: clause.actual }
}
