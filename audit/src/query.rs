//! Questions about what was recorded, over a pool of PostgreSQL connections.
//!
//! Invariants: reading never locks out ingestion (plain `SELECT`s only); pages are keyset pages, so that a page costs
//! the same wherever it lies; [`tail`] follows leaf order, which is commit order within a log, so that it neither
//! skips nor repeats a row.

use std::str::FromStr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

mod filter;
mod page;
mod rows;
mod status;
mod stretch;
mod tail;
mod tiles;

pub use filter::{Filter, InvalidCursor};
pub(crate) use filter::{TIME_RANGE_US, without_nul};
pub use page::{Page, by_id, decisions, events};
pub use rows::{DecisionRow, EventRow, FullRecord};
pub use status::{
    Alert, EpochStatus, LogStatus, Posture, StoredBundle, alerts, bundle, bundles, epochs, logs, posture,
};
pub use stretch::{
    CosignedCheckpoint, StoredRecord, Stretch, cosigned_checkpoint, first_since, missing, records, stretches,
};
pub use tail::{TailCursor, tail};
pub use tiles::tiles;

/// Why a question could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is not a PostgreSQL connection string.
    #[error("`{dsn}` is not a PostgreSQL connection string; write postgres://USER@HOST:PORT/DATABASE")]
    Dsn {
        /// What was given, without its password.
        dsn: String,
        /// What the parser said.
        source: sqlx::Error,
    },
    /// PostgreSQL cannot be reached, or refused the query.
    #[error("the audit store did not answer; is PostgreSQL running, and may this user read schema signet?")]
    Store(#[from] sqlx::Error),
    /// The cursor was not made by this library.
    #[error(transparent)]
    Cursor(#[from] InvalidCursor),
    /// The stored bytes of a record do not decode: the row was changed, or is of a newer version.
    #[error("record `{id}` does not decode ({why}); run signet audit verify")]
    Undecodable {
        /// The record.
        id: uuid::Uuid,
        /// What the decoder said.
        why: String,
    },
}

/// A pool over the audit store that `dsn` names, made without connecting.
///
/// # Errors
/// When `dsn` is not a connection string.
pub fn connect(dsn: &str) -> Result<PgPool, QueryError> {
    Ok(PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy_with(connect_options(dsn)?))
}

/// Connection options with the schema on the search path.
pub(crate) fn connect_options(dsn: &str) -> Result<PgConnectOptions, QueryError> {
    let options = PgConnectOptions::from_str(dsn).map_err(|source| QueryError::Dsn { dsn: redact(dsn), source })?;
    // Views join a dozen small tables to the records in an order that is right as written; to look for another takes the
    // planner longer than the page takes.
    let settings = [("search_path", "signet,public"), ("join_collapse_limit", "1")];
    Ok(options.application_name("signet-audit").options(settings))
}

/// The connection string without its password.
#[must_use]
pub fn redact(dsn: &str) -> String {
    let Some((scheme, rest)) = dsn.split_once("://") else {
        return dsn.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}@{host}")
        }
        None => dsn.to_owned(),
    }
}
