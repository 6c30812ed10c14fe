//! Reading what an earlier opening of the spool left: every epoch ends at its last whole record.
//!
//! A torn tail is what a killed process leaves: bytes after the last whole record that belong to no record whose
//! `append` returned. A hole, bytes that are no record with whole records behind them, is damage: the records
//! around it are kept under their own sequences and the missing ones are reported.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::config::SpoolError;
use super::segment::{self, Found, Header};
use super::state::{Epoch, Segment};

/// What recovery found beside the epochs.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) epochs: Vec<Finding>,
    /// Files that are no segment; they are left where they are, renamed to `*.corrupt`.
    pub(crate) unreadable: Vec<PathBuf>,
}

/// How one epoch was found.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) epoch: Uuid,
    pub(crate) last: u64,
    /// It was closed by its process.
    pub(crate) clean: bool,
    pub(crate) torn_bytes: u64,
    pub(crate) missing: Vec<RangeInclusive<u64>>,
}

struct Scanned {
    header: Header,
    segment: Segment,
    missing: Vec<RangeInclusive<u64>>,
    torn_bytes: u64,
    closing: Option<u64>,
    modified: SystemTime,
}

/// The epochs in `dir`, oldest first, all closed. Segments that never held a record are deleted.
pub(crate) fn recover(dir: &Path, producer: &str) -> Result<(VecDeque<Epoch>, Findings), SpoolError> {
    let mut findings = Findings::default();
    let mut scanned = Vec::new();
    let header_bytes = Header { epoch: Uuid::nil(), first: 1, producer: producer.to_owned() }.encode().len();
    for entry in std::fs::read_dir(dir).map_err(SpoolError::opening("list", dir))? {
        let path = entry.map_err(SpoolError::opening("list", dir))?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(SpoolError::opening("read", &path))?;
        let modified = std::fs::metadata(&path).and_then(|data| data.modified()).unwrap_or_else(|_| SystemTime::now());
        match Header::decode(&bytes) {
            Some((header, start)) => {
                scanned.push(scan(path, &bytes, header, start, modified));
            }
            // Preallocated and never used, or killed while its header was written: no record is in it.
            None if bytes.iter().skip(header_bytes).all(|byte| *byte == 0) => {
                std::fs::remove_file(&path).map_err(SpoolError::opening("delete", &path))?;
            }
            None => {
                let aside = path.with_extension("corrupt");
                std::fs::rename(&path, &aside).map_err(SpoolError::opening("rename", &path))?;
                findings.unreadable.push(aside);
            }
        }
    }
    scanned.sort_by_key(|one| (one.header.epoch, one.header.first));
    let mut epochs: VecDeque<Epoch> = VecDeque::new();
    for one in scanned {
        join(&mut epochs, &mut findings.epochs, one);
    }
    for (epoch, finding) in epochs.iter_mut().zip(&mut findings.epochs) {
        finding.last = epoch.last;
    }
    // An epoch that never had a record has nothing to tell.
    for segment in epochs.iter().filter(|epoch| epoch.last == 0).flat_map(|epoch| &epoch.segments) {
        std::fs::remove_file(&segment.path).map_err(SpoolError::opening("delete", &segment.path))?;
    }
    epochs.retain(|epoch| epoch.last > 0);
    findings.epochs.retain(|finding| finding.last > 0);
    Ok((epochs, findings))
}

/// Adds a segment to the epoch that it continues or begins.
fn join(epochs: &mut VecDeque<Epoch>, findings: &mut Vec<Finding>, mut one: Scanned) {
    let before_first = one.header.first.saturating_sub(1);
    if epochs.back().is_none_or(|epoch| epoch.id != one.header.epoch) {
        // Segments before this one were deleted because they were acknowledged.
        epochs.push_back(Epoch::recovered(one.header.epoch, before_first, one.modified));
        findings.push(Finding { epoch: one.header.epoch, last: 0, clean: false, torn_bytes: 0, missing: Vec::new() });
    }
    let (Some(epoch), Some(finding)) = (epochs.back_mut(), findings.last_mut()) else { return };
    if before_first > epoch.last {
        finding.missing.push(epoch.last + 1..=before_first);
    }
    finding.missing.append(&mut one.missing);
    finding.torn_bytes += one.torn_bytes;
    epoch.last = one.segment.last.max(epoch.last).max(before_first);
    if let Some(closed_at) = one.closing {
        finding.clean = true;
        if closed_at > epoch.last {
            finding.missing.push(epoch.last + 1..=closed_at);
            epoch.last = closed_at;
        }
    }
    epoch.segments.push_back(one.segment);
}

/// How many bytes there are before nothing but zeros.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |position| position + 1)
}

/// Gives back the preallocated space that was not used; it is only space, so a failure is only logged.
fn trim(path: &Path, bytes: usize) {
    let trimmed = std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(bytes as u64));
    if let Err(error) = trimmed {
        tracing::debug!(%error, path = %path.display(), "cannot trim a recovered segment");
    }
}

fn scan(path: PathBuf, bytes: &[u8], header: Header, start: usize, modified: SystemTime) -> Scanned {
    let mut last = header.first.saturating_sub(1);
    let mut missing = Vec::new();
    let mut torn_bytes = 0;
    let mut closing = None;
    let mut at = start;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match segment::read(rest) {
            Found::Frame(frame, size) if frame.sequence > last => {
                if frame.sequence > last + 1 {
                    missing.push(last + 1..=frame.sequence - 1);
                }
                last = frame.sequence;
                at += size;
            }
            Found::Closing(sequence) => {
                closing = Some(sequence);
                break;
            }
            // Zeros may be the unused rest, or a page that never reached the disk with later ones that did.
            Found::End | Found::Broken | Found::Frame(..) => match segment::resynchronise(rest, last) {
                Some(offset) if offset > 0 => at += offset,
                _ => {
                    torn_bytes = written(rest) as u64;
                    break;
                }
            },
        }
    }
    // A closing mark may end in zeros too, and nothing follows it: such a segment is left as it is.
    let used =
        if closing.is_some() { bytes.len() } else { (at + written(bytes.get(at..).unwrap_or_default())).max(start) };
    trim(&path, used);
    let segment = Segment { path, last, start: start as u64, data: at as u64, allocated: used as u64 };
    Scanned { header, segment, missing, torn_bytes, closing, modified }
}
