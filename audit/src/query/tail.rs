//! Following what is recorded, in commit order.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use sqlx::{PgPool, QueryBuilder};

use super::filter::Filter;
use super::page::MAX_PAGE;
use super::rows::{DECISION_COLUMNS, DecisionRow};
use super::{InvalidCursor, QueryError};

/// How far each log was read: origin -> number of leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TailCursor(BTreeMap<String, i64>);

impl TailCursor {
    /// Before the first record: [`tail`] gives everything.
    #[must_use]
    pub fn start() -> Self {
        Self::default()
    }

    /// After the last record there is now.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn now(pool: &PgPool) -> Result<Self, QueryError> {
        Ok(Self(sizes(pool).await?))
    }

    /// How many leaves of a log were read.
    #[must_use]
    pub fn of(&self, log: &str) -> Option<u64> {
        self.0.get(log).map(|size| size.unsigned_abs())
    }

    /// Says that `size` leaves of a log were read.
    pub fn set(&mut self, log: &str, size: u64) {
        self.0.insert(log.to_owned(), i64::try_from(size).unwrap_or(i64::MAX));
    }
}

impl fmt::Display for TailCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (log, size)) in self.0.iter().enumerate() {
            write!(f, "{}{log}={size}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for TailCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let invalid = || InvalidCursor(text.to_owned());
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (log, size) = part.split_once('=').ok_or_else(invalid)?;
                Ok((log.to_owned(), size.parse().map_err(|_| invalid())?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

async fn sizes(pool: &PgPool) -> Result<BTreeMap<String, i64>, QueryError> {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT origin, size FROM signet.logs").fetch_all(pool).await?;
    Ok(rows.into_iter().collect())
}

/// Decisions and refusals committed since `cursor` that match, by time; moves the cursor. An empty
/// answer means that there is nothing new: ask again after a moment. `limit` bounds the leaves read of each log.
///
/// # Errors
/// When the store does not answer; the cursor has not moved then.
pub async fn tail(
    pool: &PgPool,
    filter: &Filter,
    cursor: &mut TailCursor,
    limit: u32,
) -> Result<Vec<DecisionRow>, QueryError> {
    let limit = i64::from(limit.clamp(1, MAX_PAGE));
    let mut next = cursor.clone();
    let mut found = Vec::new();
    for (log, size) in sizes(pool).await? {
        let from = next.0.get(&log).copied().unwrap_or(0);
        // A smaller size means that another database answers: go back rather than wait for ever.
        let from = from.min(size);
        let to = size.min(from + limit);
        if from < to && filter.log.as_ref().is_none_or(|wanted| *wanted == log) {
            let mut query = QueryBuilder::new("SELECT ");
            query
                .push(DECISION_COLUMNS)
                .push(" FROM signet.entries WHERE kind_code IN (0, 2) AND log_id = ")
                .push("(SELECT id FROM signet.logs WHERE origin = ")
                .push_bind(log.clone())
                .push(") AND leaf_index >= ")
                .push_bind(from)
                .push(" AND leaf_index < ")
                .push_bind(to);
            filter.push(&mut query);
            query.push(" ORDER BY leaf_index");
            let rows: Vec<DecisionRow> = query.build_query_as().fetch_all(pool).await?;
            found.extend(rows);
        }
        next.0.insert(log, to);
    }
    *cursor = next;
    found.sort_by_key(|row| row.time_us);
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_tail_cursor_survives_being_text() {
        let cursor = TailCursor([("a.example/signet-log".to_owned(), 3), ("b".to_owned(), 0)].into());
        assert_eq!(cursor.to_string().parse::<TailCursor>().unwrap(), cursor);
        assert_eq!("".parse::<TailCursor>().unwrap(), TailCursor::start());
        assert!("a".parse::<TailCursor>().is_err());
    }
}
