//! The tables beside the records: checkpoints, tiles, runs, epochs, dictionaries, bundles.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use signet_policy::BundleSource;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Problem;
use super::tree::Tiles;
use crate::merkle::{Hash, TILE_WIDTH, TileId};
use crate::note::{NoteError, VerifierKey};
use crate::query::QueryError;
use crate::store::compact::Reader;
use crate::store::signed;

type Problems = Vec<Problem>;

/// Roots that `key` signed, by size.
pub(super) async fn checkpoints(
    connection: &mut PgConnection,
    log_id: i16,
    key: &VerifierKey,
    problems: &mut Problems,
) -> Result<BTreeMap<u64, Hash>, QueryError> {
    let mut signed = BTreeMap::new();
    let mut notes = sqlx::query_as::<_, (i64, Vec<u8>, String)>(
        "SELECT size, root, note FROM signet.checkpoints WHERE log_id = $1 ORDER BY size",
    )
    .bind(log_id)
    .fetch(connection);
    while let Some((size, root, note)) = notes.try_next().await? {
        let size = size.unsigned_abs();
        let bad = |error: NoteError| Problem::BadCheckpoint { size, why: error.to_string() };
        match key.open_checkpoint(&note) {
            Ok(checkpoint) if checkpoint.size != size => {
                problems.push(bad(NoteError::Checkpoint("it is of another size")));
            }
            Ok(checkpoint) => {
                if root != checkpoint.root {
                    problems.push(bad(NoteError::Checkpoint("its column `root` says another one")));
                }
                signed.insert(size, checkpoint.root);
            }
            Err(error) => problems.push(bad(error)),
        }
    }
    Ok(signed)
}

/// How many leaves the rows make, of at most `claimed`; rows of other places are problems.
pub(super) async fn extent(
    connection: &mut PgConnection,
    log_id: i16,
    claimed: u64,
    problems: &mut Problems,
) -> Result<u64, QueryError> {
    let last: Option<i64> = sqlx::query_scalar(
        "SELECT leaf_index FROM signet.records WHERE log_id = $1 AND leaf_index >= 0 AND leaf_index < $2
         ORDER BY leaf_index DESC LIMIT 1",
    )
    .bind(log_id)
    .bind(signed(claimed))
    .fetch_optional(&mut *connection)
    .await?;
    let strays: Vec<(i64, Uuid)> = sqlx::query_as(
        "SELECT leaf_index, id FROM signet.records WHERE log_id = $1 AND (leaf_index < 0 OR leaf_index >= $2)
         ORDER BY leaf_index LIMIT 100",
    )
    .bind(log_id)
    .bind(signed(claimed))
    .fetch_all(connection)
    .await?;
    problems.extend(strays.into_iter().map(|(leaf_index, id)| Problem::StrayRecord { leaf_index, id }));
    Ok(last.map_or(0, |last| last.unsigned_abs() + 1))
}

/// The tiles above those of leaves: a 256th of them.
pub(super) async fn upper_tiles(connection: &mut PgConnection, log_id: i16) -> Result<Tiles, QueryError> {
    let tiles: Vec<(i16, i64, Vec<u8>)> =
        sqlx::query_as("SELECT level, tile_index, hashes FROM signet.tiles WHERE log_id = $1 AND level <> 0")
            .bind(log_id)
            .fetch_all(connection)
            .await?;
    let tile = |(level, index, hashes): (i16, i64, Vec<u8>)| {
        let tile = TileId { level: u8::try_from(level).unwrap_or(u8::MAX), index: index.unsigned_abs() };
        (tile, hashes.as_chunks::<32>().0.to_vec())
    };
    Ok(tiles.into_iter().map(tile).collect())
}

/// Tiles of leaves beyond the last.
pub(super) async fn stray_tiles(
    connection: &mut PgConnection,
    log_id: i16,
    end: u64,
    problems: &mut Problems,
) -> Result<(), QueryError> {
    let indexes: Vec<i64> = sqlx::query_scalar(
        "SELECT tile_index FROM signet.tiles WHERE log_id = $1 AND level = 0 AND (tile_index < 0 OR tile_index >= $2)
         ORDER BY tile_index LIMIT 100",
    )
    .bind(log_id)
    .bind(signed(end.div_ceil(TILE_WIDTH)))
    .fetch_all(connection)
    .await?;
    problems.extend(indexes.into_iter().map(|index| Problem::TileDiffers { level: 0, index: index.unsigned_abs() }));
    Ok(())
}

