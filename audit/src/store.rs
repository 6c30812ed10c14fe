//! The audit store in PostgreSQL: migrations, this service's log, dictionaries, tiles.
//!
//! INVARIANT: everything that a batch changes (records, watermarks, tiles, size and root) is one transaction that holds
//! the row of the log; [`dictionary`] entries alone are made before it, for they mean nothing by themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};

use crate::merkle::{Edge, EdgeMismatch, Hash, TILE_WIDTH, TileId, empty_root, tiles_of};
use crate::query::QueryError;

pub(crate) mod compact;
pub(crate) mod copy;
pub(crate) mod dictionary;
pub(crate) mod guard;

/// How many days of partitions are made ahead.
const DAYS_AHEAD: i32 = 7;

/// Most records of a row of `runs`: its CHECK.
pub(crate) const MAX_RUN: u64 = 20_000;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection string is malformed.
    #[error(transparent)]
    Dsn(#[from] QueryError),
    /// PostgreSQL is away, or refused a statement.
    #[error("PostgreSQL did not do what was asked")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the schema of the audit store could not be brought up to date; may this user create schemas here?")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Another key made this log.
    #[error(
        "log `{origin}` in this database was made with verifier key `{stored}`, the key file has `{ours}`; restore the key \
         file, or use another database"
    )]
    OtherKey {
        /// The log.
        origin: String,
        /// In the database.
        stored: String,
        /// In the key file.
        ours: String,
    },
    /// The database went back, or was changed.
    #[error(transparent)]
    Guard(#[from] guard::GuardError),
    /// The tiles do not fit the root.
    #[error("log `{origin}`: {mismatch}; do not sign anything, run signet audit verify")]
    Tree {
        /// The log.
        origin: String,
        /// What does not fit.
        mismatch: EdgeMismatch,
    },
}

impl StoreError {
    /// Whether trying again without a person's help is pointless.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Dsn(_) | Self::OtherKey { .. } | Self::Guard(_) | Self::Tree { .. } => true,
            Self::Migrate(error) => !matches!(error, sqlx::migrate::MigrateError::Execute(_)),
            Self::Database(_) => false,
        }
    }
}

/// The store, seen from one log.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pool: PgPool,
    origin: String,
    log_id: i16,
}

impl Store {
    /// Connects, brings the schema up to date, and finds or makes the log.
    ///
    /// # Errors
    /// When PostgreSQL is away, the schema cannot be made, or the log belongs to another key.
    pub(crate) async fn open(dsn: &str, trust_domain: &str, verifier_key: &str) -> Result<Self, StoreError> {
        let options = crate::query::connect_options(dsn)?.options([
            // A statement that hangs must not hold the log for ever; what it did is rolled back and tried again.
            ("statement_timeout", "60s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(options)
            .await?;
        migrate(&pool).await?;
        let origin = crate::config::origin(trust_domain);
        sqlx::query(
            "INSERT INTO signet.logs (origin, trust_domain, verifier_key, root) VALUES ($1, $2, $3, $4)
             ON CONFLICT (origin) DO NOTHING",
        )
        .bind(&origin)
        .bind(trust_domain)
        .bind(verifier_key)
        .bind(empty_root().as_slice())
        .execute(&pool)
        .await?;
        let (log_id, stored): (i16, String) =
            sqlx::query_as("SELECT id, verifier_key FROM signet.logs WHERE origin = $1")
                .bind(&origin)
                .fetch_one(&pool)
                .await?;
        if stored != verifier_key {
            return Err(StoreError::OtherKey { origin, stored, ours: verifier_key.to_owned() });
        }
        Ok(Self { pool, origin, log_id })
    }

    /// Connections, for questions.
    #[must_use]
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The log's origin.
    #[must_use]
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn log_id(&self) -> i16 {
        self.log_id
    }

    /// Makes the partitions of the coming days.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub(crate) async fn make_partitions(&self) -> Result<i32, StoreError> {
        Ok(sqlx::query_scalar("SELECT signet.make_partitions($1)").bind(DAYS_AHEAD).fetch_one(&self.pool).await?)
    }

    /// Size and root of the tree, as committed.
    pub(crate) async fn head(&self, connection: &mut PgConnection) -> Result<(u64, Hash), StoreError> {
        let row = sqlx::query_as("SELECT size, root FROM signet.logs WHERE id = $1")
            .bind(self.log_id)
            .fetch_one(connection)
            .await?;
        Ok(size_and_root(row))
    }

    /// The right edge of the tree of this size and root.
    pub(crate) async fn edge(&self, connection: &mut PgConnection, size: u64, root: &Hash) -> Result<Edge, StoreError> {
        let mut wanted = Vec::new();
        let mut level = 0u8;
        while tiles_of(size, level) > 0 {
            if !tiles_of(size, level).is_multiple_of(TILE_WIDTH) {
                wanted.push(TileId { level, index: tiles_of(size, level) / TILE_WIDTH });
            }
            level += 1;
        }
        let tiles = self.tiles(connection, &wanted).await?;
        Edge::load(size, root, |tile| tiles.get(&tile).cloned())
            .map_err(|mismatch| StoreError::Tree { origin: self.origin.clone(), mismatch })
    }

    /// Those of the tiles that exist.
    pub(crate) async fn tiles(
        &self,
        connection: &mut PgConnection,
        wanted: &[TileId],
    ) -> Result<BTreeMap<TileId, Vec<Hash>>, StoreError> {
        let levels: Vec<i16> = wanted.iter().map(|tile| i16::from(tile.level)).collect();
        let indexes: Vec<i64> = wanted.iter().map(|tile| signed(tile.index)).collect();
        let rows: Vec<(i16, i64, Vec<u8>)> = sqlx::query_as(
            "SELECT t.level, t.tile_index, t.hashes FROM UNNEST($2::smallint[], $3::bigint[]) AS w(level, tile_index)
             JOIN signet.tiles t ON t.log_id = $1 AND t.level = w.level AND t.tile_index = w.tile_index",
        )
        .bind(self.log_id)
        .bind(levels)
        .bind(indexes)
        .fetch_all(connection)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(level, index, hashes)| {
                let tile = TileId { level: u8::try_from(level).unwrap_or(u8::MAX), index: index.unsigned_abs() };
                let (hashes, _) = hashes.as_chunks::<32>();
                (tile, hashes.to_vec())
            })
            .collect())
    }

