//! A durable spool of records in one directory.
//!
//! Invariants:
//! - An appended record is in the page cache before `append` returns (one write), so it survives the death of the
//!   process; with `sync` it is on stable storage.
//! - Sequences of an epoch start at 1 and have no holes. An epoch is one opening; a new one begins with each.
//! - A failed write or fsync ends the spool: what the kernel then says about later writes cannot be trusted.
//! - A segment is deleted only when all of it was acknowledged.
//!
//! One thread per spool ([`sync`]) does everything that waits for a disk.

mod append;
mod config;
mod reading;
mod recovery;
mod segment;
mod state;
mod storage;
mod sync;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, TryLockError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

pub use config::{Durability, OnFull, SpoolConfig, SpoolError};
pub(crate) use reading::{Cursor, Entries, Fetched};
#[cfg(test)]
pub(crate) use segment::raw_openings;
pub(crate) use segment::{Frame, RawOpening};

use crate::metrics::{Collector, Counters};
use crate::record::{Kind, Record, RecordRef};
use recovery::Findings;
use state::{Epoch, Inner};
use storage::{Disk, Storage};

/// How far records are on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Synced {
    upto: u64,
    failed: bool,
}

/// What handles, the spool's thread and the shipper share.
pub(crate) struct Shared {
    config: SpoolConfig,
    producer: String,
    storage: Box<dyn Storage>,
    inner: Mutex<Inner>,
    /// Wakes the spool's thread.
    work: Condvar,
    /// Wakes those who wait for stable storage.
    synced: Condvar,
    synced_watch: watch::Sender<Synced>,
    /// Wakes the shipper.
    pub(crate) appended: Notify,
    /// Counts acknowledgements, for those who wait for a drained spool.
    acknowledged: watch::Sender<u64>,
    pub(crate) counters: Counters,
    /// Held for as long as the spool is open.
    _lock: File,
}

/// Ends the spool's thread with the last handle.
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Counters and levels of a spool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpoolStats {
    /// Records appended since the spool was opened.
    pub appended: u64,
    /// Records handed to the audit service, repeats included.
    pub shipped: u64,
    /// Records acknowledged as committed.
    pub acked: u64,
    /// Records in the spool that are not acknowledged.
    pub unacked: u64,
    /// Bytes that the files take.
    pub bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Appends that met a full spool, refused or not kept.
    pub full: u64,
    /// Age of the oldest record that is not acknowledged, seconds.
    pub oldest_unacked_seconds: f64,
    /// Failed fsyncs.
    pub fsync_failures: u64,
    /// Times that the audit service answered with an error.
    pub rejections: u64,
    /// Why the spool takes no more records, if so.
    pub failed: Option<String>,
}

/// Handle to a spool; clones share it. The last one dropped without [`Spool::close`] leaves the epoch to be
/// closed by the next opening.
#[derive(Clone)]
pub struct Spool {
    pub(crate) shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Spool").field("dir", &self.shared.config.dir).finish_non_exhaustive()
    }
}

impl Spool {
    /// Opens the spool in `config.dir` for `producer` (a SPIFFE ID), recovers what an earlier opening left, and
    /// starts a new epoch. Blocks on file operations.
    ///
    /// # Errors
    /// When the directory is in use or cannot be read or written.
    pub fn open(config: SpoolConfig, producer: &str) -> Result<Self, SpoolError> {
        Self::open_on(Box::new(Disk), config, producer)
    }

    fn open_on(storage: Box<dyn Storage>, config: SpoolConfig, producer: &str) -> Result<Self, SpoolError> {
        config.validate()?;
        let dir = &config.dir;
        std::fs::create_dir_all(dir).map_err(SpoolError::opening("make", dir))?;
        let lock = lock(&config)?;
        let (mut epochs, findings) = recovery::recover(dir, producer)?;
        // UUIDs of version 7 ascend within a millisecond too only inside one process, so the order of the names on
        // disk is by time; a clock that was set back is overruled here for this opening.
        let own = Uuid::now_v7();
        epochs.push_back(Epoch { closed: false, ..Epoch::recovered(own, 0, SystemTime::now()) });
        let shared = Arc::new(Shared {
            producer: producer.to_owned(),
            storage,
            inner: Mutex::new(Inner::new(own, epochs)),
            work: Condvar::new(),
            synced: Condvar::new(),
            synced_watch: watch::Sender::new(Synced::default()),
            appended: Notify::new(),
            acknowledged: watch::Sender::new(0),
            counters: Counters::default(),
            _lock: lock,
            config,
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("signet-spool".into())
            .spawn(move || sync::run(&for_thread))
            .map_err(SpoolError::opening("start the thread for", &shared.config.dir))?;
        let owner = Owner { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) };
        let spool = Self { shared, _owner: Arc::new(owner) };
        spool.report(&findings);
        Ok(spool)
    }

    /// Tells the log what recovery found; a spool without space says it in its own log only.
    fn report(&self, findings: &Findings) {
        for path in &findings.unreadable {
            tracing::error!(path = %path.display(), "a spool segment is unreadable; its records are missing");
            self.note(Kind::Gap, 1, "spool_segment_unreadable", format!("{{\"file\":\"{}\"}}", file_name(path)));
        }
        for finding in &findings.epochs {
            let (epoch, last, torn) = (finding.epoch, finding.last, finding.torn_bytes);
            for missing in &finding.missing {
                let (from, to) = (missing.start(), missing.end());
                tracing::error!(%epoch, from, to, "records in the spool are damaged");
                let detail = format!("{{\"epoch\":\"{epoch}\",\"from\":{from},\"to\":{to}}}");
                self.note(Kind::Gap, to - from + 1, "spool_damaged", detail);
            }
            if !finding.clean {
                tracing::warn!(%epoch, last, torn, "recovered the spool of a process that ended without closing it");
                let detail = format!("{{\"epoch\":\"{epoch}\",\"last\":{last},\"torn_bytes\":{torn}}}");
                self.note(Kind::Event, 1, "spool_recovered", detail);
            }
        }
    }

    fn note(&self, kind: Kind, count: u64, reason: &str, detail: String) {
        let record = self.shared.own_record(kind, count, reason, detail);
        if let Err(error) = self.append(&record) {
            tracing::error!(%error, reason, "cannot record what recovery of the spool found");
        }
    }

    /// The SPIFFE ID for which the spool was opened.
    #[must_use]
    pub fn producer(&self) -> &str {
        &self.shared.producer
    }

    /// Keeps a record. Thread-safe; blocks for microseconds, with [`Durability::Sync`] for an fsync.
    ///
    /// # Errors
    /// When the record was not kept: the caller must deny.
    pub fn append<'a>(&self, record: impl Into<RecordRef<'a>>) -> Result<(), SpoolError> {
        let sequence = self.shared.append(&record.into())?.sequence;
        if self.shared.config.durability == Durability::Sync { self.shared.wait_synced(sequence) } else { Ok(()) }
    }

