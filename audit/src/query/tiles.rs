//! Reading the tree's hashes, for proofs.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgPool;

use super::QueryError;
use crate::merkle::{Hash, TILE_WIDTH, TileId};

/// The tiles of a log that proofs for `leaves` need, in trees whose last leaf is among them or right before one of
/// `sizes`: every tile above the leaves, and the tiles of hashes of those leaves.
///
/// # Errors
/// When the store does not answer.
pub async fn tiles(
    pool: &PgPool,
    log: &str,
    leaves: impl IntoIterator<Item = u64>,
    sizes: &[u64],
) -> Result<BTreeMap<TileId, Vec<Hash>>, QueryError> {
    let places: BTreeSet<u64> = leaves.into_iter().chain(sizes.iter().copied()).map(|leaf| leaf / TILE_WIDTH).collect();
    let places: Vec<i64> = places.into_iter().map(crate::store::signed).collect();
    let rows: Vec<(i16, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT level::smallint, tile_index, hashes FROM signet.tiles \
         WHERE log_id = (SELECT id FROM signet.logs WHERE origin = $1) AND (level > 0 OR tile_index = ANY($2))",
    )
    .bind(super::without_nul(log))
    .bind(places)
    .fetch_all(pool)
    .await?;
    let tile = |(level, index, hashes): (i16, i64, Vec<u8>)| {
        let level = u8::try_from(level).ok()?;
        Some((TileId { level, index: index.unsigned_abs() }, hashes.as_chunks::<32>().0.to_vec()))
    };
    Ok(rows.into_iter().filter_map(tile).collect())
}