/// Runs that do not follow each other to the end, or that share sequences.
pub(super) async fn runs(
    connection: &mut PgConnection,
    log_id: i16,
    end: u64,
    problems: &mut Problems,
) -> Result<(), QueryError> {
    let broken: Vec<i64> = sqlx::query_scalar(
        "SELECT first_leaf FROM (
             SELECT first_leaf, records, first_sequence,
                    lag(first_leaf + records, 1, 0::bigint) OVER (ORDER BY first_leaf) AS expected,
                    lead(first_leaf, 1, $2) OVER (ORDER BY first_leaf) AS next,
                    lag(first_sequence + records, 1, 0::bigint) OVER (PARTITION BY epoch_id ORDER BY first_sequence) AS taken
             FROM signet.runs WHERE log_id = $1) AS r
         WHERE first_leaf <> expected OR next <> first_leaf + records OR first_sequence < taken
         ORDER BY first_leaf LIMIT 100",
    )
    .bind(log_id)
    .bind(signed(end))
    .fetch_all(&mut *connection)
    .await?;
    problems.extend(broken.into_iter().map(|first_leaf| Problem::RunDiffers { first_leaf }));
    let any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM signet.runs WHERE log_id = $1)")
        .bind(log_id)
        .fetch_one(connection)
        .await?;
    if !any && end > 0 {
        problems.push(Problem::RunDiffers { first_leaf: 0 });
    }
    Ok(())
}

/// Epochs whose records are not as many as their watermark and their missing sequences say.
pub(super) async fn epochs(
    connection: &mut PgConnection,
    log_id: i16,
    problems: &mut Problems,
) -> Result<(), QueryError> {
    let epochs: Vec<(Uuid, i64, i64)> = sqlx::query_as(
        "SELECT e.epoch, e.watermark - e.missing, COALESCE(sum(u.records), 0)::bigint FROM signet.epochs e
         LEFT JOIN signet.runs u ON u.epoch_id = e.id AND u.log_id = e.log_id
             AND u.first_sequence + u.records - 1 <= e.watermark
         WHERE e.log_id = $1 GROUP BY e.id HAVING COALESCE(sum(u.records), 0) <> e.watermark - e.missing
         ORDER BY e.id LIMIT 100",
    )
    .bind(log_id)
    .fetch_all(connection)
    .await?;
    problems.extend(epochs.into_iter().map(|(epoch, says, found)| Problem::EpochDiffers { epoch, says, found }));
    Ok(())
}

/// Dictionary entries that are not what their key says.
pub(super) async fn dictionaries(connection: &mut PgConnection, problems: &mut Problems) -> Result<(), QueryError> {
    const TEXTS: [(&str, &str); 5] = [
        (
            "identities",
            "SELECT id FROM signet.identities WHERE key <> substr(sha256(convert_to(value, 'UTF8')), 1, 16) ORDER BY id LIMIT 20",
        ),
        (
            "services",
            "SELECT id FROM signet.services WHERE key <> substr(sha256(convert_to(value, 'UTF8')), 1, 16) ORDER BY id LIMIT 20",
        ),
        (
            "labels",
            "SELECT id FROM signet.labels WHERE key <> substr(sha256(convert_to(value, 'UTF8')), 1, 16) ORDER BY id LIMIT 20",
        ),
        (
            "policy_sets",
            "SELECT id FROM signet.policy_sets WHERE key <> substr(sha256(convert_to(value, 'UTF8')), 1, 16) ORDER BY id LIMIT 20",
        ),
        (
            "contexts",
            "SELECT id FROM signet.contexts WHERE key <> substr(sha256(template), 1, 16) ORDER BY id LIMIT 20",
        ),
    ];
    for (table, changed) in TEXTS {
        let ids: Vec<i32> = sqlx::query_scalar(changed).fetch_all(&mut *connection).await?;
        problems.extend(ids.into_iter().map(|id| Problem::ChangedDictionary { table, id }));
    }
    let ids = Reader::changed_shapes(connection).await?;
    problems.extend(ids.into_iter().take(20).map(|id| Problem::ChangedDictionary { table: "shapes", id }));
    Ok(())
}

/// Policy bundles whose files do not make their digest.
pub(super) async fn bundles(connection: &mut PgConnection, problems: &mut Problems) -> Result<(), QueryError> {
    let bundles: Vec<String> =
        sqlx::query_scalar("SELECT digest FROM signet.bundles ORDER BY 1").fetch_all(&mut *connection).await?;
    for digest in bundles {
        let files: Vec<(String, String)> =
            sqlx::query_as("SELECT path, content FROM signet.bundle_files WHERE digest = $1")
                .bind(&digest)
                .fetch_all(&mut *connection)
                .await?;
        let source = BundleSource { commit: String::new(), signer: String::new(), files: files.into_iter().collect() };
        if source.digest() != digest {
            problems.push(Problem::ChangedBundle { digest });
        }
    }
    Ok(())
}
