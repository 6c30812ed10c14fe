//! The canonical encoding of a record, version 1: frozen, deterministic, strict.
//!
//! `docs/record-encoding.md` describes it byte by byte; a test vector keeps both true.

mod decode;
mod fields;
mod split;
#[cfg(test)]
mod tests;

use crate::commitment::{Opening, RandomError, SALT_BYTES, Salts, commit, digest_bytes};
use crate::record::{ContextRef, Enforcement, Kind, Record, RecordRef};

use fields::{cut, limit, personal_context};

pub use fields::{context_field, tag};
pub use split::{ContextEntry, Fields, context_entries, list_items};

/// First byte of every canonical encoding of this version.
pub const VERSION: u8 = 1;

/// The most that an entry of the log may have (C2SP tlog-tiles: 16-bit lengths).
pub const MAX_CANONICAL_BYTES: usize = 65_535;

/// A record as it enters the log, and what opens its commitments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The bytes of the Merkle leaf.
    pub canonical: Vec<u8>,
    /// One for each commitment in `canonical`, by ascending field.
    pub openings: Vec<Opening>,
}

impl From<Opening> for signet_api::audit::Opening {
    fn from(opening: Opening) -> Self {
        Self { field: opening.field, salt: opening.salt.to_vec(), value: opening.value }
    }
}

/// As the audit service takes it.
impl From<Encoded> for signet_api::audit::Entry {
    fn from(encoded: Encoded) -> Self {
        let openings = encoded.openings.into_iter().map(Into::into).collect();
        Self { canonical: encoded.canonical, openings }
    }
}

