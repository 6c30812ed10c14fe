//! One transaction: lock the log, compare with the watermarks, append to the tree, copy the rows, move everything on.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use signet_spool::Record;
use sqlx::PgConnection;
use uuid::Uuid;

use super::plan::{self, Epoch, Epochs, Finding, Row, Stored};
use super::rows::{self, Maker};
use super::{MAX_CONFLICTS, Outcome, Sequencer, Work};
use crate::merkle::{Edge, TILE_WIDTH, TileId};
use crate::store::compact::Prepared;
use crate::store::copy::Copying;
use crate::store::{MAX_RUN, StoreError, signed, size_and_root};

/// Rows that are made before those that wait are sent: PostgreSQL takes them in while the next are made.
const PART: usize = 1_000;

/// What a transaction did, for the metrics.
#[derive(Debug, Default)]
struct Tally {
    ingested: u64,
    duplicates: u64,
    conflicts: u64,
    gaps: u64,
    missing: u64,
}

impl Sequencer {
    /// Commits a group of batches and says what became of each. On an error nothing of it is known to be committed.
    pub(super) async fn transaction(&mut self, group: &[Work]) -> Result<Vec<Outcome>, StoreError> {
        let store = self.store.clone();
        for entry in group.iter().flat_map(|work| &work.entries) {
            self.dictionaries.want(entry);
        }
        self.dictionaries.resolve(store.pool()).await?;

        let mut transaction = store.pool().begin().await?;
        let connection = &mut *transaction;
        let edge = self.lock(connection).await?;
        let mut epochs = self.epochs(connection, group).await?;
        let mut tally = Tally::default();
        let mut outcomes = Vec::with_capacity(group.len());
        let mut findings = Vec::new();

        let mut new: Vec<Row<'_>> = Vec::new();
        for work in group {
            // INVARIANT: `epochs` has every epoch of the group; outcomes stay in step with it.
            let Some(epoch) = epochs.get_mut(&work.epoch) else { continue };
            let mut stored = Stored::new();
            if let Some((first, last)) = plan::delivered_before(work, epoch.watermark) {
                stored = self.stored(connection, epoch.id, first, last).await?;
                // An earlier batch of this group may hold them too.
                stored.extend(plan::stored_in(&new, epoch.id, first, last));
            }
            let (planned, outcome) = plan::plan(work, epoch, &stored);
            tally.duplicates += planned.duplicates;
            findings.extend(planned.finding.and_then(|finding| self.finding(work, finding, &mut tally)));
            new.extend(planned.new);
            outcomes.push(outcome);
        }

        let findings: Vec<Prepared> = findings
            .into_iter()
            .filter_map(|record| {
                Prepared::of(&record).inspect_err(|error| tracing::error!(%error, "a finding is lost")).ok()
            })
            .collect();
        if !findings.is_empty() {
            let (own_id, watermark) = self.own_epoch(connection, findings.len()).await?;
            for (sequence, entry) in (watermark + 1..).zip(&findings) {
                self.dictionaries.want(entry);
                new.push(Row { epoch_id: own_id, sequence, entry });
            }
            // Statements of their own, on another connection: what they add stays even if this transaction does not.
            self.dictionaries.resolve(store.pool()).await?;
        }
        let edge = self.append(connection, edge, &new).await?;
        self.move_epochs(connection, group, &epochs).await?;
        tally.ingested = new.len() as u64;
        transaction.commit().await?;

        self.metrics.ingested.inc_by(tally.ingested);
        self.metrics.duplicates.inc_by(tally.duplicates);
        self.metrics.conflicts.inc_by(tally.conflicts);
        self.metrics.gaps.inc_by(tally.gaps);
        self.metrics.missing.inc_by(tally.missing);
        self.metrics.batch_records.observe(tally.ingested as f64);
        self.metrics.tree_size.set(signed(edge.size()));
        self.edge = Some(edge);
        Ok(outcomes)
    }

    /// Counts a finding; its record, unless it was recorded before.
    fn finding(&mut self, work: &Work, finding: Finding, tally: &mut Tally) -> Option<Record> {
        let (producer, epoch) = (&*work.producer, work.epoch);
        match finding {
            Finding::Gap { first, last } => {
                tally.gaps += 1;
                tally.missing += last - first + 1;
                tracing::error!(producer, %epoch, first, last, "records are missing");
                Some(self.own.gap(producer, epoch, first, last))
            }
            Finding::Conflict { sequence, stored, came } => {
                tally.conflicts += 1;
                tracing::error!(producer, %epoch, sequence, "a record came again with other bytes");
                if self.conflicts.len() >= MAX_CONFLICTS {
                    self.conflicts.clear();
                }
                let first_time = self.conflicts.insert((epoch, sequence));
                first_time.then(|| self.own.conflict(producer, epoch, sequence, &stored, &came))
            }
        }
    }

