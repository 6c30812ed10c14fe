//! Batches in their wire form, made from the spool's frames without an object for each record in between.
//!
//! What goes out is exactly what prost makes of [`signet_api::audit::Batch`]; a test holds both together.

use bytes::BufMut as _;
use signet_api::audit::{Ack, SpoolState};
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};
use uuid::Uuid;

use crate::spool::{Frame, RawOpening};

/// Wire types of protobuf.
const VARINT: u8 = 0;
const BYTES: u8 = 2;

const fn key(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

/// One batch on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) epoch: Uuid,
    pub(crate) first: u64,
    /// `entries` as [`put_entry`] wrote them.
    pub(crate) entries: Vec<u8>,
    /// Unix microseconds.
    pub(crate) sent_at_us: i64,
    pub(crate) closing: bool,
    pub(crate) spool: SpoolState,
}

impl Outgoing {
    fn head(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.push(key(1, BYTES));
        put_bytes(&mut out, self.epoch.as_bytes());
        if self.first != 0 {
            out.push(key(2, VARINT));
            put_varint(&mut out, self.first);
        }
        out
    }

    fn tail(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        if let Ok(at) = u64::try_from(self.sent_at_us)
            && at != 0
        {
            out.push(key(4, VARINT));
            put_varint(&mut out, at);
        }
        if self.closing {
            out.extend_from_slice(&[key(5, VARINT), 1]);
        }
        if self.spool != SpoolState::TakesRecords {
            out.push(key(6, VARINT));
            put_varint(&mut out, self.spool as u64);
        }
        out
    }
}

/// Appends a record as the next of a batch's `entries`.
pub(crate) fn put_entry(out: &mut Vec<u8>, frame: &Frame<'_>) {
    let canonical = frame.canonical.len();
    let openings: usize = frame.openings().map(|one| opening_bytes(&one)).map(|bytes| 1 + sized(bytes)).sum();
    out.push(key(3, BYTES));
    put_length(out, if canonical == 0 { 0 } else { 1 + sized(canonical) } + openings);
    if canonical > 0 {
        out.push(key(1, BYTES));
        put_bytes(out, frame.canonical);
    }
    for one in frame.openings() {
        out.push(key(2, BYTES));
        put_length(out, opening_bytes(&one));
        if one.field != 0 {
            out.push(key(1, VARINT));
            put_varint(out, u64::from(one.field));
        }
        out.push(key(2, BYTES));
        put_bytes(out, one.salt);
        if !one.value.is_empty() {
            out.push(key(3, BYTES));
            put_bytes(out, one.value);
        }
    }
}

/// Bytes of the message of one opening.
fn opening_bytes(one: &RawOpening<'_>) -> usize {
    let field = if one.field == 0 { 0 } else { 1 + varint_bytes(u64::from(one.field)) };
    let value = if one.value.is_empty() { 0 } else { 1 + sized(one.value.len()) };
    field + 1 + sized(one.salt.len()) + value
}

/// Bytes of a value of this length with its length before it.
fn sized(length: usize) -> usize {
    varint_bytes(length as u64) + length
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put_varint(out, length as u64);
}

fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_length(out, value.len());
    out.extend_from_slice(value);
}

/// gRPC's codec for the stream of batches and acknowledgements.
#[derive(Default)]
pub(super) struct Batches;

impl Codec for Batches {
    type Encode = Outgoing;
    type Decode = Ack;
    type Encoder = Self;
    type Decoder = ProstDecoder<Ack>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> ProstDecoder<Ack> {
        ProstCodec::<Ack, Ack>::default().decoder()
    }
}

impl Encoder for Batches {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, batch: Outgoing, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let (head, tail) = (batch.head(), batch.tail());
        into.reserve(head.len() + batch.entries.len() + tail.len());
        for part in [&head, &batch.entries, &tail] {
            into.put_slice(part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;
    use prost::Message as _;
    use signet_api::audit::{Batch, Entry, Opening};

    use super::*;
    use crate::spool::raw_openings;

    fn encoded(batch: &Batch) -> Vec<u8> {
        let mut entries = Vec::new();
        for entry in &batch.entries {
            let openings = raw_openings(entry.openings.iter().map(|one| (one.field, &one.salt[..], &one.value[..])));
            put_entry(&mut entries, &Frame::of(1, &entry.canonical, &openings));
        }
        let out = Outgoing {
            epoch: Uuid::from_slice(&batch.epoch).unwrap(),
            first: batch.first_sequence,
            entries,
            sent_at_us: batch.sent_at_us,
            closing: batch.closing,
            spool: batch.spool(),
        };
        [out.head(), out.entries.clone(), out.tail()].concat()
    }

    fn opening() -> impl Strategy<Value = Opening> {
        let value = proptest::collection::vec(any::<u8>(), 0..300);
        (any::<u32>(), any::<[u8; 16]>(), value).prop_map(|(field, salt, value)| Opening {
            field,
            salt: salt.to_vec(),
            value,
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let canonical = proptest::collection::vec(any::<u8>(), 0..20_000);
        (canonical, proptest::collection::vec(opening(), 0..4))
            .prop_map(|(canonical, openings)| Entry { canonical, openings })
    }

    proptest! {
        #[test]
        fn a_batch_is_what_prost_makes_of_it(
            epoch in any::<[u8; 16]>(), first_sequence in any::<u64>(), sent_at_us in 0..i64::MAX, closing in any::<bool>(),
            entries in proptest::collection::vec(entry(), 0..4), spool in 0..3,
        ) {
            let batch = Batch { epoch: epoch.to_vec(), first_sequence, entries, sent_at_us, closing, spool };
            prop_assert_eq!(encoded(&batch), batch.encode_to_vec());
        }
    }

    #[test]
    fn varints_have_the_length_that_is_announced() {
        for value in (0..64).flat_map(|shift| [1_u64 << shift, (1 << shift) - 1]).chain([u64::MAX]) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value), "{value}");
        }
    }
}