/// Why bytes are not a record of version 1. Offsets count from the first byte of the encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first byte names a version that this decoder does not know.
    #[error("record has version {0}, this decoder reads version {VERSION}")]
    Version(u8),
    /// The encoding is empty or longer than an entry of the log may be.
    #[error("record has {0} bytes, allowed are 1 to {MAX_CANONICAL_BYTES}")]
    Size(usize),
    /// Fewer bytes are left than a length promises.
    #[error("record ends inside the field at byte {0}")]
    Truncated(usize),
    /// Tags do not ascend, or one is repeated.
    #[error("field {tag} at byte {at} is out of order or repeated")]
    Order { tag: u16, at: usize },
    /// A tag that version 1 does not have.
    #[error("field {tag} at byte {at} is unknown to version {VERSION}")]
    UnknownTag { tag: u16, at: usize },
    /// A value that its field does not allow.
    #[error("field {tag} has an invalid value: {why}")]
    Value { tag: u16, why: &'static str },
    /// A field that every record has is absent.
    #[error("field {0} is missing")]
    Missing(u16),
    /// An opening does not open the commitment of its field, or is repeated, out of order or without one.
    #[error("opening of field {field}: {why}")]
    Opening { field: u32, why: &'static str },
}

/// The hash of the Merkle leaf of an entry (RFC 6962, 2.1): `SHA-256(00 || canonical)`.
#[must_use]
pub fn leaf_hash(canonical: &[u8]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(&[0]);
    context.update(canonical);
    digest_bytes(&context.finish())
}

/// Takes the openings as the encoder makes them.
pub(crate) trait OpeningSink {
    fn add(&mut self, field: u32, salt: [u8; SALT_BYTES], value: &[u8]);
}

impl OpeningSink for Vec<Opening> {
    fn add(&mut self, field: u32, salt: [u8; SALT_BYTES], value: &[u8]) {
        self.push(Opening { field, salt, value: value.to_vec() });
    }
}

impl Record {
    /// The canonical bytes, and the openings of the personal values in them.
    ///
    /// # Errors
    /// When no random salt can be had.
    pub fn encode(&self, salts: &mut Salts) -> Result<Encoded, RandomError> {
        let mut canonical = Vec::with_capacity(1024);
        let mut openings = Vec::with_capacity(2);
        RecordRef::from(self).encode_into(salts, &mut canonical, &mut openings)?;
        Ok(Encoded { canonical, openings })
    }
}

impl RecordRef<'_> {
    /// Appends the canonical bytes to `out` and hands the openings to `sink`: no allocation of its own unless a
    /// value must be cut.
    pub(crate) fn encode_into(
        &self,
        salts: &mut Salts,
        out: &mut Vec<u8>,
        sink: &mut impl OpeningSink,
    ) -> Result<(), RandomError> {
        let mut writer = Writer { out, salts, sink, opened: 0 };
        writer.out.push(VERSION);
        writer.bytes(tag::ID, self.id.as_bytes());
        writer.bytes(tag::TIME_US, &self.time_us.to_be_bytes());
        writer.bytes(tag::KIND, &[kind_byte(self.kind)]);
        writer.text(tag::PRODUCER, self.producer, limit::SPIFFE_ID);
        writer.optional(tag::SOURCE_SPIFFE_ID, self.source_spiffe_id, limit::SPIFFE_ID);
        writer.optional(tag::DESTINATION_SPIFFE_ID, self.destination_spiffe_id, limit::SPIFFE_ID);
        writer.text(tag::DESTINATION_SERVICE, self.destination_service, limit::SERVICE);
        writer.text(tag::ACTION, self.action, limit::ACTION);
        if self.personal_path {
            writer.committed(tag::PATH_COMMITMENT, self.path, limit::PATH)?;
        } else {
            writer.optional(tag::PATH, self.path, limit::PATH);
        }
        writer.bytes(tag::ALLOW, &[u8::from(self.allow)]);
        writer.bytes(tag::ENFORCEMENT, &[enforcement_byte(self.enforcement)]);
        writer.list(tag::POLICY_IDS, None, self.policy_ids, limit::POLICY_IDS);
        writer.text(tag::POLICY_COMMIT, self.policy_commit, limit::DIGEST);
        writer.text(tag::BUNDLE_DIGEST, self.bundle_digest, limit::DIGEST);
        writer.text(tag::REASON, self.reason, limit::REASON);
        writer.committed(tag::SOURCE_ADDRESS_COMMITMENT, self.source_address, limit::ADDRESS)?;
        writer.text(tag::TLS, self.tls, limit::TLS);
        writer.optional(tag::TRACE_ID, self.trace_id, limit::TRACE_ID);
        if let Some(latency) = self.latency_us {
            writer.bytes(tag::LATENCY_US, &latency.to_be_bytes());
        }
        writer.context(self.context, self.personal_path)?;
        writer.bytes(tag::COUNT, &self.count.to_be_bytes());
        writer.optional(tag::DETAIL, self.detail, limit::DETAIL);
        if let Some((allow, policies)) = self.shadow {
            writer.list(tag::SHADOW, Some(u8::from(allow)), policies, limit::SHADOW_IDS);
        }
        writer.bytes(tag::FLAGS, &[u8::from(self.personal_path)]);
        Ok(())
    }
}

pub(crate) fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Decision => 1,
        Kind::Event => 2,
        Kind::Refusal => 3,
        Kind::Gap => 4,
    }
}

pub(crate) fn enforcement_byte(enforcement: Enforcement) -> u8 {
    match enforcement {
        Enforcement::Enforce => 1,
        Enforcement::Shadow => 2,
    }
}

/// Writes fields in the order in which it is called; the caller keeps tags ascending.
struct Writer<'a, S> {
    out: &'a mut Vec<u8>,
    salts: &'a mut Salts,
    sink: &'a mut S,
    /// Bytes of personal values so far.
    opened: usize,
}

/// Length of a value as the encoding writes it. INVARIANT: every value is cut far below 4 GiB before.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

