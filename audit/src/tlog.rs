//! The log for everyone to read, in the C2SP tlog-tiles layout: `/checkpoint`, `/tile/<L>/<N>[.p/<W>]`,
//! `/tile/entries/<N>[.p/<W>]`.
//!
//! INVARIANT: only what a published checkpoint covers is shown, so that nothing shown can be taken back unnoticed.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sqlx::QueryBuilder;

use crate::checkpoint::Latest;
use crate::merkle::{TILE_WIDTH, TileId, TilePath, tiles_of};
use crate::store::compact::{Reader, STORED, StoredRow};
use crate::store::{Store, signed};

const IMMUTABLE: &str = "public, max-age=31536000, immutable";
const FRESH: &str = "no-cache";

#[derive(Clone)]
struct Log {
    store: Store,
    latest: Latest,
}

/// The routes of one log.
pub(crate) fn router(store: Store, latest: Latest) -> Router {
    Router::new()
        .route("/checkpoint", get(checkpoint))
        .route("/tile/{*path}", get(tile))
        .with_state(Log { store, latest })
}

async fn checkpoint(State(log): State<Log>) -> Response {
    match log.latest.load_full() {
        Some(latest) => {
            let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, FRESH)];
            (headers, latest.cosigned()).into_response()
        }
        None => absent("no checkpoint was signed yet\n"),
    }
}

fn absent(why: &'static str) -> Response {
    // Not cached: what is absent now may be there in a second.
    (StatusCode::NOT_FOUND, [(header::CACHE_CONTROL, FRESH)], why).into_response()
}

async fn tile(State(log): State<Log>, Path(path): Path<String>) -> Response {
    let Some(path) = TilePath::parse(&path) else { return absent("this is not the path of a tile\n") };
    let size = log.latest.load().as_ref().map_or(0, |latest| latest.size);
    let there = tiles_of(size, path.level.unwrap_or(0));
    let end = path.index.checked_mul(TILE_WIDTH).and_then(|start| start.checked_add(path.width));
    if end.is_none_or(|end| end > there) {
        return absent("the newest checkpoint does not cover this tile\n");
    }
    let content = match path.level {
        Some(level) => hashes(&log.store, level, &path).await,
        None => entries(&log.store, &path).await,
    };
    match content {
        Ok(Some(content)) => {
            let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, IMMUTABLE)];
            (headers, content).into_response()
        }
        Ok(None) => {
            tracing::error!(tile = %path, "the store lacks a tile that a checkpoint covers");
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CACHE_CONTROL, FRESH)], "the tile is missing\n")
                .into_response()
        }
        Err(error) => {
            tracing::warn!(error = signet_observe::error_chain(&error), "could not read a tile");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "the store is away\n").into_response()
        }
    }
}

async fn hashes(store: &Store, level: u8, path: &TilePath) -> Result<Option<Vec<u8>>, crate::store::StoreError> {
    let mut connection = store.pool().acquire().await?;
    let tile = TileId { level, index: path.index };
    let found = store.tiles(&mut connection, &[tile]).await?.remove(&tile);
    let width = usize::try_from(path.width).unwrap_or(usize::MAX);
    Ok(found.and_then(|hashes| hashes.get(..width).map(|hashes| hashes.as_flattened().to_vec())))
}

/// Entries, each after its length in two bytes.
async fn entries(store: &Store, path: &TilePath) -> Result<Option<Vec<u8>>, crate::store::StoreError> {
    let start = path.index * TILE_WIDTH;
    let mut query = QueryBuilder::new("SELECT ");
    query.push(STORED).push(" FROM signet.entries WHERE log_id = ").push_bind(store.log_id());
    query.push(" AND leaf_index >= ").push_bind(signed(start));
    query.push(" AND leaf_index < ").push_bind(signed(start + path.width)).push(" ORDER BY leaf_index");
    let mut connection = store.pool().acquire().await?;
    let rows: Vec<StoredRow> = query.build_query_as().fetch_all(&mut *connection).await?;
    if rows.len() as u64 != path.width {
        return Ok(None);
    }
    let mut bundle = Vec::new();
    for entry in Reader::default().canonical(&mut connection, &rows).await? {
        let Ok(entry) = entry else { return Ok(None) };
        let Ok(length) = u16::try_from(entry.len()) else { return Ok(None) };
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(&entry);
    }
    Ok(Some(bundle))
}