    /// Locks the log and gives its tree; a tree that is not the one of our last commit is checked against what was
    /// signed.
    async fn lock(&mut self, connection: &mut PgConnection) -> Result<Edge, StoreError> {
        let row = sqlx::query_as("SELECT size, root FROM signet.logs WHERE id = $1 FOR UPDATE")
            .bind(self.store.log_id())
            .fetch_one(&mut *connection)
            .await?;
        let (size, root) = size_and_root(row);
        if let Some(edge) = self.edge.take()
            && !self.guard.is_contradicted()
            && edge.size() == size
            && edge.root() == root
        {
            return Ok(edge);
        }
        self.guard.check(&self.store, connection, size, &root).await?;
        self.store.edge(connection, size, &root).await
    }

    /// The epochs of a group; those that are new are made.
    async fn epochs(&self, connection: &mut PgConnection, group: &[Work]) -> Result<Epochs, sqlx::Error> {
        let mut names: Vec<Uuid> = group.iter().map(|work| work.epoch).collect();
        names.sort_unstable();
        names.dedup();
        type Found = (i32, Uuid, String, i64, i64, bool);
        let rows: Vec<Found> = sqlx::query_as(
            "SELECT id, epoch, producer, watermark, missing, closed FROM signet.epochs WHERE log_id = $1 AND epoch = ANY($2)",
        )
        .bind(self.store.log_id())
        .bind(&names)
        .fetch_all(&mut *connection)
        .await?;
        let mut epochs: Epochs = rows
            .into_iter()
            .map(|(id, epoch, producer, watermark, missing, closed)| {
                let (watermark, missing) = (watermark.unsigned_abs(), missing.unsigned_abs());
                (epoch, Epoch { id, producer, watermark, missing, closed, clock_offset_us: 0 })
            })
            .collect();
        for work in group {
            if let std::collections::hash_map::Entry::Vacant(vacant) = epochs.entry(work.epoch) {
                let id = self.make_epoch(&mut *connection, work.epoch, &work.producer).await?;
                let producer = work.producer.to_string();
                vacant.insert(Epoch { id, producer, watermark: 0, missing: 0, closed: false, clock_offset_us: 0 });
            }
        }
        Ok(epochs)
    }

    async fn make_epoch(&self, connection: &mut PgConnection, epoch: Uuid, producer: &str) -> Result<i32, sqlx::Error> {
        sqlx::query_scalar("INSERT INTO signet.epochs (log_id, epoch, producer) VALUES ($1, $2, $3) RETURNING id")
            .bind(self.store.log_id())
            .bind(epoch)
            .bind(producer)
            .fetch_one(connection)
            .await
    }

    /// Our own epoch, moved on by `count`; gives its watermark before that.
    async fn own_epoch(&self, connection: &mut PgConnection, count: usize) -> Result<(i32, u64), sqlx::Error> {
        let moved: (i32, i64) = sqlx::query_as(
            "INSERT INTO signet.epochs (log_id, epoch, producer, watermark) VALUES ($1, $2, $3, $4)
             ON CONFLICT (log_id, epoch) DO UPDATE SET watermark = signet.epochs.watermark + $4, last_seen = now()
             RETURNING id, watermark",
        )
        .bind(self.store.log_id())
        .bind(self.own.epoch)
        .bind(&self.own.producer)
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
        Ok((moved.0, moved.1.unsigned_abs() - count as u64))
    }