impl<S: OpeningSink> Writer<'_, S> {
    fn bytes(&mut self, tag: u16, value: &[u8]) {
        let [high, low] = tag.to_be_bytes();
        let [a, b, c, d] = length(value.len());
        self.out.extend_from_slice(&[high, low, a, b, c, d]);
        self.out.extend_from_slice(value);
    }

    fn text(&mut self, tag: u16, value: &str, limit: usize) {
        self.bytes(tag, cut(value, limit).as_bytes());
    }

    fn optional(&mut self, tag: u16, value: Option<&str>, limit: usize) {
        if let Some(value) = value {
            self.text(tag, value, limit);
        }
    }

    fn committed(&mut self, tag: u16, value: Option<&str>, limit: usize) -> Result<(), RandomError> {
        if let Some(value) = value {
            let commitment = self.commitment(u32::from(tag), value, limit)?;
            self.bytes(tag, &commitment);
        }
        Ok(())
    }

    fn commitment(&mut self, field: u32, value: &str, limit: usize) -> Result<[u8; 32], RandomError> {
        let value = cut(value, limit);
        let salt = self.salts.next()?;
        self.opened += value.len();
        self.sink.add(field, salt, value.as_bytes());
        Ok(commit(field, &salt, value.as_bytes()))
    }

    /// Opens a field whose length is known only after its value was written; returns where the value begins.
    fn open(&mut self, tag: u16) -> usize {
        self.out.extend_from_slice(&tag.to_be_bytes());
        self.out.extend_from_slice(&[0; 4]);
        self.out.len()
    }

    fn shut(&mut self, start: usize) {
        let written = length(self.out.len().saturating_sub(start));
        if let Some(slot) = self.out.get_mut(start.saturating_sub(4)..start) {
            slot.copy_from_slice(&written);
        }
    }

    fn item(&mut self, value: &[u8]) {
        self.out.extend_from_slice(&length(value.len()));
        self.out.extend_from_slice(value);
    }

    fn list(&mut self, tag: u16, lead: Option<u8>, items: &[std::sync::Arc<str>], limit: usize) {
        let start = self.open(tag);
        self.out.extend(lead);
        let whole: usize = items.iter().map(|item| 4 + item.len().min(limit::LIST_ITEM)).sum();
        let room = if whole <= limit { limit } else { limit.saturating_sub(fields::MARKER_ROOM) };
        let mut used = 0;
        for (index, item) in items.iter().enumerate() {
            let item = cut(item, limit::LIST_ITEM);
            if used + 4 + item.len() > room {
                self.item(fields::more(items.len() - index).as_bytes());
                break;
            }
            used += 4 + item.len();
            self.item(item.as_bytes());
        }
        self.shut(start);
    }

    fn context(&mut self, context: ContextRef<'_>, personal_path: bool) -> Result<(), RandomError> {
        let start = self.open(tag::CONTEXT);
        let size = |key: &str, value: &str, personal: bool| {
            let value = if personal { 32 } else { value.len().min(limit::CONTEXT_VALUE) };
            4 + key.len().min(limit::CONTEXT_KEY) + 1 + 4 + value
        };
        let whole: usize =
            context.iter().map(|(key, value)| size(key, value, personal_context(key, personal_path))).sum();
        let room = if whole <= limit::CONTEXT { limit::CONTEXT } else { limit::CONTEXT - fields::MARKER_ROOM };
        let mut used = 0;
        self.opened = 0;
        for (index, (key, value)) in (0u32..).zip(context.iter()) {
            let key = cut(key, limit::CONTEXT_KEY);
            let personal = personal_context(&key, personal_path);
            // An upper bound: what is cut may come out a few bytes shorter.
            used += size(&key, value, personal);
            if used > room {
                let left = context.len().saturating_sub(usize::try_from(index).unwrap_or(usize::MAX));
                self.item(fields::MARKER_KEY.as_bytes());
                self.out.push(fields::PLAIN);
                self.item(fields::more(left).as_bytes());
                break;
            }
            self.item(key.as_bytes());
            if personal {
                let field = fields::context_field(index);
                let commitment = self.commitment(field, value, fields::opened_limit(self.opened))?;
                self.out.push(fields::COMMITMENT);
                self.item(&commitment);
            } else {
                self.out.push(fields::PLAIN);
                self.item(cut(value, limit::CONTEXT_VALUE).as_bytes());
            }
        }
        self.shut(start);
        Ok(())
    }
}
