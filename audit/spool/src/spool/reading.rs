//! How the shipper reads the spool, while others append to it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use signet_api::audit::SpoolState;
use uuid::Uuid;

use super::Shared;
use super::segment::{self, Found};
use super::state::{Inner, Segment};
use crate::ship::put_entry;

/// Most bytes read at once; more than any frame.
const CHUNK: u64 = 512 * 1024;

/// Where the shipper is. A new one begins at the oldest record that is not acknowledged.
#[derive(Default)]
pub(crate) struct Cursor {
    /// Epoch and the next sequence to send.
    at: Option<(Uuid, u64)>,
    closing_sent: bool,
    place: Option<Place>,
}

struct Place {
    path: PathBuf,
    file: File,
    offset: u64,
}

impl Cursor {
    /// Where a heartbeat stands: an open epoch that the audit service knows, and the next sequence of it. An epoch that
    /// never had a record is told by nothing, its end neither.
    pub(crate) fn idle_at(&self) -> Option<(Uuid, u64)> {
        self.at.filter(|(_, next)| *next > 1 && !self.closing_sent)
    }
}

/// What the shipper sends next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fetched {
    pub(crate) epoch: Uuid,
    pub(crate) first: u64,
    pub(crate) entries: Entries,
    /// The epoch ends here.
    pub(crate) closing: bool,
}

/// Consecutive records in their wire form.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Entries {
    pub(crate) count: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Fetched {
    pub(crate) fn last(&self) -> u64 {
        (self.first + self.entries.count as u64).saturating_sub(1)
    }
}

/// What the lock reveals about where a cursor stands.
enum Standing {
    Nothing,
    /// Records of this segment, in an epoch whose last sequence is given when it is closed.
    Read {
        segment: Segment,
        ends_at: Option<u64>,
    },
    /// Only the closing of the epoch is left, whose last sequence this is.
    Close(u64),
}

impl Shared {
    /// The next at most `most` records behind the cursor, `None` when there are none. Blocks on files.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub(crate) fn fetch(&self, cursor: &mut Cursor, most: usize) -> std::io::Result<Option<Fetched>> {
        loop {
            let (standing, epoch, next) = {
                let inner = self.inner.lock();
                let Some((epoch, next)) = place(cursor, &inner) else { return Ok(None) };
                (standing(cursor, &inner, epoch, next), epoch, next)
            };
            match standing {
                Standing::Nothing => return Ok(None),
                Standing::Close(last) => {
                    cursor.closing_sent = true;
                    return Ok(Some(Fetched { epoch, first: last + 1, entries: Entries::default(), closing: true }));
                }
                Standing::Read { segment, ends_at } => {
                    let (first, entries) = read(cursor, &segment, next, most)?;
                    let Some(first) = first else {
                        // Recovery saw these records, and now they cannot be read: a hole that the audit service
                        // notes as a gap. Only what lies behind it is left to send.
                        tracing::error!(%epoch, from = next, to = segment.last, "records in the spool became unreadable");
                        self.counters.unreadable.fetch_add(segment.last + 1 - next, Ordering::Relaxed);
                        cursor.at = Some((epoch, segment.last + 1));
                        continue;
                    };
                    let after = first + entries.count as u64;
                    cursor.at = Some((epoch, after));
                    let closing = ends_at == Some(after - 1);
                    cursor.closing_sent = closing;
                    self.counters.shipped.fetch_add(entries.count as u64, Ordering::Relaxed);
                    return Ok(Some(Fetched { epoch, first, entries, closing }));
                }
            }
        }
    }

    /// How the spool is; whether records met a full one is said of the time since this was asked before.
    pub(crate) fn state(&self) -> SpoolState {
        let met = self.counters.full.load(Ordering::Relaxed);
        let before = self.counters.full_told.swap(met, Ordering::Relaxed);
        match &self.inner.lock().failed {
            Some(_) => SpoolState::Failed,
            None if met > before => SpoolState::Full,
            None => SpoolState::TakesRecords,
        }
    }

    /// The audit service has committed.
    pub(crate) fn acknowledge(&self, epoch: Uuid, committed: u64, closed: bool) {
        let newly = self.inner.lock().acknowledge(epoch, committed, closed);
        match newly {
            Some(newly) => {
                self.counters.acked.fetch_add(newly, Ordering::Relaxed);
                self.acknowledged.send_modify(|count| *count += 1);
                self.work.notify_one();
            }
            None => tracing::error!(%epoch, committed, "the audit service acknowledged records that do not exist"),
        }
    }

    /// The spool is closed and everything is acknowledged.
    pub(crate) fn finished(&self) -> bool {
        let inner = self.inner.lock();
        inner.closed && inner.epochs.is_empty()
    }

    /// Everything up to this sequence of the current epoch is acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.own_epoch().map_or(u64::MAX, |epoch| epoch.acked)
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.config.max_bytes
    }
}

