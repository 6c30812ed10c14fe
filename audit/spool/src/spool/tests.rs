//! The spool: order, recovery after crashes, what it does when full, and its closing.

mod crash;
mod faults;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::testing::{fetch_all, records};

pub(super) const PRODUCER: &str = "spiffe://east.bank.example/ns/bank/proxy/ledger";

pub(super) fn config(dir: &Path) -> SpoolConfig {
    SpoolConfig { dir: dir.into(), durability: Durability::Disk, on_full: OnFull::Deny, max_bytes: 1 << 20 }
}

pub(super) fn numbered(number: u64) -> Record {
    Record {
        id: Uuid::now_v7(),
        producer: PRODUCER.into(),
        reason: number.to_string(),
        source_address: Some("127.0.0.1:1".into()),
        ..Record::default()
    }
}

/// The numbers of the records in the spool that [`numbered`] made.
pub(super) fn numbers(spool: &Spool) -> Vec<u64> {
    records(spool).iter().filter_map(|record| record.reason.parse().ok()).collect()
}

pub(super) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < until, "waited for: {what}");
        std::thread::yield_now();
    }
}

/// Acknowledges everything that can be fetched.
fn acknowledge_all(spool: &Spool) {
    for fetched in fetch_all(spool) {
        spool.shared.acknowledge(fetched.epoch, fetched.last(), fetched.closing);
    }
}

#[test]
fn what_was_appended_is_read_in_order_and_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    (1..=1_200).for_each(|number| spool.append(&numbered(number)).unwrap());
    assert_eq!(numbers(&spool), (1..=1_200).collect::<Vec<_>>());
    let epoch = fetch_all(&spool)[0].epoch;
    drop(spool);
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    assert_eq!(numbers(&spool), (1..=1_200).collect::<Vec<_>>());
    let fetched = fetch_all(&spool);
    let of_old: Vec<_> = fetched.iter().filter(|one| one.epoch == epoch).collect();
    assert_eq!(of_old.iter().map(|one| one.closing).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!((of_old[1].first, of_old[2].last()), (of_old[0].last() + 1, 1_200));
    let own = records(&spool).pop().unwrap();
    assert_eq!((own.kind, own.reason.as_str()), (Kind::Event, "spool_recovered"));
}

#[test]
fn a_closed_spool_takes_nothing_and_leaves_nothing_when_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    spool.append(&numbered(1)).unwrap();
    spool.close().unwrap();
    spool.close().unwrap();
    assert_eq!(spool.append(&numbered(2)), Err(SpoolError::Closed));
    let fetched = fetch_all(&spool);
    assert_eq!((fetched.len(), fetched[0].closing), (1, true));
    spool.shared.acknowledge(fetched[0].epoch, 1, false);
    assert!(!spool.shared.finished(), "the closing is not acknowledged");
    spool.shared.acknowledge(fetched[0].epoch, 1, true);
    assert!(spool.shared.finished());
    drop(spool);
    assert_eq!(segments(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_spool_closed_in_order_is_recovered_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    spool.append(&numbered(1)).unwrap();
    spool.close().unwrap();
    drop(spool);
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    assert_eq!(records(&spool).len(), 1);
    acknowledge_all(&spool);
    assert_eq!((spool.stats().unacked, spool.stats().acked), (0, 1));
    assert!(spool.shared.inner.lock().drained());
}

#[test]
fn the_closing_goes_out_alone_when_the_records_were_sent_before() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    spool.append(&numbered(1)).unwrap();
    let mut cursor = Cursor::default();
    let sent = spool.shared.fetch(&mut cursor, 500).unwrap().unwrap();
    assert_eq!((sent.first, sent.closing), (1, false));
    assert_eq!(spool.shared.fetch(&mut cursor, 500).unwrap(), None);
    spool.close().unwrap();
    let closing = spool.shared.fetch(&mut cursor, 500).unwrap().unwrap();
    assert_eq!((closing.first, closing.last(), closing.entries.count, closing.closing), (2, 1, 0, true));
    assert_eq!(spool.shared.fetch(&mut cursor, 500).unwrap(), None);
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    let second = Spool::open(config(dir.path()), PRODUCER).unwrap_err();
    assert_eq!(second, SpoolError::Locked(dir.path().into()));
    assert!(Spool::open(SpoolConfig { max_bytes: 10, ..config(dir.path()) }, PRODUCER).is_err());
}

#[test]
fn a_full_spool_denies_until_acknowledgements_make_space() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    let mut kept = 0;
    while spool.append(&numbered(kept + 1)).is_ok() {
        kept += 1;
    }
    assert_eq!(spool.append(&numbered(0)), Err(SpoolError::Full));
    assert_eq!(spool.stats().full, 2);
    eventually("trimmed segments", || spool.shared.inner.lock().sealed.is_empty());
    let on_disk: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(on_disk <= 1 << 20, "{on_disk}");
    assert_eq!(numbers(&spool), (1..=kept).collect::<Vec<_>>(), "what was kept is still there");
    acknowledge_all(&spool);
    eventually("space", || spool.append(&numbered(kept + 1)).is_ok());
    assert_eq!(numbers(&spool), [kept + 1]);
}

#[test]
fn a_full_spool_that_allows_counts_and_tells_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(SpoolConfig { on_full: OnFull::Allow, ..config(dir.path()) }, PRODUCER).unwrap();
    let mut appended = 0;
    while spool.stats().full < 25 {
        appended += 1;
        spool.append(&numbered(appended)).unwrap();
    }
    acknowledge_all(&spool);
    eventually("the gap record", || records(&spool).iter().any(|record| record.kind == Kind::Gap));
    spool.append(&numbered(appended + 1)).unwrap();
    let left = records(&spool);
    assert_eq!(left.iter().map(|record| record.kind).collect::<Vec<_>>(), [Kind::Gap, Kind::Decision]);
    assert_eq!((left[0].count, left[0].reason.as_str()), (25, "spool_full"));
}

#[test]
fn many_threads_append_without_a_hole_or_a_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(SpoolConfig { max_bytes: 64 << 20, ..config(dir.path()) }, PRODUCER).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let spool = spool.clone();
            scope.spawn(move || (0..1_000).for_each(|n| spool.append(&numbered(thread * 1_000 + n)).unwrap()));
        }
    });
    let found = numbers(&spool);
    assert_eq!(found.len(), 8_000);
    assert_eq!(found.iter().copied().collect::<BTreeSet<_>>().len(), 8_000);
    let mut expected = 1;
    for fetched in fetch_all(&spool) {
        assert_eq!(fetched.first, expected);
        expected = fetched.last() + 1;
    }
    assert_eq!(expected, 8_001);
}

#[test]
fn acknowledgements_of_what_never_was_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    spool.append(&numbered(1)).unwrap();
    let epoch = fetch_all(&spool)[0].epoch;
    spool.shared.acknowledge(epoch, 99, false);
    spool.shared.acknowledge(Uuid::now_v7(), 1, true);
    assert_eq!(numbers(&spool), [1]);
    spool.shared.acknowledge(epoch, 1, true);
    spool.append(&numbered(2)).unwrap();
    assert_eq!(numbers(&spool), [2], "an open epoch is not forgotten");
}

#[test]
fn metrics_say_what_the_spool_holds() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    spool.append(&numbered(1)).unwrap();
    let mut registry = Registry::default();
    spool.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("signet_spool_appended_total 1\n"), "{text}");
    assert!(text.contains("signet_spool_unacked_records 1.0\n"), "{text}");
    assert!(text.contains("signet_spool_failed 0.0\n"), "{text}");
}
