//! The spool's own thread: forces records to stable storage, deletes what was acknowledged, makes and prepares spares.
//!
//! No appender touches the disk's latency unless it asked for `sync`. That includes what a file system does at the first
//! store into a page of reserved space: a spare is written with zeros before it is used
//! (docs/decisions/0016-segments-are-written-before-use.md).

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::config::Durability;
use super::state::{Inner, Spare};
use super::{Shared, Synced};

/// From the first unsynced record to its fsync; with the fsync itself this stays within 50 ms.
const LINGER: Duration = Duration::from_millis(20);
/// Bytes of a spare that are prepared at once: a few milliseconds of the time for which records linger anyway.
const SLICE: u64 = 1024 * 1024;
/// How often a spool that lost records looks whether it can write their gap record.
const RETRY: Duration = Duration::from_millis(200);

/// Runs until the last handle to the spool is gone.
pub(super) fn run(shared: &Shared) {
    loop {
        let mut inner = shared.inner.lock();
        while !has_work(shared, &inner) {
            if inner.stop {
                return;
            }
            if inner.lost.count > 0 {
                shared.work.wait_for(&mut inner, RETRY);
                shared.write_gap(&mut inner);
            } else {
                shared.work.wait(&mut inner);
            }
        }
        if shared.config.durability == Durability::Disk {
            let until = Instant::now() + LINGER;
            prepare(shared, &mut inner);
            while inner.dirty && !inner.urgent && !inner.stop {
                if shared.work.wait_until(&mut inner, until).timed_out() {
                    break;
                }
            }
        }
        let job = take(shared, &mut inner);
        drop(inner);
        perform(shared, job);
    }
}

fn wants_spare(shared: &Shared, inner: &Inner) -> bool {
    // Early enough to be prepared in time.
    let begun = inner.writer.as_ref().is_some_and(|writer| writer.offset > writer.capacity / 8);
    begun
        && inner.spare.is_none()
        && !inner.spare_blocked
        && inner.bytes + shared.config.segment_bytes() <= shared.config.max_bytes
}

fn wants_preparing(shared: &Shared, inner: &Inner) -> bool {
    shared.config.durability == Durability::Disk
        && inner.failed.is_none()
        && !inner.stop
        && inner.spare.as_ref().is_some_and(|spare| spare.prepared < shared.config.segment_bytes())
}

/// Prepares the next part of the spare, without the lock. It may be taken into use meanwhile.
fn prepare(shared: &Shared, inner: &mut MutexGuard<'_, Inner>) {
    let Some(spare) = inner.spare.as_ref().filter(|_| wants_preparing(shared, inner)) else { return };
    let (file, from) = (Arc::clone(&spare.file), spare.prepared);
    let upto = (from + SLICE).min(shared.config.segment_bytes());
    let prepared = MutexGuard::unlocked(inner, || file.prepare(from..upto));
    let upto = match prepared {
        Ok(()) => upto,
        // It is used as it is.
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => u64::MAX,
        Err(error) => {
            // If the file was taken into use, what failed may have been its records.
            shared.fail(inner, &format!("preparing a segment in `{}` failed: {error}", shared.config.dir.display()));
            return;
        }
    };
    if let Some(spare) = inner.spare.as_mut().filter(|spare| Arc::ptr_eq(&spare.file, &file)) {
        spare.prepared = upto;
    }
}

fn has_work(shared: &Shared, inner: &Inner) -> bool {
    (inner.dirty && inner.failed.is_none())
        || !inner.sealed.is_empty()
        || !inner.garbage.is_empty()
        || (!inner.stop && wants_spare(shared, inner))
        || wants_preparing(shared, inner)
}

struct Job {
    sync: bool,
    upto: u64,
    current: Option<Arc<dyn super::storage::SegmentFile>>,
    sealed: Vec<super::state::Sealed>,
    garbage: Vec<(std::path::PathBuf, u64)>,
    names_changed: bool,
    spare: Option<std::path::PathBuf>,
}

fn take(shared: &Shared, inner: &mut Inner) -> Job {
    let sync = shared.config.durability != Durability::Memory && inner.failed.is_none();
    let spare = wants_spare(shared, inner).then(|| {
        inner.bytes += shared.config.segment_bytes();
        shared.next_path(inner)
    });
    let garbage = std::mem::take(&mut inner.garbage);
    let names_changed = std::mem::take(&mut inner.names_changed) || !garbage.is_empty();
    let current = if inner.dirty { inner.writer.as_ref().map(|writer| Arc::clone(&writer.file)) } else { None };
    inner.dirty = false;
    inner.urgent = false;
    inner.syncing = true;
    Job {
        sync,
        upto: inner.next_sequence - 1,
        current,
        sealed: std::mem::take(&mut inner.sealed),
        garbage,
        names_changed,
        spare,
    }
}

fn perform(shared: &Shared, job: Job) {
    let spare = job.spare.map(|path| {
        let made = shared.storage.create(&path, shared.config.segment_bytes());
        made.map(|file| Spare { path, file, prepared: 0 })
    });
    let mut freed = 0;
    for (path, bytes) in &job.garbage {
        match shared.storage.remove(path) {
            Ok(()) => freed += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => freed += bytes,
            // Its bytes stay counted, since it still takes them; the next opening ships it again and deletes it.
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot delete an acknowledged segment"),
        }
    }
    let mut result = Ok(());
    for sealed in &job.sealed {
        if let Err(error) = sealed.file.trim(sealed.bytes) {
            tracing::debug!(%error, "cannot trim a full segment");
        }
        if job.sync {
            result = result.and_then(|()| sealed.file.sync());
        }
    }
    if job.sync {
        if let Some(current) = &job.current {
            result = result.and_then(|()| current.sync());
        }
        if job.names_changed || spare.is_some() {
            result = result.and_then(|()| shared.storage.sync_dir(&shared.config.dir));
        }
    }
    let mut inner = shared.inner.lock();
    inner.syncing = false;
    inner.bytes = inner.bytes.saturating_sub(freed);
    match spare {
        Some(Ok(spare)) => inner.spare = Some(spare),
        Some(Err(error)) => {
            inner.bytes = inner.bytes.saturating_sub(shared.config.segment_bytes());
            inner.spare_blocked = true;
            tracing::debug!(%error, "cannot make a segment ahead of time");
        }
        None => {}
    }
    match result {
        Ok(()) if job.sync => inner.synced = inner.synced.max(job.upto),
        Ok(()) => {}
        Err(error) => {
            shared.counters.fsync_failures.fetch_add(1, Ordering::Relaxed);
            shared.fail(&mut inner, &format!("fsync in `{}` failed: {error}", shared.config.dir.display()));
        }
    }
    if inner.lost.count > 0 && freed > 0 {
        shared.write_gap(&mut inner);
    }
    let synced = Synced { upto: inner.synced, failed: inner.failed.is_some() };
    drop(inner);
    shared.synced.notify_all();
    shared.synced_watch.send_if_modified(|now| std::mem::replace(now, synced) != synced);
}