    /// As [`Spool::append`], for async callers: with [`Durability::Sync`] it waits without blocking the thread.
    ///
    /// # Errors
    /// When the record was not kept: the caller must deny.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the record is in the spool and is shipped.
    pub async fn append_async<'a>(&self, record: impl Into<RecordRef<'a>>) -> Result<(), SpoolError> {
        self.append_first(record)?.kept().await
    }

    /// The first half of [`Spool::append_async`]: the record was written when this returns, and is not needed any more.
    ///
    /// # Errors
    /// When the record was not kept: the caller must deny.
    pub fn append_first<'a>(&self, record: impl Into<RecordRef<'a>>) -> Result<Appending<'_>, SpoolError> {
        let sequence = self.shared.append(&record.into())?.sequence;
        let waits = self.shared.config.durability == Durability::Sync;
        Ok(Appending { shared: &self.shared, waits_for: waits.then_some(sequence) })
    }

    /// Takes no more records, forces what is there to stable storage and marks the epoch closed. Idempotent.
    /// Blocks for an fsync.
    ///
    /// # Errors
    /// When the last records could not be forced to stable storage.
    pub fn close(&self) -> Result<(), SpoolError> {
        self.shared.close()
    }

    /// Waits until everything is acknowledged, at most `limit`; `true` when it is. Something must be running
    /// [`crate::ship`] meanwhile. What is left stays on disk for the next opening.
    pub async fn drain(&self, limit: Duration) -> bool {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let done = async { acknowledged.wait_for(|_| self.shared.inner.lock().drained()).await.is_ok() };
        tokio::time::timeout(limit, done).await.unwrap_or(false)
    }

    /// Counters and levels now.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        self.shared.stats()
    }

    /// Registers the metrics `signet_spool_*`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Collector::new(Arc::downgrade(&self.shared))));
    }
}

/// A record that was written, and is kept once it is as durable as the spool promises.
#[must_use = "a record is kept only when `kept` says so"]
pub struct Appending<'s> {
    shared: &'s Shared,
    waits_for: Option<u64>,
}

impl Appending<'_> {
    /// Whether there is anything to wait for: with [`Durability::Sync`].
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits_for.is_some()
    }

    /// Waits for what the durability asks for.
    ///
    /// # Errors
    /// When the record was not kept: the caller must deny.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the record is in the spool and is shipped.
    pub async fn kept(self) -> Result<(), SpoolError> {
        let Some(sequence) = self.waits_for else { return Ok(()) };
        let mut synced = self.shared.synced_watch.subscribe();
        let reached = synced.wait_for(|now| now.failed || now.upto >= sequence).await;
        if reached.is_ok_and(|now| now.upto >= sequence) { Ok(()) } else { Err(self.shared.failure()) }
    }
}

impl Shared {
    pub(crate) fn stats(&self) -> SpoolStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let inner = self.inner.lock();
        SpoolStats {
            appended: load(&self.counters.appended),
            shipped: load(&self.counters.shipped),
            acked: load(&self.counters.acked),
            unacked: inner.unacked(),
            bytes: inner.bytes,
            segments: inner.epochs.iter().map(|epoch| epoch.segments.len() as u64).sum(),
            full: load(&self.counters.full),
            oldest_unacked_seconds: inner.oldest_unacked_seconds(),
            fsync_failures: load(&self.counters.fsync_failures),
            rejections: load(&self.counters.rejections),
            failed: inner.failed.clone(),
        }
    }

    /// A record that the spool makes about itself.
    fn own_record(&self, kind: Kind, count: u64, reason: &str, detail: String) -> Record {
        Record {
            id: Uuid::now_v7(),
            time_us: now_us(),
            kind,
            producer: self.producer.clone(),
            action: "spool".into(),
            reason: reason.into(),
            tls: "none".into(),
            count,
            detail: Some(detail),
            ..Record::default()
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut inner = self.shared.inner.lock();
        inner.stop = true;
        if let Some(spare) = inner.spare.take() {
            inner.garbage.push((spare.path, self.shared.config.segment_bytes()));
        }
        drop(inner);
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the spool's thread ended abnormally");
        }
    }
}

/// Now, Unix microseconds.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn file_name(path: &std::path::Path) -> std::borrow::Cow<'_, str> {
    path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default()
}

fn lock(config: &SpoolConfig) -> Result<File, SpoolError> {
    let path = config.dir.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(SpoolError::opening("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked(config.dir.clone())),
        Err(TryLockError::Error(error)) => Err(SpoolError::opening("lock", &path)(error)),
    }
}
