//! Strict decoding: only what the encoder could have written is a record.

use std::sync::Arc;

use uuid::Uuid;

use super::fields::{self, limit, personal_context, tag};
use super::{DecodeError, MAX_CANONICAL_BYTES, VERSION};
use crate::commitment::{Opening, commit};
use crate::record::{Enforcement, Kind, Record};

impl Record {
    /// Reads canonical bytes strictly: what is accepted encodes again to the same bytes (with the same salts).
    /// `openings` may lack any number of openings; those fields are named in [`Record::erased`].
    ///
    /// # Errors
    /// When the bytes are not an encoding of version 1, or an opening does not fit.
    pub fn decode(canonical: &[u8], openings: &[Opening]) -> Result<Self, DecodeError> {
        if canonical.len() > MAX_CANONICAL_BYTES {
            return Err(DecodeError::Size(canonical.len()));
        }
        let (version, rest) = canonical.split_first().ok_or(DecodeError::Size(0))?;
        if *version != VERSION {
            return Err(DecodeError::Version(*version));
        }
        let mut decoder = Decoder {
            total: canonical.len(),
            rest,
            next: None,
            openings: Openings::new(openings)?,
            erased: Vec::new(),
        };
        let record = decoder.record()?;
        decoder.openings.finish()?;
        Ok(record)
    }
}

/// The openings not yet used, ascending.
struct Openings<'a> {
    left: &'a [Opening],
}

impl<'a> Openings<'a> {
    fn new(all: &'a [Opening]) -> Result<Self, DecodeError> {
        for pair in all.windows(2) {
            if let [first, second] = pair
                && first.field >= second.field
            {
                return Err(DecodeError::Opening { field: second.field, why: "out of order or repeated" });
            }
        }
        Ok(Self { left: all })
    }

    /// The value behind the commitment of `field`, `None` when it was erased.
    fn open(&mut self, field: u32, commitment: &[u8], limit: usize) -> Result<Option<String>, DecodeError> {
        let Some((opening, rest)) = self.left.split_first().filter(|(first, _)| first.field <= field) else {
            return Ok(None);
        };
        let wrong = |why| DecodeError::Opening { field: opening.field, why };
        if opening.field < field {
            return Err(wrong("there is no commitment for it"));
        }
        if commit(field, &opening.salt, &opening.value) != commitment {
            return Err(wrong("does not open the commitment"));
        }
        if opening.value.len() > limit {
            return Err(wrong("value is longer than its limit"));
        }
        let value = std::str::from_utf8(&opening.value).map_err(|_| wrong("value is not UTF-8"))?;
        self.left = rest;
        Ok(Some(value.to_owned()))
    }

    fn finish(&self) -> Result<(), DecodeError> {
        match self.left.first() {
            Some(opening) => Err(DecodeError::Opening { field: opening.field, why: "there is no commitment for it" }),
            None => Ok(()),
        }
    }
}

/// Tag, place and value of a field.
type Field<'a> = (u16, usize, &'a [u8]);

struct Decoder<'a> {
    total: usize,
    rest: &'a [u8],
    /// The field that was read and not yet asked for.
    next: Option<Field<'a>>,
    openings: Openings<'a>,
    erased: Vec<u32>,
}

