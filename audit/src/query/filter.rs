//! What to look for, and where a page ends.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

/// What to look for; every field that is set must match. Times are Unix microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Origin of the log (`<trust domain>/signet-log`).
    pub log: Option<String>,
    /// SPIFFE ID of the caller.
    pub source: Option<String>,
    /// SPIFFE ID of the workload that was called.
    pub destination: Option<String>,
    /// `<trust domain>/<namespace>/<name>`.
    pub service: Option<String>,
    /// A Cedar action id such as `http:GET`.
    pub action: Option<String>,
    /// `true` for allowed ones only, `false` for denied ones only.
    pub allow: Option<bool>,
    /// Id of a policy that determined the decision.
    pub policy: Option<String>,
    /// Commit of the policy bundle.
    pub commit: Option<String>,
    /// Stable reason.
    pub reason: Option<String>,
    /// W3C trace id.
    pub trace_id: Option<String>,
    /// Part of a SPIFFE ID, service, action, path, reason or policy id, without regard to case. Scans what the other
    /// fields leave.
    pub text: Option<String>,
    /// At or after.
    pub from_us: Option<i64>,
    /// Before.
    pub to_us: Option<i64>,
}

impl Filter {
    /// Appends ` AND ..` for each field that is set, over the view `entries`.
    pub(super) fn push(&self, query: &mut QueryBuilder<Postgres>) {
        // By number: the indexes are on numbers, and a view of many joins would hide that from the planner.
        if let Some(log) = &self.log {
            query.push(" AND log_id = (SELECT id FROM signet.logs WHERE origin = ");
            query.push_bind(without_nul(log).into_owned()).push(")");
        }
        let numbered = [
            (" AND source_id = (SELECT id FROM signet.identities WHERE key = ", &self.source),
            (" AND service_id = (SELECT id FROM signet.services WHERE key = ", &self.service),
        ];
        push_keys(query, numbered);
        self.push_shapes(query);
        if let Some(trace_id) = &self.trace_id {
            // Likewise; what is not a trace id matches nothing.
            query.push(" AND trace_uuid = ").push_bind(Uuid::try_parse(trace_id).ok());
        }
        if let Some(allow) = self.allow {
            query.push(if allow { " AND allow" } else { " AND NOT allow" });
        }
        if let Some(text) = &self.text {
            query
                .push(
                    " AND strpos(lower(concat_ws(E'\\n', source_spiffe_id, destination_spiffe_id, destination_service, \
                     action, path, reason, array_to_string(policy_ids, E'\\n'))), lower(",
                )
                .push_bind(without_nul(text).into_owned())
                .push(")) > 0");
        }
        if let Some(from) = self.from_us {
            query.push(" AND time >= ");
            push_time(query, from);
        }
        if let Some(to) = self.to_us {
            query.push(" AND time < ");
            push_time(query, to);
        }
    }

    /// What is the same for all records of a shape: the shapes that match are looked up once, before any row is read.
    fn push_shapes(&self, query: &mut QueryBuilder<Postgres>) {
        let of_shape = [&self.destination, &self.action, &self.commit, &self.reason, &self.policy];
        if of_shape.iter().all(|value| value.is_none()) {
            return;
        }
        // By itself, so that nothing is read at all where there is none.
        query.push(" AND EXISTS (SELECT FROM signet.shapes h WHERE true");
        self.push_shape(query);
        query.push(") AND shape_id = ANY(ARRAY(SELECT h.id FROM signet.shapes h WHERE true");
        self.push_shape(query);
        query.push("))");
    }

    /// Appends the conditions on a shape `h`.
    fn push_shape(&self, query: &mut QueryBuilder<Postgres>) {
        let numbered = [
            (" AND h.destination_id = (SELECT id FROM signet.identities WHERE key = ", &self.destination),
            (" AND h.action_id = (SELECT id FROM signet.labels WHERE key = ", &self.action),
            (" AND h.commit_id = (SELECT id FROM signet.labels WHERE key = ", &self.commit),
            (" AND h.reason_id = (SELECT id FROM signet.labels WHERE key = ", &self.reason),
        ];
        push_keys(query, numbered);
        if let Some(policy) = &self.policy {
            query.push(" AND h.policy_set_id IN (SELECT id FROM signet.policy_sets WHERE policy_ids @> ARRAY[");
            query.push_bind(without_nul(policy).into_owned()).push("])");
        }
    }
}

/// Appends `clause`, the key of the value, and a parenthesis for each value that is set.
fn push_keys<'v>(
    query: &mut QueryBuilder<Postgres>,
    clauses: impl IntoIterator<Item = (&'static str, &'v Option<String>)>,
) {
    for (clause, value) in clauses {
        if let Some(value) = value {
            query.push(clause).push_bind(crate::store::compact::text_key(value).to_vec()).push(")");
        }
    }
}

/// PostgreSQL's text has no NUL: a value with one was stored with the replacement character.
pub(crate) fn without_nul(value: &str) -> Cow<'_, str> {
    if value.contains('\0') { value.replace('\0', "\u{fffd}").into() } else { value.into() }
}

/// Earliest and latest time that the store keeps in its column, years 1 and 9999; the canonical bytes keep the rest.
pub(crate) const TIME_RANGE_US: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

pub(super) fn push_time(query: &mut QueryBuilder<Postgres>, time_us: i64) {
    let time_us = time_us.clamp(*TIME_RANGE_US.start(), *TIME_RANGE_US.end());
    // Whole microseconds as an interval are exact; to_timestamp would go through a float.
    query.push("(timestamptz 'epoch' + ").push_bind(time_us).push(" * interval '1 microsecond')");
}

/// Where a page ends: time and id of its last row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) time_us: i64,
    pub(super) id: Uuid,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.time_us, self.id.simple())
    }
}

/// The cursor was not made by this library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cursor; pass `next` of an earlier page, or nothing to begin")]
pub struct InvalidCursor(pub(crate) String);

impl FromStr for Position {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let invalid = || InvalidCursor(text.to_owned());
        let (time, id) = text.split_once('.').ok_or_else(invalid)?;
        Ok(Self { time_us: time.parse().map_err(|_| invalid())?, id: Uuid::try_parse(id).map_err(|_| invalid())? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_position_survives_being_a_cursor() {
        let position = Position { time_us: -7, id: Uuid::from_u128(42) };
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        for bad in ["", ".", "1", "1.", "x.00000000000000000000000000000000", "1.zz"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
