//! The reference: binary COPY of rows that exist, into the same table.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures::TryStreamExt as _;
use sqlx::PgPool;

use super::place::Place;

const COPY_OUT: &str = "COPY (SELECT * FROM signet.records ORDER BY leaf_index) TO STDOUT (FORMAT binary)";
const COPY_IN: &str = "COPY signet.records FROM STDIN (FORMAT binary)";
/// Rows of a transaction: half of the most that ingestion puts into one.
const ROWS: usize = 10_000;
/// Bytes of a message to the server.
const CHUNK: usize = 256 * 1024;
/// Signature, flags and extension of the format.
const HEAD: usize = 19;

/// Rows of `signet.records`, as transactions of binary COPY.
pub(crate) struct Raw {
    transactions: Vec<Vec<u8>>,
    rows: usize,
}

impl Raw {
    /// The rows of a database that ingestion filled.
    pub(crate) async fn of(pool: &PgPool) -> Result<Self> {
        let mut connection = pool.acquire().await?;
        let chunks: Vec<_> = connection.copy_out_raw(COPY_OUT).await?.try_collect().await?;
        let bytes = chunks.concat();
        let head = bytes.get(..HEAD).context("COPY ended within its head")?;
        let (mut transactions, mut rows, mut at) = (vec![head.to_vec()], 0, HEAD);
        while let Some(length) = row_at(&bytes, at)? {
            if rows > 0 && rows % ROWS == 0 {
                transactions.push(head.to_vec());
            }
            let row = bytes.get(at..at + length).context("COPY ended within a row")?;
            if let Some(last) = transactions.last_mut() {
                last.extend_from_slice(row);
            }
            rows += 1;
            at += length;
        }
        for transaction in &mut transactions {
            transaction.extend_from_slice(&(-1i16).to_be_bytes());
        }
        Ok(Self { transactions, rows })
    }

    /// Copies them into a new database; rows a second.
    pub(crate) async fn copy(&self, place: &Place, database: &str) -> Result<f64> {
        // The service makes the schema.
        let pool = place.serve(database).await?.stop().await?;
        place.settle().await?;
        let mut connection = pool.acquire().await?;
        let started = Instant::now();
        for transaction in &self.transactions {
            let mut copy = connection.copy_in_raw(COPY_IN).await?;
            for chunk in transaction.chunks(CHUNK) {
                copy.send(chunk).await?;
            }
            copy.finish().await?;
        }
        let took = started.elapsed();
        drop(connection);
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM signet.records").fetch_one(&pool).await?;
        pool.close().await;
        if usize::try_from(count) != Ok(self.rows) {
            bail!("{count} rows were copied of {}", self.rows);
        }
        Ok(self.rows as f64 / took.as_secs_f64())
    }
}

/// Length of the row at an offset; none at the trailer.
fn row_at(bytes: &[u8], start: usize) -> Result<Option<usize>> {
    let columns = i16::from_be_bytes(array(bytes, start)?);
    let mut at = start + 2;
    for _ in 0..columns.max(0) {
        let length = i32::from_be_bytes(array(bytes, at)?);
        at += 4 + usize::try_from(length.max(0))?;
    }
    Ok((columns >= 0).then_some(at - start))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    Ok(bytes.get(at..at + N).context("COPY ended within a row")?.try_into()?)
}
