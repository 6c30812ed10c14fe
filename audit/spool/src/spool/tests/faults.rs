//! Disks that fail.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use super::super::storage::SegmentFile;
use super::*;

#[derive(Default)]
struct Switches {
    write: AtomicBool,
    sync: AtomicBool,
    full: AtomicBool,
    prepare: AtomicBool,
    syncs: AtomicU64,
    /// Bytes.
    prepared: AtomicU64,
}

struct Faulty(Arc<Switches>);

struct FaultyFile(Arc<dyn SegmentFile>, Arc<Switches>);

fn broken() -> std::io::Error {
    std::io::Error::other("injected")
}

impl Storage for Faulty {
    fn create(&self, path: &Path, bytes: u64) -> std::io::Result<Arc<dyn SegmentFile>> {
        if self.0.full.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(Arc::new(FaultyFile(Disk.create(path, bytes)?, Arc::clone(&self.0))))
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        Disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        Disk.sync_dir(dir)
    }
}

impl SegmentFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        if self.1.write.load(Ordering::Relaxed) { Err(broken()) } else { self.0.write_at(bytes, offset) }
    }

    fn sync(&self) -> std::io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::SeqCst);
        if self.1.sync.load(Ordering::Relaxed) { Err(broken()) } else { self.0.sync() }
    }

    fn trim(&self, bytes: u64) -> std::io::Result<()> {
        self.0.trim(bytes)
    }

    fn prepare(&self, bytes: Range<u64>) -> std::io::Result<()> {
        if self.1.prepare.load(Ordering::Relaxed) {
            return Err(broken());
        }
        self.1.prepared.fetch_add(bytes.end - bytes.start, Ordering::SeqCst);
        self.0.prepare(bytes)
    }
}

fn open(dir: &tempfile::TempDir, durability: Durability) -> (Spool, Arc<Switches>) {
    let switches = Arc::<Switches>::default();
    let config = SpoolConfig { durability, ..config(dir.path()) };
    (Spool::open_on(Box::new(Faulty(Arc::clone(&switches))), config, PRODUCER).unwrap(), switches)
}

#[test]
fn a_failed_write_ends_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Disk);
    spool.append(&numbered(1)).unwrap();
    switches.write.store(true, Ordering::Relaxed);
    assert!(matches!(spool.append(&numbered(2)), Err(SpoolError::Failed(_))));
    switches.write.store(false, Ordering::Relaxed);
    assert!(matches!(spool.append(&numbered(3)), Err(SpoolError::Failed(_))), "it stays failed");
    assert_eq!(numbers(&spool), [1], "what was kept is still shipped");
    assert!(spool.close().is_err());
}

#[test]
fn a_failed_fsync_ends_the_spool_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Disk);
    switches.sync.store(true, Ordering::Relaxed);
    spool.append(&numbered(1)).unwrap();
    eventually("the fsync", || spool.stats().fsync_failures == 1);
    assert!(matches!(spool.append(&numbered(2)), Err(SpoolError::Failed(_))));
    assert!(spool.stats().failed.is_some());
}

#[test]
fn sync_does_not_return_before_stable_storage() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Sync);
    for number in 1..=20 {
        let before = switches.syncs.load(Ordering::SeqCst);
        spool.append(&numbered(number)).unwrap();
        assert!(switches.syncs.load(Ordering::SeqCst) > before);
        assert!(spool.shared.inner.lock().synced >= number);
    }
    switches.sync.store(true, Ordering::Relaxed);
    assert!(matches!(spool.append(&numbered(21)), Err(SpoolError::Failed(_))));
}

#[tokio::test]
async fn sync_waits_without_blocking_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Sync);
    spool.append_async(&numbered(1)).await.unwrap();
    assert!(spool.shared.inner.lock().synced >= 1);
    switches.sync.store(true, Ordering::Relaxed);
    assert!(matches!(spool.append_async(&numbered(2)).await, Err(SpoolError::Failed(_))));
}

#[test]
fn sync_commits_in_groups() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Sync);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let spool = spool.clone();
            scope.spawn(move || (0..20).for_each(|n| spool.append(&numbered(thread * 20 + n)).unwrap()));
        }
    });
    let syncs = switches.syncs.load(Ordering::SeqCst);
    assert!(syncs < 320, "{syncs} fsyncs for 320 records of 16 threads");
}

#[test]
fn memory_never_waits_for_stable_storage() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Memory);
    (1..=3_000).for_each(|number| spool.append(&numbered(number)).unwrap());
    spool.close().unwrap();
    assert_eq!(switches.syncs.load(Ordering::SeqCst), 0);
    assert_eq!(numbers(&spool).len(), 3_000);
}

#[test]
fn a_full_disk_is_a_full_spool_and_not_a_failed_one() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Disk);
    switches.full.store(true, Ordering::Relaxed);
    assert_eq!(spool.append(&numbered(1)), Err(SpoolError::Full));
    switches.full.store(false, Ordering::Relaxed);
    spool.append(&numbered(1)).unwrap();
}

#[test]
fn the_next_segment_is_written_with_zeros_before_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Disk);
    let whole = config(dir.path()).segment_bytes();
    // More than an eighth of a segment, and less than a whole one.
    let mut last = 300;
    (1..=last).for_each(|number| spool.append(&numbered(number)).unwrap());
    assert_eq!(spool.stats().segments, 1);
    eventually("the segment after it", || switches.prepared.load(Ordering::SeqCst) == whole);
    while spool.stats().segments < 2 {
        last += 1;
        spool.append(&numbered(last)).unwrap();
    }
    assert_eq!(numbers(&spool), (1..=last).collect::<Vec<_>>());
    spool.close().unwrap();
    drop(spool);
    assert_eq!(numbers(&Spool::open(config(dir.path()), PRODUCER).unwrap()), (1..=last).collect::<Vec<_>>());
}

#[test]
fn zeros_never_go_over_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one");
    let file = Disk.create(&path, 300_000).unwrap();
    file.prepare(0..300_000).unwrap();
    file.write_at(b"a record", 70_000).unwrap();
    file.prepare(0..300_000).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((bytes.len(), &bytes[70_000..70_008]), (300_000, &b"a record"[..]));
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 8);
}

#[test]
fn a_disk_that_fails_while_a_segment_is_prepared_ends_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, switches) = open(&dir, Durability::Disk);
    switches.prepare.store(true, Ordering::Relaxed);
    // It may fail before the last of these.
    (1..=200).for_each(|number| drop(spool.append(&numbered(number))));
    eventually("the failure", || spool.stats().failed.is_some());
    assert!(matches!(spool.append(&numbered(201)), Err(SpoolError::Failed(_))));
}
