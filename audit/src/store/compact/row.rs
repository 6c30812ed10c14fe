//! The columns of `signet.records`.

use std::borrow::Cow;

use signet_spool::{Fields, tag};
use uuid::Uuid;

use crate::query::{TIME_RANGE_US, without_nul};

/// A row as `signet.records` keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) leaf_index: i64,
    /// Unix microseconds.
    pub(crate) time_us: i64,
    pub(crate) numbers: Numbers,
    pub(crate) latency_us: Option<i32>,
    /// As in the canonical bytes, less one.
    pub(crate) kind: i16,
    pub(crate) allow: bool,
    pub(crate) id: Uuid,
    pub(crate) trace_id: Option<Uuid>,
    /// Not of records whose paths are personal.
    pub(crate) path: Option<Cow<'a, str>>,
    pub(crate) personal: &'a [u8],
    pub(crate) rest: &'a [u8],
}

/// Entries of dictionaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) epoch: i32,
    pub(crate) source: Option<i32>,
    pub(crate) service: i32,
    pub(crate) shape: i32,
    /// 0: the context is empty, or in `rest`.
    pub(crate) context: i32,
}

/// Counts beyond this are nonsense and would overflow sums.
const MAX_COUNT: u64 = 1_000_000_000_000;

/// A count as the store shows it.
pub(crate) fn count(count: u64) -> u64 {
    count.min(MAX_COUNT)
}

impl<'a> Row<'a> {
    /// The row of a record: exact, or the nearest that the columns can say. `personal` and `rest` are empty.
    pub(crate) fn of(fields: &Fields<'a>, leaf_index: i64, numbers: Numbers) -> Self {
        let time_us = fields.fixed(tag::TIME_US).map_or(0, i64::from_be_bytes);
        let latency = fields.fixed(tag::LATENCY_US).map(u64::from_be_bytes);
        Self {
            leaf_index,
            time_us: time_us.clamp(*TIME_RANGE_US.start(), *TIME_RANGE_US.end()),
            numbers,
            latency_us: latency.map(|us| i32::try_from(us).unwrap_or(i32::MAX)),
            kind: fields.fixed(tag::KIND).map_or(0, |[kind]| i16::from(kind) - 1),
            allow: fields.fixed(tag::ALLOW) == Some([1]),
            id: Uuid::from_bytes(fields.fixed(tag::ID).unwrap_or_default()),
            trace_id: fields.get(tag::TRACE_ID).and_then(trace),
            path: fields.text(tag::PATH).map(without_nul),
            personal: &[],
            rest: &[],
        }
    }
}

/// A W3C trace id; others are in the canonical bytes alone.
fn trace(text: &[u8]) -> Option<Uuid> {
    let plain = text.len() == 32 && text.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| Uuid::try_parse_ascii(text).ok()).flatten()
}

/// The columns of [`StoredRow`], of the view `entries`.
pub(crate) const STORED: &str = "leaf_index, (extract(epoch FROM time) * 1000000)::bigint AS time_us, epoch_id, source_id, \
     service_id, shape_id, context_id, latency_us::integer AS latency, kind_code, allow, id, trace_uuid, plain_path, personal, rest";

/// A row that was read.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct StoredRow {
    leaf_index: i64,
    time_us: i64,
    epoch_id: i32,
    source_id: Option<i32>,
    service_id: i32,
    shape_id: i32,
    context_id: i32,
    latency: Option<i32>,
    kind_code: i16,
    allow: bool,
    pub(crate) id: Uuid,
    trace_uuid: Option<Uuid>,
    plain_path: Option<String>,
    pub(crate) personal: Vec<u8>,
    rest: Vec<u8>,
}

impl StoredRow {
    pub(crate) fn as_row(&self) -> Row<'_> {
        Row {
            leaf_index: self.leaf_index,
            time_us: self.time_us,
            numbers: Numbers {
                epoch: self.epoch_id,
                source: self.source_id,
                service: self.service_id,
                shape: self.shape_id,
                context: self.context_id,
            },
            latency_us: self.latency,
            kind: self.kind_code,
            allow: self.allow,
            id: self.id,
            trace_id: self.trace_uuid,
            path: self.plain_path.as_deref().map(Cow::Borrowed),
            personal: &self.personal,
            rest: &self.rest,
        }
    }
}
