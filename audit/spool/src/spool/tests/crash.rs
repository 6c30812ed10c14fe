//! What a killed process, a torn write or a damaged disk leaves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// One segment with records 1 to 3, as a killed process leaves it, and the offsets at which its records end.
fn abandoned() -> (Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
    let mut ends = Vec::new();
    for number in 1..=3 {
        spool.append(&numbered(number)).unwrap();
        ends.push(usize::try_from(spool.shared.inner.lock().writer.as_ref().unwrap().offset).unwrap());
    }
    drop(spool);
    (std::fs::read(&segments(dir.path())[0]).unwrap(), ends)
}

fn recovered(bytes: &[u8]) -> Spool {
    // The directory outlives the spool: only what was read at opening and stays in its file is looked at.
    let dir = tempfile::tempdir().unwrap().keep();
    std::fs::write(dir.join("old.seg"), bytes).unwrap();
    Spool::open(config(&dir), PRODUCER).unwrap()
}

fn discard(spool: Spool) {
    let dir = spool.shared.config.dir.clone();
    drop(spool);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_the_record_in_it() {
    let (bytes, ends) = abandoned();
    for end in ends[0]..ends[2] {
        let whole = ends.iter().filter(|one| **one <= end).count() as u64;
        for torn in [bytes[..end].to_vec(), [&bytes[..end], &[0; 3_000]].concat()] {
            let spool = recovered(&torn);
            assert_eq!(numbers(&spool), (1..=whole).collect::<Vec<_>>(), "torn at {end}");
            let kinds: Vec<_> = records(&spool).iter().map(|record| record.kind).collect();
            assert!(!kinds.contains(&Kind::Gap), "a torn tail is no gap");
            discard(spool);
        }
    }
}

#[test]
fn damage_in_the_middle_keeps_what_is_whole_and_is_told() {
    let (bytes, ends) = abandoned();
    for at in (ends[0]..ends[1]).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let spool = recovered(&damaged);
        assert_eq!(numbers(&spool), [1, 3], "damaged at {at}");
        let firsts: Vec<_> = fetch_all(&spool).iter().map(|one| one.first).collect();
        assert_eq!(firsts, [1, 3, 1], "the sequences of the rest stay");
        let gap = records(&spool).into_iter().find(|record| record.kind == Kind::Gap).unwrap();
        assert_eq!((gap.count, gap.reason.as_str()), (1, "spool_damaged"));
        discard(spool);
    }
}

#[test]
fn a_page_that_never_reached_the_disk_is_a_gap() {
    let (mut bytes, ends) = abandoned();
    bytes[ends[0]..ends[1]].fill(0);
    let spool = recovered(&bytes);
    assert_eq!(numbers(&spool), [1, 3]);
    discard(spool);
}

#[test]
fn a_damaged_header_is_set_aside_and_told() {
    let (mut bytes, _) = abandoned();
    bytes[20] ^= 1;
    let spool = recovered(&bytes);
    assert_eq!(records(&spool)[0].reason, "spool_segment_unreadable");
    assert!(spool.shared.config.dir.join("old.corrupt").exists());
    discard(spool);
}

#[test]
fn arbitrary_bytes_never_stop_an_opening() {
    let mut seed = fastrand::Rng::with_seed(7);
    let (bytes, _) = abandoned();
    for _ in 0..40 {
        let mut damaged = bytes[..seed.usize(1..3_000)].to_vec();
        for _ in 0..seed.usize(1..20) {
            let at = seed.usize(..damaged.len());
            damaged[at] = seed.u8(..);
        }
        let spool = recovered(&damaged);
        spool.append(&numbered(77)).unwrap();
        assert_eq!(numbers(&spool).pop(), Some(77));
        discard(spool);
    }
}

const CHILD_DIR: &str = "SIGNET_SPOOL_TEST_DIR";

#[test]
#[ignore = "the child of records_whose_append_returned_survive_sigkill"]
fn child_appends_until_it_is_killed() {
    let dir = std::env::var(CHILD_DIR).expect("run by its parent");
    let spool = Spool::open(SpoolConfig { max_bytes: 256 << 20, ..config(Path::new(&dir)) }, PRODUCER).unwrap();
    for number in 1.. {
        spool.append(&numbered(number)).unwrap();
        println!("\nappended {number}");
    }
}

#[test]
fn records_whose_append_returned_survive_sigkill() {
    for killed_after in [1, 500, 7_000] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "spool::tests::crash::child_appends_until_it_is_killed"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut returned = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some(number) = line.strip_prefix("appended ") else { continue };
            // The last line may be cut by the kill.
            returned = number.parse::<u64>().unwrap().max(returned);
            if returned == killed_after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(returned >= killed_after, "the child appended {returned}");
        let spool = Spool::open(config(dir.path()), PRODUCER).unwrap();
        let found = numbers(&spool);
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
        assert!(found.len() as u64 >= killed_after, "{} of {killed_after}", found.len());
    }
}
