//! What a spool knows about its files, under one short lock.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use uuid::Uuid;

use super::storage::SegmentFile;

/// A segment file that holds records, or will.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// Sequence of its last record; while it is empty, of the last before it.
    pub(crate) last: u64,
    /// Records lie in the file from `start` to `data`.
    pub(crate) start: u64,
    pub(crate) data: u64,
    /// Bytes that the file takes.
    pub(crate) allocated: u64,
}

/// One opening of the spool.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub(crate) id: Uuid,
    pub(crate) segments: VecDeque<Segment>,
    /// Last sequence appended; 0 while there is none.
    pub(crate) last: u64,
    /// Everything up to this is committed.
    pub(crate) acked: u64,
    /// Nothing is appended any more.
    pub(crate) closed: bool,
    /// Of an earlier opening: when its records were at the latest older than.
    pub(crate) since: SystemTime,
}

impl Epoch {
    pub(crate) fn recovered(id: Uuid, acked: u64, since: SystemTime) -> Self {
        Self { id, segments: VecDeque::new(), last: acked, acked, closed: true, since }
    }

    pub(crate) fn unacked(&self) -> u64 {
        self.last.saturating_sub(self.acked)
    }
}

/// The segment that is being appended to; its [`Segment`] is the last one of the last epoch.
pub(crate) struct Writer {
    pub(crate) file: Arc<dyn SegmentFile>,
    pub(crate) offset: u64,
    pub(crate) capacity: u64,
}

/// A preallocated file for the next segment.
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn SegmentFile>,
    /// Zeros are on stable storage up to here.
    pub(crate) prepared: u64,
}

/// A segment that is full: to be trimmed to its data, and synced.
pub(crate) struct Sealed {
    pub(crate) file: Arc<dyn SegmentFile>,
    pub(crate) bytes: u64,
}

/// Records that met a full spool while `on_full` is `allow`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lost {
    pub(crate) count: u64,
    pub(crate) first_us: i64,
    pub(crate) last_us: i64,
}

/// INVARIANT: `epochs.back()` is this opening's epoch until it is closed and acknowledged.
pub(crate) struct Inner {
    pub(crate) own: Uuid,
    pub(crate) epochs: VecDeque<Epoch>,
    pub(crate) writer: Option<Writer>,
    pub(crate) spare: Option<Spare>,
    /// No spare could be made; not tried again before the next roll.
    pub(crate) spare_blocked: bool,
    pub(crate) next_sequence: u64,
    pub(crate) next_file: u64,
    /// Bytes that all files take.
    pub(crate) bytes: u64,
    /// Records were written that are not on stable storage.
    pub(crate) dirty: bool,
    /// Somebody waits for stable storage.
    pub(crate) urgent: bool,
    pub(crate) syncing: bool,
    /// Names in the directory changed since it was last synced.
    pub(crate) names_changed: bool,
    pub(crate) sealed: Vec<Sealed>,
    /// Files to delete, with the bytes that they take.
    pub(crate) garbage: Vec<(PathBuf, u64)>,
    /// Last sequence on stable storage.
    pub(crate) synced: u64,
    pub(crate) lost: Lost,
    pub(crate) failed: Option<String>,
    pub(crate) closed: bool,
    /// The last handle is gone.
    pub(crate) stop: bool,
    /// When some sequences were appended, at most one per 100 ms, ascending.
    marks: VecDeque<(u64, Instant)>,
}

const MOST_MARKS: usize = 8_192;

impl Inner {
    pub(crate) fn new(own: Uuid, epochs: VecDeque<Epoch>) -> Self {
        let bytes = epochs.iter().flat_map(|epoch| &epoch.segments).map(|segment| segment.allocated).sum();
        Self {
            own,
            epochs,
            writer: None,
            spare: None,
            spare_blocked: false,
            next_sequence: 1,
            next_file: 1,
            bytes,
            dirty: false,
            urgent: false,
            syncing: false,
            names_changed: true,
            sealed: Vec::new(),
            garbage: Vec::new(),
            synced: 0,
            lost: Lost::default(),
            failed: None,
            closed: false,
            stop: false,
            marks: VecDeque::new(),
        }
    }

