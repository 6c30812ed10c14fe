//! The hot path: a record becomes a frame outside the lock, and one write inside it.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use super::Shared;
use super::config::{Durability, OnFull, SpoolError};
use super::segment::{self, FRAME_HEADER, Framer, Header, Unnumbered};
use super::state::{Inner, Lost, Segment, Spare, Writer};
use crate::commitment::Salts;
use crate::record::{Kind, RecordRef};

/// Buffers that a thread keeps, so that an append allocates nothing.
struct Scratch {
    salts: Salts,
    framer: Framer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch { salts: Salts::new(), framer: Framer::new() });
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    /// 0 when the record was counted instead (`on_full: allow`).
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
}

impl Shared {
    /// Writes a record, or does with a full spool what the configuration says; does not wait for stable storage.
    pub(crate) fn append(&self, record: &RecordRef<'_>) -> Result<Appended, SpoolError> {
        self.append_or(record, self.config.on_full)
    }

    /// Writes a record; `on_full` says what a full spool means to this caller.
    pub(crate) fn append_or(&self, record: &RecordRef<'_>, on_full: OnFull) -> Result<Appended, SpoolError> {
        let appended = SCRATCH.try_with(|scratch| {
            let mut scratch = scratch.borrow_mut();
            let Scratch { salts, framer } = &mut *scratch;
            let frame = framer.build(|out, sink| record.encode_into(salts, out, sink))?;
            self.admit(&mut self.inner.lock(), frame, record.time_us, on_full)
        });
        let appended = appended.unwrap_or_else(|_| Err(SpoolError::Failed("the calling thread is ending".into())))?;
        self.appended.notify_one();
        Ok(appended)
    }

    fn admit(
        &self,
        inner: &mut Inner,
        mut frame: Unnumbered<'_>,
        time_us: i64,
        on_full: OnFull,
    ) -> Result<Appended, SpoolError> {
        if let Some(why) = &inner.failed {
            return Err(SpoolError::Failed(why.clone()));
        }
        if inner.closed {
            return Err(SpoolError::Closed);
        }
        self.write_gap(inner);
        let put = if inner.lost.count > 0 { Err(SpoolError::Full) } else { self.put(inner, &mut frame) };
        match put {
            Err(SpoolError::Full) => {
                self.counters.full.fetch_add(1, Ordering::Relaxed);
                if on_full == OnFull::Deny {
                    return Err(SpoolError::Full);
                }
                if inner.lost.count == 0 {
                    tracing::error!(dir = %self.config.dir.display(), "the spool is full; records are counted, not kept");
                    inner.lost.first_us = time_us;
                    self.work.notify_one();
                }
                inner.lost.count += 1;
                inner.lost.last_us = time_us;
                Ok(Appended { sequence: 0, bytes: 0 })
            }
            other => other,
        }
    }

    /// Writes the gap record of lost records, if there are any and there is space.
    pub(super) fn write_gap(&self, inner: &mut Inner) {
        if inner.lost.count == 0 || inner.failed.is_some() {
            return;
        }
        let Lost { count, first_us, last_us } = inner.lost;
        let detail = format!("{{\"from_us\":{first_us},\"to_us\":{last_us}}}");
        let record = self.own_record(Kind::Gap, count, "spool_full", detail);
        let (mut salts, mut framer) = (Salts::new(), Framer::new());
        let built = framer.build(|out, sink| RecordRef::from(&record).encode_into(&mut salts, out, sink));
        let Ok(mut frame) = built else { return };
        if self.put(inner, &mut frame).is_ok() {
            tracing::warn!(count, "the spool has space again; a gap record says what was lost");
            inner.lost = Lost::default();
            self.appended.notify_one();
        }
    }

    /// One write. With `Full`, nothing was written and nothing is lost.
    fn put(&self, inner: &mut Inner, frame: &mut Unnumbered<'_>) -> Result<Appended, SpoolError> {
        // A closing frame must always fit behind the last record.
        let needed = frame.len() + FRAME_HEADER as u64;
        if inner.writer.as_ref().is_none_or(|writer| writer.offset + needed > writer.capacity) {
            self.roll(inner)?;
        }
        let sequence = inner.next_sequence;
        let bytes = frame.len();
        let written = match &mut inner.writer {
            Some(writer) => writer.file.write_at(frame.number(sequence), writer.offset).map(|()| {
                writer.offset += bytes;
                writer.offset
            }),
            None => return Err(SpoolError::Full),
        };
        let offset = match written {
            Ok(offset) => offset,
            Err(error) => {
                return Err(self.fail(inner, &format!("writing in `{}` failed: {error}", self.config.dir.display())));
            }
        };
        inner.next_sequence += 1;
        inner.mark(sequence);
        if let Some(epoch) = inner.own_epoch() {
            epoch.last = sequence;
            if let Some(segment) = epoch.segments.back_mut() {
                segment.last = sequence;
                segment.data = offset;
            }
        }
        self.counters.appended.fetch_add(1, Ordering::Relaxed);
        if self.config.durability != Durability::Memory && !inner.dirty {
            inner.dirty = true;
            inner.urgent |= self.config.durability == Durability::Sync;
            self.work.notify_one();
        }
        Ok(Appended { sequence, bytes })
    }