/// Moves the cursor to an epoch that has something to send, or will have.
fn place(cursor: &mut Cursor, inner: &Inner) -> Option<(Uuid, u64)> {
    let index = match cursor.at {
        None => 0,
        Some((id, next)) => match inner.epochs.iter().position(|epoch| epoch.id == id) {
            // Acknowledged as a whole and forgotten; what is left is first now, and sending again costs little.
            None => 0,
            Some(index) => {
                let epoch = inner.epochs.get(index)?;
                if !(epoch.closed && cursor.closing_sent) {
                    cursor.at = Some((id, next.max(epoch.acked + 1)));
                    return cursor.at;
                }
                index + 1
            }
        },
    };
    let epoch = inner.epochs.get(index)?;
    *cursor = Cursor { at: Some((epoch.id, epoch.acked + 1)), closing_sent: false, place: None };
    cursor.at
}

fn standing(cursor: &Cursor, inner: &Inner, epoch: Uuid, next: u64) -> Standing {
    let Some(epoch) = inner.epochs.iter().find(|one| one.id == epoch) else { return Standing::Nothing };
    let segment = epoch.segments.iter().find(|segment| segment.last >= next);
    match segment {
        Some(segment) => Standing::Read { segment: segment.clone(), ends_at: epoch.closed.then_some(epoch.last) },
        None if epoch.closed && !cursor.closing_sent => Standing::Close(epoch.last),
        None => Standing::Nothing,
    }
}

/// Consecutive records of `segment` from `next` on; the sequence of the first may be higher where there is a hole.
fn read(cursor: &mut Cursor, segment: &Segment, next: u64, most: usize) -> std::io::Result<(Option<u64>, Entries)> {
    if cursor.place.as_ref().is_none_or(|place| place.path != segment.path) {
        let file = File::open(&segment.path)?;
        cursor.place = Some(Place { path: segment.path.clone(), file, offset: segment.start });
    }
    let Some(place) = &mut cursor.place else { return Ok((None, Entries::default())) };
    let (mut first, mut entries) = (None, Entries::default());
    let mut expected = next;
    while place.offset < segment.data && entries.count < most {
        let amount = CHUNK.min(segment.data - place.offset);
        let mut bytes = vec![0; usize::try_from(amount).unwrap_or(0)];
        place.file.read_exact_at(&mut bytes, place.offset)?;
        entries.bytes.reserve(bytes.len());
        let mut at = 0;
        while entries.count < most {
            let rest = bytes.get(at..).unwrap_or_default();
            let whole = place.offset + bytes.len() as u64 >= segment.data;
            match segment::read(rest) {
                Found::Frame(frame, size) => {
                    if frame.sequence >= next {
                        if first.is_some() && frame.sequence != expected {
                            place.offset += at as u64;
                            return Ok((first, entries));
                        }
                        first.get_or_insert(frame.sequence);
                        expected = frame.sequence + 1;
                        put_entry(&mut entries.bytes, &frame);
                        entries.count += 1;
                    }
                    at += size;
                }
                Found::End | Found::Broken | Found::Closing(_) => {
                    if rest.is_empty() || (!whole && rest.len() < segment::MAX_PAYLOAD + segment::FRAME_HEADER) {
                        break; // The frame goes on in the next chunk.
                    }
                    match segment::resynchronise(rest, expected.saturating_sub(1)) {
                        Some(offset) if offset > 0 => at += offset,
                        _ if whole => {
                            at = bytes.len();
                            break;
                        }
                        _ => {
                            at = bytes.len() - segment::MAX_PAYLOAD;
                            break;
                        }
                    }
                }
            }
        }
        place.offset += at as u64;
        if at == 0 {
            break;
        }
        if entries.count >= most.min(32) {
            break; // Enough for a batch; the rest of a full chunk is not read for it.
        }
    }
    Ok((first, entries))
}