    /// This opening's epoch.
    pub(crate) fn own_epoch(&mut self) -> Option<&mut Epoch> {
        let own = self.own;
        self.epochs.back_mut().filter(|epoch| epoch.id == own)
    }

    /// Notes that `sequence` was appended, for the age of what is not acknowledged.
    pub(crate) fn mark(&mut self, sequence: u64) {
        let now = Instant::now();
        let due = self.marks.back().is_none_or(|(_, at)| now.duration_since(*at).as_millis() >= 100);
        if due && self.marks.len() < MOST_MARKS {
            self.marks.push_back((sequence, now));
        }
    }

    /// Takes the current segment out of use.
    pub(crate) fn seal(&mut self, extra: u64) {
        let Some(writer) = self.writer.take() else { return };
        let bytes = writer.offset + extra;
        let mut freed = 0;
        if let Some(segment) = self.own_epoch().and_then(|epoch| epoch.segments.back_mut()) {
            freed = segment.allocated.saturating_sub(bytes);
            segment.allocated = bytes;
        }
        self.bytes = self.bytes.saturating_sub(freed);
        self.sealed.push(Sealed { file: writer.file, bytes });
        self.collect();
    }

    /// Everything of `epoch` up to `committed` is committed, with `closed` also its closing. Returns how many
    /// records that newly acknowledges, `None` when `committed` is beyond what was ever appended.
    pub(crate) fn acknowledge(&mut self, epoch: Uuid, committed: u64, closed: bool) -> Option<u64> {
        let own = self.own;
        let Some(found) = self.epochs.iter_mut().find(|one| one.id == epoch) else { return Some(0) };
        if found.id == own && committed > found.last {
            return None;
        }
        let before = found.acked;
        found.acked = committed.min(found.last).max(before);
        let (newly, acked, last) = (found.acked - before, found.acked, found.last);
        if closed && found.closed && acked == last {
            // Beyond the last, so that `collect` takes the segment that remembers the epoch too.
            if let Some(at) = self.epochs.iter().position(|one| one.id == epoch)
                && let Some(done) = self.epochs.remove(at)
            {
                self.garbage.extend(done.segments.into_iter().map(|segment| (segment.path, segment.allocated)));
            }
        }
        if epoch == own {
            while self.marks.get(1).is_some_and(|(sequence, _)| *sequence <= acked + 1) {
                self.marks.pop_front();
            }
            if acked == last {
                self.marks.clear();
            }
        }
        self.collect();
        Some(newly)
    }

    /// Moves segments that are acknowledged as a whole to the garbage. The last segment of a closed epoch stays
    /// until its closing is acknowledged, and the segment being written stays.
    fn collect(&mut self) {
        let writing = self.writer.is_some();
        let own = self.own;
        for epoch in &mut self.epochs {
            let keep = usize::from(epoch.closed || (epoch.id == own && writing));
            while epoch.segments.len() > keep
                && epoch.segments.front().is_some_and(|segment| segment.last <= epoch.acked)
                && let Some(segment) = epoch.segments.pop_front()
            {
                self.garbage.push((segment.path, segment.allocated));
            }
        }
    }

    pub(crate) fn unacked(&self) -> u64 {
        self.epochs.iter().map(Epoch::unacked).sum()
    }

    /// Nothing is left to tell the audit service.
    pub(crate) fn drained(&self) -> bool {
        self.epochs.iter().all(|epoch| !epoch.closed && epoch.unacked() == 0)
    }

    /// Age in seconds of the oldest record that is not acknowledged.
    pub(crate) fn oldest_unacked_seconds(&self) -> f64 {
        let Some(oldest) = self.epochs.iter().find(|epoch| epoch.unacked() > 0) else { return 0.0 };
        if oldest.id == self.own {
            return self.marks.front().map_or(0.0, |(_, at)| at.elapsed().as_secs_f64());
        }
        oldest.since.elapsed().map_or(0.0, |age| age.as_secs_f64())
    }
}
