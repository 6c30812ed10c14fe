//! A row of `records` beside the record that its bytes are.

use signet_spool::Record;

use crate::query::{TIME_RANGE_US, openings_of, without_nul};
use crate::sequencer::{MAX_TRACE_ID, count, enforcement, joined, kind};

/// Every row of a log, in leaf order, with what its numbers mean.
pub(super) const ROWS: &str = "SELECT r.leaf_index, r.id, r.allow, (extract(epoch FROM r.time) * 1000000)::bigint AS time_us, \
     e.producer, s.value AS source, d.value AS destination, v.value AS service, a.value AS action, p.value AS policies, \
     c.value AS commit, g.value AS digest, n.value AS reason, t.value AS tls, sp.value AS shadow_policies, r.shadow_allow, \
     r.kind, r.enforcement, r.count, r.latency_us, r.path, r.trace_id, r.detail, r.canonical, o.opened, o.source_address, \
     o.path AS personal_path \
     FROM signet.records r \
     LEFT JOIN signet.epochs e ON e.id = r.epoch_id AND e.log_id = r.log_id \
     LEFT JOIN signet.identities s ON s.id = r.source_id \
     LEFT JOIN signet.identities d ON d.id = r.destination_id \
     LEFT JOIN signet.services v ON v.id = r.service_id \
     LEFT JOIN signet.labels a ON a.id = r.action_id \
     LEFT JOIN signet.policy_sets p ON p.id = r.policy_set_id \
     LEFT JOIN signet.labels c ON c.id = r.commit_id \
     LEFT JOIN signet.labels g ON g.id = r.digest_id \
     LEFT JOIN signet.labels n ON n.id = r.reason_id \
     LEFT JOIN signet.labels t ON t.id = r.tls_id \
     LEFT JOIN signet.policy_sets sp ON sp.id = r.shadow_set_id \
     LEFT JOIN signet.openings o ON o.log_id = r.log_id AND o.leaf_index = r.leaf_index \
     WHERE r.log_id = $1 ORDER BY r.leaf_index";

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    pub(super) leaf_index: i64,
    pub(super) id: uuid::Uuid,
    allow: bool,
    time_us: i64,
    producer: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    service: Option<String>,
    action: Option<String>,
    policies: Option<String>,
    commit: Option<String>,
    digest: Option<String>,
    reason: Option<String>,
    tls: Option<String>,
    shadow_policies: Option<String>,
    shadow_allow: Option<bool>,
    kind: i16,
    enforcement: i16,
    count: i64,
    latency_us: Option<i64>,
    path: Option<String>,
    trace_id: Option<String>,
    detail: Option<String>,
    pub(super) canonical: Vec<u8>,
    opened: Option<Vec<u8>>,
    source_address: Option<String>,
    personal_path: Option<String>,
}

impl Row {
    /// The first column that says another thing than the canonical bytes. Openings that were erased contradict nothing.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        // Each opening is checked against its commitment in the canonical bytes.
        let Ok(openings) = openings_of(self.opened.as_deref()) else { return Some("opened") };
        let record = match Record::decode(&self.canonical, &openings) {
            Ok(record) => record,
            Err(_) if Record::decode(&self.canonical, &[]).is_ok() => return Some("opened"),
            Err(_) => return Some("canonical"),
        };
        let same = |column: &Option<String>, value: &str| column.as_deref() == Some(without_nul(value).as_str());
        let maybe = |column: &Option<String>, value: Option<&str>| *column == value.map(without_nul);
        let time_us = record.time_us.clamp(*TIME_RANGE_US.start(), *TIME_RANGE_US.end());
        let path = record.path.as_deref();
        let shadow = record.shadow.as_ref();
        [
            ("id", self.id == record.id),
            ("allow", self.allow == record.allow),
            ("time", self.time_us == time_us),
            ("producer", same(&self.producer, &record.producer)),
            ("source_spiffe_id", maybe(&self.source, record.source_spiffe_id.as_deref())),
            ("destination_spiffe_id", maybe(&self.destination, record.destination_spiffe_id.as_deref())),
            ("destination_service", same(&self.service, &record.destination_service)),
            ("action", same(&self.action, &record.action)),
            ("policy_ids", same(&self.policies, &joined(&record.policy_ids))),
            ("policy_commit", same(&self.commit, &record.policy_commit)),
            ("bundle_digest", same(&self.digest, &record.bundle_digest)),
            ("reason", same(&self.reason, &record.reason)),
            ("tls", same(&self.tls, &record.tls)),
            ("shadow_policy_ids", maybe(&self.shadow_policies, shadow.map(|(_, ids)| joined(ids)).as_deref())),
            ("shadow_allow", self.shadow_allow == shadow.map(|(allow, _)| *allow)),
            ("kind", self.kind == kind(record.kind)),
            ("enforcement", self.enforcement == enforcement(record.enforcement)),
            ("count", self.count == count(record.count)),
            ("latency_us", self.latency_us == record.latency_us.map(|us| i64::try_from(us).unwrap_or(i64::MAX))),
            ("path", maybe(&self.path, path.filter(|_| !record.personal_path))),
            ("trace_id", maybe(&self.trace_id, record.trace_id.as_deref().filter(|id| id.len() <= MAX_TRACE_ID))),
            ("detail", maybe(&self.detail, record.detail.as_deref())),
            ("source_address", maybe(&self.source_address, record.source_address.as_deref())),
            ("personal path", maybe(&self.personal_path, path.filter(|_| record.personal_path))),
        ]
        .into_iter()
        .find_map(|(column, same)| (!same).then_some(column))
    }
}
