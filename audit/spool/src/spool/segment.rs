//! What a segment file looks like: a header, then frames, then zeros.
//!
//! ```text
//! header  magic "SGNTSEG1" | epoch 16 | first sequence u64 | producer length u16 | producer | CRC-32 u32
//! frame   length u32 | CRC-32 u32 | sequence u64 | payload
//! payload canonical length u32 | canonical | { field u32 | salt 16 | length u32 | value }*
//! ```
//! Integers are little-endian. A frame's CRC covers payload, length and sequence. A frame whose length has the
//! highest bit set and no payload closes the epoch; its sequence is the epoch's last.

use uuid::Uuid;

use crate::commitment::SALT_BYTES;
use crate::encoding::OpeningSink;

pub(crate) const MAGIC: &[u8; 8] = b"SGNTSEG1";
pub(crate) const FRAME_HEADER: usize = 16;
/// No frame is longer: 64 KiB of canonical bytes and less than 96 KiB of openings.
pub(crate) const MAX_PAYLOAD: usize = 192 * 1024;
const CLOSING: u32 = 0x8000_0000;

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) epoch: Uuid,
    pub(crate) first: u64,
    pub(crate) producer: String,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let producer = self.producer.as_bytes();
        let mut out = Vec::with_capacity(38 + producer.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(self.epoch.as_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&u16::try_from(producer.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(producer);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the start of `bytes` and its length.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (epoch, rest) = rest.split_first_chunk::<16>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (producer, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let size = bytes.len() - rest.len();
        if crc32fast::hash(bytes.get(..size - 4)?) != u32::from_le_bytes(*crc) {
            return None;
        }
        let header = Self {
            epoch: Uuid::from_bytes(*epoch),
            first: u64::from_le_bytes(*first),
            producer: std::str::from_utf8(producer).ok()?.to_owned(),
        };
        Some((header, size))
    }
}

/// A frame being built: everything but its sequence is computed before the spool's lock is taken.
pub(crate) struct Framer {
    bytes: Vec<u8>,
    openings: RawOpenings,
}

/// Openings in the form of the payload.
#[derive(Default)]
pub(crate) struct RawOpenings(Vec<u8>);

impl OpeningSink for RawOpenings {
    fn add(&mut self, field: u32, salt: [u8; SALT_BYTES], value: &[u8]) {
        self.0.extend_from_slice(&field.to_le_bytes());
        self.0.extend_from_slice(&salt);
        self.0.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend_from_slice(value);
    }
}

/// A frame that lacks its sequence.
pub(crate) struct Unnumbered<'a> {
    bytes: &'a mut [u8],
    crc: u32,
}

impl Framer {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::with_capacity(2048), openings: RawOpenings(Vec::with_capacity(256)) }
    }

    /// Builds the frame of what `write` puts into the buffer and the sink.
    pub(crate) fn build<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>, &mut RawOpenings) -> Result<(), E>,
    ) -> Result<Unnumbered<'_>, E> {
        const CANONICAL: usize = FRAME_HEADER + 4;
        self.bytes.clear();
        self.openings.0.clear();
        self.bytes.resize(CANONICAL, 0);
        write(&mut self.bytes, &mut self.openings)?;
        let canonical = u32::try_from(self.bytes.len() - CANONICAL).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&self.openings.0);
        let payload = u32::try_from(self.bytes.len() - FRAME_HEADER).unwrap_or(u32::MAX);
        put(&mut self.bytes, FRAME_HEADER, &canonical.to_le_bytes());
        put(&mut self.bytes, 0, &payload.to_le_bytes());
        let crc = crc32fast::hash(self.bytes.get(FRAME_HEADER..).unwrap_or_default());
        Ok(Unnumbered { bytes: &mut self.bytes, crc })
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(slot) = bytes.get_mut(at..at + value.len()) {
        slot.copy_from_slice(value);
    }
}

impl Unnumbered<'_> {
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The whole frame.
    pub(crate) fn number(&mut self, sequence: u64) -> &[u8] {
        let length = self.bytes.first_chunk::<4>().copied().unwrap_or_default();
        put(self.bytes, 4, &finish(self.crc, FRAME_HEADER, self.bytes.len(), length, sequence).to_le_bytes());
        put(self.bytes, 8, &sequence.to_le_bytes());
        self.bytes
    }
}

/// The CRC over payload, length and sequence, from the CRC over the payload.
fn finish(payload_crc: u32, header: usize, frame: usize, length: [u8; 4], sequence: u64) -> u32 {
    let amount = (frame - header) as u64;
    let mut hasher = crc32fast::Hasher::new_with_initial_len(payload_crc, amount);
    hasher.update(&length);
    hasher.update(&sequence.to_le_bytes());
    hasher.finalize()
}

