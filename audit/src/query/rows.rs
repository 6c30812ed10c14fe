//! The rows that questions return.

use serde::{Serialize, Serializer};
use signet_spool::Record;
use uuid::Uuid;

/// One row of the view `decisions`, with the rest that lists show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct DecisionRow {
    /// What `x-signet-decision` and `signet why` name.
    pub decision_id: Uuid,
    /// Unix microseconds; serialised as RFC 3339.
    #[serde(rename = "time", serialize_with = "rfc3339")]
    pub time_us: i64,
    /// Origin of the log.
    pub log: String,
    /// SPIFFE ID of the component that decided.
    pub proxy: String,
    /// SPIFFE ID of the caller, where there was one.
    pub source_spiffe_id: Option<String>,
    /// SPIFFE ID of the workload that was called.
    pub destination_spiffe_id: Option<String>,
    /// `<trust domain>/<namespace>/<name>`.
    pub destination_service: String,
    /// Cedar action id.
    pub action: String,
    /// Path without query.
    pub path: Option<String>,
    /// `allow` or `deny`.
    pub decision: String,
    /// `enforce` or `shadow`.
    pub enforcement: String,
    /// Policies that determined the decision.
    pub policy_ids: Vec<String>,
    /// Commit of the bundle.
    pub policy_commit: String,
    /// Digest of the bundle.
    pub bundle_digest: String,
    /// Stable reason.
    pub reason: String,
    /// `ip:port`; absent when erased.
    pub source_address: Option<String>,
    /// Version, key exchange and cipher suite, or `none`.
    pub tls: String,
    /// W3C trace id.
    pub trace_id: Option<String>,
    /// From arrival to the decision.
    pub latency_us: Option<i64>,
    /// `decision` or `refusal`.
    pub kind: String,
    /// How many occurrences the row stands for.
    pub count: i64,
    /// What shadow policies would have answered, where that differs.
    pub shadow_allow: Option<bool>,
    /// The shadow policies behind it.
    pub shadow_policy_ids: Option<Vec<String>>,
    /// Place in the log.
    pub leaf_index: i64,
}

/// The columns of [`DecisionRow`], of the view `entries`.
pub(super) const DECISION_COLUMNS: &str = "id AS decision_id, (extract(epoch FROM time) * 1000000)::bigint AS time_us, log, producer AS proxy, \
     source_spiffe_id, destination_spiffe_id, destination_service, action, path, \
     CASE WHEN allow THEN 'allow' ELSE 'deny' END AS decision, enforcement, policy_ids, policy_commit, bundle_digest, \
     reason, source_address, tls, trace_id, latency_us, kind, count, shadow_allow, shadow_policy_ids, leaf_index";

impl DecisionRow {
    /// The time as a timestamp.
    #[must_use]
    pub fn time(&self) -> jiff::Timestamp {
        timestamp(self.time_us)
    }

    /// Whether the call was allowed.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.decision == "allow"
    }
}

/// One row of the view `events`: what components did or met, and gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct EventRow {
    /// The event.
    pub event_id: Uuid,
    /// Unix microseconds; serialised as RFC 3339.
    #[serde(rename = "time", serialize_with = "rfc3339")]
    pub time_us: i64,
    /// Origin of the log.
    pub log: String,
    /// SPIFFE ID of the component that recorded it.
    pub producer: String,
    /// `event` or `gap`.
    pub kind: String,
    /// Name of the event.
    pub action: String,
    /// Whom it concerns.
    pub subject: Option<String>,
    /// What it concerns.
    pub object: String,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// Stable reason.
    pub reason: String,
    /// Text or JSON.
    pub detail: Option<String>,
    /// Commit of the bundle it speaks of.
    pub policy_commit: String,
    /// Digest of the bundle it speaks of.
    pub bundle_digest: String,
    /// How many occurrences the row stands for.
    pub count: i64,
    /// Place in the log.
    pub leaf_index: i64,
}

pub(super) const EVENT_COLUMNS: &str = "id AS event_id, (extract(epoch FROM time) * 1000000)::bigint AS time_us, log, producer, kind, action, \
     source_spiffe_id AS subject, destination_service AS object, allow AS succeeded, reason, detail, policy_commit, \
     bundle_digest, count, leaf_index";

/// A record with everything that was recorded.
#[derive(Debug, Clone)]
pub struct FullRecord {
    /// The row, as lists show it (of an event too: `kind` says which).
    pub row: DecisionRow,
    /// The record, decoded from its canonical bytes.
    pub record: Record,
    /// The producer's spool.
    pub epoch: Uuid,
    /// Its number there.
    pub sequence: i64,
    /// When the audit service took it, Unix microseconds.
    pub received_at_us: i64,
    /// What the Merkle tree holds.
    pub canonical: Vec<u8>,
}

/// The timestamp of Unix microseconds; the nearest representable one for a nonsensical clock.
pub(crate) fn timestamp(time_us: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(time_us).unwrap_or(if time_us < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    })
}

fn rfc3339<S: Serializer>(time_us: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:.6}", timestamp(*time_us)))
}