    /// The leaves stored under some sequences of an epoch.
    async fn stored(
        &self,
        connection: &mut PgConnection,
        epoch_id: i32,
        first: u64,
        last: u64,
    ) -> Result<Stored, StoreError> {
        let runs: Vec<(i64, i64, i32)> = sqlx::query_as(
            "SELECT first_leaf, first_sequence, records FROM signet.runs
             WHERE epoch_id = $1 AND first_sequence > $2 AND first_sequence <= $3 AND first_sequence + records > $4",
        )
        .bind(epoch_id)
        .bind(signed(first).saturating_sub(signed(MAX_RUN)))
        .bind(signed(last))
        .bind(signed(first))
        .fetch_all(&mut *connection)
        .await?;
        let mut leaves: Vec<(u64, u64)> = Vec::new();
        for (first_leaf, first_sequence, records) in runs {
            let (leaf, sequence) = (first_leaf.unsigned_abs(), first_sequence.unsigned_abs());
            let end = last.min(sequence + u64::from(records.unsigned_abs()) - 1);
            leaves.extend((sequence.max(first)..=end).map(|wanted| (wanted, leaf + (wanted - sequence))));
        }
        let tile = |leaf: u64| TileId { level: 0, index: leaf / TILE_WIDTH };
        let wanted: std::collections::BTreeSet<TileId> = leaves.iter().map(|(_, leaf)| tile(*leaf)).collect();
        let tiles = self.store.tiles(connection, &wanted.into_iter().collect::<Vec<_>>()).await?;
        let hash = |leaf: u64| tiles.get(&tile(leaf))?.get(usize::try_from(leaf % TILE_WIDTH).ok()?).copied();
        Ok(leaves.into_iter().filter_map(|(sequence, leaf)| Some((sequence, hash(leaf)?))).collect())
    }

    /// Appends the rows to the tree and the tables.
    async fn append(
        &mut self,
        connection: &mut PgConnection,
        mut edge: Edge,
        new: &[Row<'_>],
    ) -> Result<Edge, StoreError> {
        if new.is_empty() {
            return Ok(edge);
        }
        let numbers = new.iter().map(|row| rows::numbers(&self.dictionaries, row)).collect::<Result<Vec<_>, _>>();
        let numbers = numbers.map_err(|rows::Unresolved| sqlx::Error::RowNotFound)?;
        self.reader.resolve(&mut *connection, numbers.iter().copied()).await?;
        let mut maker = Maker::new(&self.reader, self.store.log_id(), now_us());
        let mut tiles = BTreeMap::new();
        let mut copying = Copying::begin(&mut *connection, rows::COPY_RECORDS).await?;
        for (part, numbers) in new.chunks(PART).zip(numbers.chunks(PART)) {
            for (row, numbers) in part.iter().zip(numbers) {
                maker.put(row, *numbers, signed(edge.size()));
                edge.append(row.entry.leaf, &mut tiles);
            }
            copying = copying.send(&mut maker.records).await?;
        }
        copying.finish(&mut maker.records).await?;
        maker.end_run();
        edge.flush(&mut tiles);
        maker.runs.copy(&mut *connection, rows::COPY_RUNS).await?;
        self.store.put_tiles(&mut *connection, &tiles).await?;
        sqlx::query("UPDATE signet.logs SET size = $2, root = $3 WHERE id = $1")
            .bind(self.store.log_id())
            .bind(signed(edge.size()))
            .bind(edge.root().as_slice())
            .execute(connection)
            .await?;
        Ok(edge)
    }

    async fn move_epochs(
        &self,
        connection: &mut PgConnection,
        group: &[Work],
        epochs: &Epochs,
    ) -> Result<(), sqlx::Error> {
        let moved: BTreeMap<i32, &Epoch> = group
            .iter()
            .filter_map(|work| epochs.get(&work.epoch).filter(|epoch| epoch.producer == *work.producer))
            .map(|epoch| (epoch.id, epoch))
            .collect();
        let ids: Vec<i32> = moved.keys().copied().collect();
        let watermarks: Vec<i64> = moved.values().map(|epoch| signed(epoch.watermark)).collect();
        let missing: Vec<i64> = moved.values().map(|epoch| signed(epoch.missing)).collect();
        let closed: Vec<bool> = moved.values().map(|epoch| epoch.closed).collect();
        let offsets: Vec<i64> = moved.values().map(|epoch| epoch.clock_offset_us).collect();
        sqlx::query(
            "UPDATE signet.epochs e SET watermark = m.watermark, missing = m.missing, closed = m.closed,
                    clock_offset_us = m.clock_offset_us, last_seen = now()
             FROM UNNEST($1::int[], $2::bigint[], $3::bigint[], $4::bool[], $5::bigint[])
                  AS m(id, watermark, missing, closed, clock_offset_us)
             WHERE e.id = m.id",
        )
        .bind(ids)
        .bind(watermarks)
        .bind(missing)
        .bind(closed)
        .bind(offsets)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Unix microseconds.
pub(crate) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