impl<'a> Decoder<'a> {
    fn record(&mut self) -> Result<Record, DecodeError> {
        let mut record = Record {
            id: Uuid::from_bytes(self.fixed(tag::ID)?),
            time_us: i64::from_be_bytes(self.fixed(tag::TIME_US)?),
            kind: kind(self.fixed(tag::KIND)?)?,
            producer: self.text(tag::PRODUCER, limit::SPIFFE_ID)?,
            source_spiffe_id: self.optional_text(tag::SOURCE_SPIFFE_ID, limit::SPIFFE_ID)?,
            destination_spiffe_id: self.optional_text(tag::DESTINATION_SPIFFE_ID, limit::SPIFFE_ID)?,
            destination_service: self.text(tag::DESTINATION_SERVICE, limit::SERVICE)?,
            action: self.text(tag::ACTION, limit::ACTION)?,
            ..Record::default()
        };
        record.path = self.optional_text(tag::PATH, limit::PATH)?;
        let path_is_plain = record.path.is_some();
        let committed_path = self.committed(tag::PATH_COMMITMENT, limit::PATH)?;
        let path_is_committed = committed_path.is_some();
        if let Some(path) = committed_path {
            record.path = path;
        }
        record.allow = boolean(tag::ALLOW, self.fixed(tag::ALLOW)?)?;
        record.enforcement = enforcement(self.fixed(tag::ENFORCEMENT)?)?;
        let policies = self.required(tag::POLICY_IDS)?;
        record.policy_ids = list(tag::POLICY_IDS, policies, limit::POLICY_IDS)?;
        record.policy_commit = self.text(tag::POLICY_COMMIT, limit::DIGEST)?;
        record.bundle_digest = self.text(tag::BUNDLE_DIGEST, limit::DIGEST)?;
        record.reason = self.text(tag::REASON, limit::REASON)?;
        record.source_address = self.committed(tag::SOURCE_ADDRESS_COMMITMENT, limit::ADDRESS)?.flatten();
        record.tls = self.text(tag::TLS, limit::TLS)?;
        record.trace_id = self.optional_text(tag::TRACE_ID, limit::TRACE_ID)?;
        record.latency_us = self
            .optional(tag::LATENCY_US)?
            .map(|value| fixed(tag::LATENCY_US, value))
            .transpose()?
            .map(u64::from_be_bytes);
        let context = self.required(tag::CONTEXT)?;
        record.count = u64::from_be_bytes(self.fixed(tag::COUNT)?);
        record.detail = self.optional_text(tag::DETAIL, limit::DETAIL)?;
        record.shadow = self.optional(tag::SHADOW)?.map(shadow).transpose()?;
        let flags = self.fixed(tag::FLAGS)?;
        record.personal_path = boolean(tag::FLAGS, flags)?;
        if let Some((tag, at, _)) = self.peek()? {
            return Err(DecodeError::UnknownTag { tag, at });
        }
        if path_is_plain && record.personal_path {
            return Err(DecodeError::Value { tag: tag::PATH, why: "plain, though paths are personal" });
        }
        if path_is_committed && !record.personal_path {
            return Err(DecodeError::Value {
                tag: tag::PATH_COMMITMENT,
                why: "committed, though paths are not personal",
            });
        }
        record.context = self.context(context, record.personal_path)?;
        record.erased = std::mem::take(&mut self.erased);
        Ok(record)
    }

    /// The next field, left in place.
    fn peek(&mut self) -> Result<Option<Field<'a>>, DecodeError> {
        if self.next.is_none() && !self.rest.is_empty() {
            let at = self.total - self.rest.len();
            let short = DecodeError::Truncated(at);
            let (tag, rest) = self.rest.split_first_chunk::<2>().ok_or_else(|| short.clone())?;
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| short.clone())?;
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let (value, rest) = rest.split_at_checked(length).ok_or(short)?;
            self.rest = rest;
            self.next = Some((u16::from_be_bytes(*tag), at, value));
        }
        Ok(self.next)
    }

    fn optional(&mut self, wanted: u16) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.peek()? {
            Some((tag, _, value)) if tag == wanted => {
                self.next = None;
                Ok(Some(value))
            }
            // Fields are asked for in ascending order, so a lower tag was repeated or came too late.
            Some((tag, at, _)) if tag < wanted => Err(DecodeError::Order { tag, at }),
            _ => Ok(None),
        }
    }

    fn required(&mut self, wanted: u16) -> Result<&'a [u8], DecodeError> {
        self.optional(wanted)?.ok_or(DecodeError::Missing(wanted))
    }

    fn fixed<const N: usize>(&mut self, wanted: u16) -> Result<[u8; N], DecodeError> {
        fixed(wanted, self.required(wanted)?)
    }

    fn text(&mut self, wanted: u16, limit: usize) -> Result<String, DecodeError> {
        text(wanted, self.required(wanted)?, limit)
    }

    fn optional_text(&mut self, wanted: u16, limit: usize) -> Result<Option<String>, DecodeError> {
        self.optional(wanted)?.map(|value| text(wanted, value, limit)).transpose()
    }

    /// Outer `None`: no such field. Inner `None`: its value was erased.
    fn committed(&mut self, wanted: u16, limit: usize) -> Result<Option<Option<String>>, DecodeError> {
        let Some(value) = self.optional(wanted)? else { return Ok(None) };
        let commitment: [u8; 32] = fixed(wanted, value)?;
        self.opened(u32::from(wanted), &commitment, limit).map(Some)
    }

    fn opened(&mut self, field: u32, commitment: &[u8], limit: usize) -> Result<Option<String>, DecodeError> {
        let value = self.openings.open(field, commitment, limit)?;
        if value.is_none() {
            self.erased.push(field);
        }
        Ok(value)
    }

    fn context(&mut self, bytes: &[u8], personal_path: bool) -> Result<Vec<(String, String)>, DecodeError> {
        let wrong = |why| DecodeError::Value { tag: tag::CONTEXT, why };
        if bytes.len() > limit::CONTEXT {
            return Err(wrong("longer than its limit"));
        }
        let mut items = Items { rest: bytes, tag: tag::CONTEXT };
        let mut context = Vec::new();
        let mut index = 0;
        let mut opened = 0;
        while !items.rest.is_empty() {
            let key = text(tag::CONTEXT, items.next()?, limit::CONTEXT_KEY)?;
            let form = items.byte()?;
            let value = items.next()?;
            let personal = personal_context(&key, personal_path);
            let value = match (form, personal) {
                (fields::PLAIN, false) => text(tag::CONTEXT, value, limit::CONTEXT_VALUE)?,
                (fields::COMMITMENT, true) if value.len() == 32 => {
                    let limit = fields::opened_limit(opened);
                    let value = self.opened(fields::context_field(index), value, limit)?.unwrap_or_default();
                    opened += value.len();
                    value
                }
                _ => return Err(wrong("form of a context value does not fit its name")),
            };
            context.push((key, value));
            index += 1;
        }
        Ok(context)
    }
}

