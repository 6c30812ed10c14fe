//! The columns of an export, once for every format and for what is exported continuously: name, type, and where the value comes from.
//!
//! Values come from the record's canonical bytes, not from the store's columns: what was signed for is what leaves.

use std::borrow::Cow;

use crate::query::StoredRecord;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use signet_spool::Kind;

/// A record on its way out.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// Origin of its log.
    pub log: &'a str,
    /// The record.
    pub stored: &'a StoredRecord,
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Absent.
    Null,
    /// Text.
    Text(Cow<'a, str>),
    /// A whole number.
    Long(i64),
    /// Unix microseconds.
    Time(i64),
    /// Several texts.
    Texts(Vec<&'a str>),
    /// Names and values.
    Pairs(&'a [(String, String)]),
}

/// The type of a column, the same in every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// A whole number.
    Long,
    /// A time.
    Time,
    /// Several texts.
    Texts,
    /// Names and values; JSON where a format has no such type.
    Pairs,
}

/// A column.
pub struct Column {
    /// Its name, for good.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// Its value in a row.
    pub value: for<'a> fn(&Row<'a>) -> Value<'a>,
}

fn text(value: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(value))
}

fn optional(value: Option<&str>) -> Value<'_> {
    value.map_or(Value::Null, text)
}

fn owned<'a>(value: impl ToString) -> Value<'a> {
    Value::Text(Cow::Owned(value.to_string()))
}

fn long<'a>(value: u64) -> Value<'a> {
    Value::Long(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A decision as people read it.
#[must_use]
pub fn verdict(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

/// Whether the record is in the view `decisions` (the others are in `events`).
#[must_use]
pub fn is_decision(kind: Kind) -> bool {
    matches!(kind, Kind::Decision | Kind::Refusal)
}

/// RFC 3339 with microseconds; the nearest time there is for a nonsensical clock.
#[must_use]
pub fn rfc3339(time_us: i64) -> String {
    let nearest = if time_us < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    format!("{:.6}", jiff::Timestamp::from_microsecond(time_us).unwrap_or(nearest))
}

macro_rules! column {
    ($name:literal, $kind:ident, $value:expr) => {
        Column { name: $name, kind: Type::$kind, value: $value }
    };
}

/// Every column, in order. Columns are added at the end, never renamed.
pub const COLUMNS: &[Column] = &[
    column!("decision_id", Text, |row| {
        let record = &row.stored.record;
        if is_decision(record.kind) { owned(record.id) } else { Value::Null }
    }),
    column!("event_id", Text, |row| {
        let record = &row.stored.record;
        if is_decision(record.kind) { Value::Null } else { owned(record.id) }
    }),
    column!("kind", Text, |row| text(row.stored.record.kind.as_str())),
    column!("time", Time, |row| Value::Time(row.stored.record.time_us)),
    column!("log", Text, |row| text(row.log)),
    column!("leaf_index", Long, |row| long(row.stored.leaf_index)),
    column!("proxy", Text, |row| text(&row.stored.record.producer)),
    column!("source_spiffe_id", Text, |row| optional(row.stored.record.source_spiffe_id.as_deref())),
    column!("destination_spiffe_id", Text, |row| optional(row.stored.record.destination_spiffe_id.as_deref())),
    column!("destination_service", Text, |row| text(&row.stored.record.destination_service)),
    column!("action", Text, |row| text(&row.stored.record.action)),
    column!("path", Text, |row| optional(row.stored.record.path.as_deref())),
    column!("decision", Text, |row| text(verdict(row.stored.record.allow))),
    column!("enforcement", Text, |row| text(row.stored.record.enforcement.as_str())),
    column!("policy_ids", Texts, |row| {
        Value::Texts(row.stored.record.policy_ids.iter().map(AsRef::as_ref).collect())
    }),
    column!("policy_commit", Text, |row| text(&row.stored.record.policy_commit)),
    column!("bundle_digest", Text, |row| text(&row.stored.record.bundle_digest)),
    column!("reason", Text, |row| text(&row.stored.record.reason)),
    column!("source_address", Text, |row| optional(row.stored.record.source_address.as_deref())),
    column!("tls", Text, |row| text(&row.stored.record.tls)),
    column!("trace_id", Text, |row| optional(row.stored.record.trace_id.as_deref())),
    column!("latency_us", Long, |row| row.stored.record.latency_us.map_or(Value::Null, long)),
    column!("count", Long, |row| long(row.stored.record.count)),
    column!("shadow_decision", Text, |row| {
        optional(row.stored.record.shadow.as_ref().map(|(allow, _)| verdict(*allow)))
    }),
    column!("shadow_policy_ids", Texts, |row| {
        let policies = row.stored.record.shadow.as_ref().map(|(_, policies)| policies.as_slice());
        Value::Texts(policies.unwrap_or_default().iter().map(AsRef::as_ref).collect())
    }),
    column!("detail", Text, |row| optional(row.stored.record.detail.as_deref())),
    column!("context", Pairs, |row| Value::Pairs(&row.stored.record.context)),
    column!("erased", Texts, |row| Value::Texts(row.stored.record.erased_names().collect())),
    column!("epoch", Text, |row| owned(row.stored.epoch)),
    column!("sequence", Long, |row| Value::Long(row.stored.sequence)),
    column!("received_at", Time, |row| Value::Time(row.stored.received_at_us)),
    column!("leaf_hash", Text, |row| owned(hex::encode(row.stored.leaf()))),
];

/// A row is a JSON object of its columns; what is absent is `null`.
impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(COLUMNS.len()))?;
        for column in COLUMNS {
            map.serialize_entry(column.name, &(column.value)(self))?;
        }
        map.end()
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Long(value) => serializer.serialize_i64(*value),
            Self::Time(value) => serializer.serialize_str(&rfc3339(*value)),
            Self::Texts(values) => serializer.collect_seq(values),
            Self::Pairs(pairs) => serializer.collect_map(pairs.iter().map(|(name, value)| (name, value))),
        }
    }
}