/// The frame that closes an epoch whose last record is `last`.
pub(crate) fn closing_frame(last: u64) -> [u8; FRAME_HEADER] {
    let mut out = [0; FRAME_HEADER];
    let length = CLOSING.to_le_bytes();
    put(&mut out, 0, &length);
    put(&mut out, 4, &finish(crc32fast::hash(&[]), 0, 0, length, last).to_le_bytes());
    put(&mut out, 8, &last.to_le_bytes());
    out
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole frame, and its length.
    Frame(Frame<'a>, usize),
    /// The epoch was closed after this sequence.
    Closing(u64),
    /// Zeros or the end of the file: nothing was written here.
    End,
    /// Bytes that are no whole frame.
    Broken,
}

/// One record as it lies in a segment.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) sequence: u64,
    pub(crate) canonical: &'a [u8],
    openings: &'a [u8],
}

/// Reads what stands at the start of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Found<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER>() else {
        return if bytes.iter().all(|byte| *byte == 0) { Found::End } else { Found::Broken };
    };
    if *header == [0; FRAME_HEADER] {
        return Found::End;
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3, sequence @ ..] = *header;
    let (length, crc) = ([l0, l1, l2, l3], u32::from_le_bytes([c0, c1, c2, c3]));
    let sequence = u64::from_le_bytes(sequence);
    let size = u32::from_le_bytes(length);
    if size == CLOSING {
        let whole = finish(crc32fast::hash(&[]), 0, 0, length, sequence) == crc;
        return if whole { Found::Closing(sequence) } else { Found::Broken };
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if !(4..=MAX_PAYLOAD).contains(&size) {
        return Found::Broken;
    }
    let Some(payload) = rest.get(..size) else { return Found::Broken };
    let frame = FRAME_HEADER + size;
    if finish(crc32fast::hash(payload), FRAME_HEADER, frame, length, sequence) != crc {
        return Found::Broken;
    }
    let canonical = payload.split_first_chunk::<4>().and_then(|(length, rest)| {
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX))
    });
    match canonical {
        Some((canonical, openings)) => Found::Frame(Frame { sequence, canonical, openings }, frame),
        None => Found::Broken,
    }
}

/// The first offset in `bytes` where a whole frame with a sequence above `after` stands.
pub(crate) fn resynchronise(bytes: &[u8], after: u64) -> Option<usize> {
    // A segment holds far fewer frames than this; a larger jump is an accident of random bytes.
    let plausible = after..=after.saturating_add(1 << 20);
    (0..bytes.len()).find(|offset| {
        let Some(rest) = bytes.get(*offset..) else { return false };
        let Some((header, _)) = rest.split_first_chunk::<FRAME_HEADER>() else { return false };
        let [.., s0, s1, s2, s3, s4, s5, s6, s7] = *header;
        let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        if !plausible.contains(&sequence) {
            return false;
        }
        match read(rest) {
            Found::Frame(frame, _) => frame.sequence > after,
            Found::Closing(_) => true,
            Found::End | Found::Broken => false,
        }
    })
}

/// An opening as it lies in a frame.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct RawOpening<'a> {
    pub(crate) field: u32,
    pub(crate) salt: &'a [u8; SALT_BYTES],
    pub(crate) value: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The openings of the record; what is malformed ends them (their CRC was right, so it was written so).
    pub(crate) fn openings(&self) -> impl Iterator<Item = RawOpening<'a>> + use<'a> {
        let mut rest = self.openings;
        std::iter::from_fn(move || {
            let (opening, after) = opening(rest)?;
            rest = after;
            Some(opening)
        })
    }

    #[cfg(test)]
    pub(crate) fn of(sequence: u64, canonical: &'a [u8], openings: &'a [u8]) -> Self {
        Self { sequence, canonical, openings }
    }
}

/// Openings as [`RawOpenings`] lays them out.
#[cfg(test)]
pub(crate) fn raw_openings<'o>(openings: impl Iterator<Item = (u32, &'o [u8], &'o [u8])>) -> Vec<u8> {
    let mut out = RawOpenings::default();
    for (field, salt, value) in openings {
        out.add(field, salt.first_chunk().copied().unwrap_or_default(), value);
    }
    out.0
}

fn opening(bytes: &[u8]) -> Option<(RawOpening<'_>, &[u8])> {
    let (field, rest) = bytes.split_first_chunk::<4>()?;
    let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((RawOpening { field: u32::from_le_bytes(*field), salt, value }, rest))
}