/// Length-prefixed items inside a value.
struct Items<'a> {
    rest: &'a [u8],
    tag: u16,
}

impl<'a> Items<'a> {
    fn next(&mut self) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Value { tag: self.tag, why: "ends inside an item" };
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or_else(|| short.clone())?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (item, rest) = rest.split_at_checked(length).ok_or(short)?;
        self.rest = rest;
        Ok(item)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (byte, rest) =
            self.rest.split_first().ok_or(DecodeError::Value { tag: self.tag, why: "ends inside an item" })?;
        self.rest = rest;
        Ok(*byte)
    }
}

fn fixed<const N: usize>(tag: u16, value: &[u8]) -> Result<[u8; N], DecodeError> {
    value.try_into().map_err(|_| DecodeError::Value { tag, why: "wrong length" })
}

fn text(tag: u16, value: &[u8], limit: usize) -> Result<String, DecodeError> {
    if value.len() > limit {
        return Err(DecodeError::Value { tag, why: "longer than its limit" });
    }
    match std::str::from_utf8(value) {
        Ok(value) => Ok(value.to_owned()),
        Err(_) => Err(DecodeError::Value { tag, why: "not UTF-8" }),
    }
}

fn boolean(tag: u16, value: [u8; 1]) -> Result<bool, DecodeError> {
    match value {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(DecodeError::Value { tag, why: "neither 0 nor 1" }),
    }
}

fn kind(value: [u8; 1]) -> Result<Kind, DecodeError> {
    match value {
        [1] => Ok(Kind::Decision),
        [2] => Ok(Kind::Event),
        [3] => Ok(Kind::Refusal),
        [4] => Ok(Kind::Gap),
        _ => Err(DecodeError::Value { tag: tag::KIND, why: "unknown kind" }),
    }
}

fn enforcement(value: [u8; 1]) -> Result<Enforcement, DecodeError> {
    match value {
        [1] => Ok(Enforcement::Enforce),
        [2] => Ok(Enforcement::Shadow),
        _ => Err(DecodeError::Value { tag: tag::ENFORCEMENT, why: "unknown enforcement" }),
    }
}

fn list(tag: u16, value: &[u8], limit: usize) -> Result<Vec<Arc<str>>, DecodeError> {
    if value.len() > limit {
        return Err(DecodeError::Value { tag, why: "longer than its limit" });
    }
    let mut items = Items { rest: value, tag };
    let mut out = Vec::new();
    while !items.rest.is_empty() {
        out.push(Arc::from(text(tag, items.next()?, limit::LIST_ITEM)?));
    }
    Ok(out)
}

fn shadow(value: &[u8]) -> Result<(bool, Vec<Arc<str>>), DecodeError> {
    let (allow, rest) = value.split_first().ok_or(DecodeError::Value { tag: tag::SHADOW, why: "wrong length" })?;
    Ok((boolean(tag::SHADOW, [*allow])?, list(tag::SHADOW, rest, limit::SHADOW_IDS)?))
}