    pub(crate) async fn put_tiles(
        &self,
        connection: &mut PgConnection,
        tiles: &BTreeMap<TileId, Vec<Hash>>,
    ) -> Result<(), sqlx::Error> {
        let levels: Vec<i16> = tiles.keys().map(|tile| i16::from(tile.level)).collect();
        let indexes: Vec<i64> = tiles.keys().map(|tile| signed(tile.index)).collect();
        let hashes: Vec<Vec<u8>> = tiles.values().map(|hashes| hashes.as_flattened().to_vec()).collect();
        sqlx::query(
            "INSERT INTO signet.tiles (log_id, level, tile_index, hashes)
             SELECT $1, * FROM UNNEST($2::smallint[], $3::bigint[], $4::bytea[])
             ON CONFLICT (log_id, level, tile_index) DO UPDATE SET hashes = EXCLUDED.hashes",
        )
        .bind(self.log_id)
        .bind(levels)
        .bind(indexes)
        .bind(hashes)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Notes that a person reviewed the log, which the record `event` says.
    pub(crate) async fn put_review(&self, event: uuid::Uuid, reader: &str) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO signet.reviews (log_id, event_id, reader) VALUES ($1, $2, $3)")
            .bind(self.log_id)
            .bind(event)
            .bind(reader)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Keeps a policy bundle. Keeping it again, or for another commit with equal files, is fine.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub(crate) async fn put_bundle(
        &self,
        digest: &str,
        source: &signet_policy::BundleSource,
    ) -> Result<(), sqlx::Error> {
        let (paths, contents): (Vec<&str>, Vec<&str>) =
            source.files.iter().map(|(path, content)| (path.as_str(), content.as_str())).unzip();
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO signet.bundles (digest) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(digest)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO signet.bundle_commits (digest, commit, signer) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(digest)
        .bind(&source.commit)
        .bind(&source.signer)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "INSERT INTO signet.bundle_files (digest, path, content) SELECT $1, * FROM UNNEST($2::text[], $3::text[])
             ON CONFLICT DO NOTHING",
        )
        .bind(digest)
        .bind(paths)
        .bind(contents)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await
    }
}

/// Brings the schema up to date. Several services may do so at once.
async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    // The schema comes first, by itself: the search path begins with it, so that the migrations' own table lands in it.
    // Two first starts may race for it; the loser finds it made.
    if let Err(error) = sqlx::query("CREATE SCHEMA IF NOT EXISTS signet").execute(pool).await
        && !error.as_database_error().is_some_and(|error| error.is_unique_violation())
    {
        return Err(error.into());
    }
    sqlx::migrate!().run(pool).await?;
    Ok(())
}

pub(crate) fn size_and_root((size, root): (i64, Vec<u8>)) -> (u64, Hash) {
    // INVARIANT: the table's CHECKs keep sizes positive and roots 32 bytes; a changed one fails every comparison.
    (size.unsigned_abs(), root.try_into().unwrap_or([0; 32]))
}

pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