    /// Begins the next segment.
    fn roll(&self, inner: &mut Inner) -> Result<(), SpoolError> {
        if inner.writer.is_some() {
            inner.seal(0);
            self.work.notify_one();
        }
        let capacity = self.config.segment_bytes();
        let Spare { path, file, .. } = match inner.spare.take() {
            Some(spare) => spare,
            None => {
                if inner.bytes + capacity > self.config.max_bytes {
                    return Err(SpoolError::Full);
                }
                let path = self.next_path(inner);
                let file = self.storage.create(&path, capacity).map_err(|error| match error.kind() {
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SpoolError::Full,
                    _ => self.fail(inner, &format!("cannot make the segment `{}`: {error}", path.display())),
                })?;
                inner.bytes += capacity;
                Spare { path, file, prepared: 0 }
            }
        };
        inner.spare_blocked = false;
        inner.names_changed = true;
        let first = inner.next_sequence;
        let header = Header { epoch: inner.own, first, producer: self.producer.clone() }.encode();
        if let Err(error) = file.write_at(&header, 0) {
            return Err(self.fail(inner, &format!("writing `{}` failed: {error}", path.display())));
        }
        let start = header.len() as u64;
        if let Some(epoch) = inner.own_epoch() {
            let last = first - 1;
            epoch.segments.push_back(Segment { path, last, start, data: start, allocated: capacity });
        }
        inner.writer = Some(Writer { file, offset: start, capacity });
        Ok(())
    }

    /// A name that no other segment has.
    pub(super) fn next_path(&self, inner: &mut Inner) -> std::path::PathBuf {
        let number = inner.next_file;
        inner.next_file += 1;
        self.config.dir.join(format!("{}-{number:08}.seg", inner.own))
    }

    /// Ends the spool for good.
    pub(super) fn fail(&self, inner: &mut Inner, why: &str) -> SpoolError {
        tracing::error!(why, "the spool failed; everything that needs a record is denied until a restart");
        let why = inner.failed.get_or_insert_with(|| why.to_owned()).clone();
        inner.dirty = false;
        self.synced.notify_all();
        let failed = super::Synced { upto: inner.synced, failed: true };
        self.synced_watch.send_replace(failed);
        SpoolError::Failed(why)
    }

    pub(super) fn failure(&self) -> SpoolError {
        SpoolError::Failed(self.inner.lock().failed.clone().unwrap_or_else(|| "it was dropped".into()))
    }

    /// Blocks until `sequence` is on stable storage.
    pub(super) fn wait_synced(&self, sequence: u64) -> Result<(), SpoolError> {
        let mut inner = self.inner.lock();
        while inner.synced < sequence {
            if let Some(why) = &inner.failed {
                return Err(SpoolError::Failed(why.clone()));
            }
            self.synced.wait(&mut inner);
        }
        Ok(())
    }

    pub(super) fn close(&self) -> Result<(), SpoolError> {
        let mut inner = self.inner.lock();
        if !inner.closed {
            self.write_gap(&mut inner);
            if inner.lost.count > 0 {
                tracing::error!(count = inner.lost.count, "records were lost to a full spool and no gap record fits");
            }
            inner.closed = true;
            self.write_closing(&mut inner);
        }
        inner.urgent = true;
        self.work.notify_all();
        self.appended.notify_one();
        while inner.failed.is_none() && (inner.dirty || inner.syncing || !inner.sealed.is_empty()) {
            self.synced.wait(&mut inner);
        }
        let failed = inner.failed.clone();
        drop(inner);
        self.acknowledged.send_modify(|count| *count += 1);
        failed.map_or(Ok(()), |why| Err(SpoolError::Failed(why)))
    }

    fn write_closing(&self, inner: &mut Inner) {
        let last = inner.next_sequence - 1;
        let mut extra = 0;
        if let Some(writer) = &inner.writer
            && inner.failed.is_none()
        {
            let frame = segment::closing_frame(last);
            match writer.file.write_at(&frame, writer.offset) {
                Ok(()) => extra = frame.len() as u64,
                Err(error) => {
                    self.fail(inner, &format!("writing the closing mark failed: {error}"));
                }
            }
        }
        if let Some(epoch) = inner.own_epoch() {
            epoch.closed = true;
        }
        inner.seal(extra);
        // An epoch that never had a record has nothing to tell.
        if last == 0
            && inner.own_epoch().is_some()
            && let Some(epoch) = inner.epochs.pop_back()
        {
            inner.garbage.extend(epoch.segments.into_iter().map(|segment| (segment.path, segment.allocated)));
        }
    }
}
