//! Strict decoding: only what the encoder could have written is a record.

use std::sync::Arc;

use uuid::Uuid;

use super::fields::{self, limit, personal_context, tag};
use super::split::{Fields, list_items};
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
        let mut context = Vec::new();
        let keep = |key: &str, value: &str| context.push((key.to_owned(), value.to_owned()));
        let (values, erased) = Decoder::new(canonical, openings)?.values(keep)?;
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        Ok(Self {
            id: values.id,
            time_us: values.time_us,
            kind: values.kind,
            producer: values.producer.to_owned(),
            source_spiffe_id: owned(values.source_spiffe_id),
            destination_spiffe_id: owned(values.destination_spiffe_id),
            destination_service: values.destination_service.to_owned(),
            action: values.action.to_owned(),
            path: owned(values.path),
            personal_path: values.personal_path,
            allow: values.allow,
            enforcement: values.enforcement,
            policy_ids: list_items(values.policy_ids).map(Arc::from).collect(),
            policy_commit: values.policy_commit.to_owned(),
            bundle_digest: values.bundle_digest.to_owned(),
            reason: values.reason.to_owned(),
            source_address: owned(values.source_address),
            tls: values.tls.to_owned(),
            trace_id: owned(values.trace_id),
            latency_us: values.latency_us,
            context,
            count: values.count,
            detail: owned(values.detail),
            shadow: values.shadow.map(|(allow, policies)| (allow, list_items(policies).map(Arc::from).collect())),
            erased,
        })
    }
}

impl<'a> Fields<'a> {
    /// Reads canonical bytes as strictly as [`Record::decode`] and gives their parts, without a copy of any.
    ///
    /// # Errors
    /// When the bytes are not an encoding of version 1, or an opening does not fit.
    pub fn check(canonical: &'a [u8], openings: &[Opening]) -> Result<Self, DecodeError> {
        Decoder::new(canonical, openings)?.values(|_, _| {})?;
        Self::split(canonical).ok_or(DecodeError::Truncated(0))
    }
}

/// What a record says, where it lies. Lists are checked and stay bytes.
struct Values<'a> {
    id: Uuid,
    time_us: i64,
    kind: Kind,
    producer: &'a str,
    source_spiffe_id: Option<&'a str>,
    destination_spiffe_id: Option<&'a str>,
    destination_service: &'a str,
    action: &'a str,
    path: Option<&'a str>,
    personal_path: bool,
    allow: bool,
    enforcement: Enforcement,
    policy_ids: &'a [u8],
    policy_commit: &'a str,
    bundle_digest: &'a str,
    reason: &'a str,
    source_address: Option<&'a str>,
    tls: &'a str,
    trace_id: Option<&'a str>,
    latency_us: Option<u64>,
    count: u64,
    detail: Option<&'a str>,
    shadow: Option<(bool, &'a [u8])>,
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
    fn open(&mut self, field: u32, commitment: &[u8], limit: usize) -> Result<Option<&'a str>, DecodeError> {
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
        Ok(Some(value))
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
    fn new(canonical: &'a [u8], openings: &'a [Opening]) -> Result<Self, DecodeError> {
        if canonical.len() > MAX_CANONICAL_BYTES {
            return Err(DecodeError::Size(canonical.len()));
        }
        let (version, rest) = canonical.split_first().ok_or(DecodeError::Size(0))?;
        if *version != VERSION {
            return Err(DecodeError::Version(*version));
        }
        let openings = Openings::new(openings)?;
        Ok(Self { total: canonical.len(), rest, next: None, openings, erased: Vec::new() })
    }

    /// Reads everything, and gives `keep` the names and values of the context; the fields that were erased come beside.
    fn values(mut self, keep: impl FnMut(&str, &str)) -> Result<(Values<'a>, Vec<u32>), DecodeError> {
        let id = Uuid::from_bytes(self.fixed(tag::ID)?);
        let time_us = i64::from_be_bytes(self.fixed(tag::TIME_US)?);
        let kind = kind(self.fixed(tag::KIND)?)?;
        let producer = self.text(tag::PRODUCER, limit::SPIFFE_ID)?;
        let source_spiffe_id = self.optional_text(tag::SOURCE_SPIFFE_ID, limit::SPIFFE_ID)?;
        let destination_spiffe_id = self.optional_text(tag::DESTINATION_SPIFFE_ID, limit::SPIFFE_ID)?;
        let destination_service = self.text(tag::DESTINATION_SERVICE, limit::SERVICE)?;
        let action = self.text(tag::ACTION, limit::ACTION)?;
        let plain_path = self.optional_text(tag::PATH, limit::PATH)?;
        let committed_path = self.committed(tag::PATH_COMMITMENT, limit::PATH)?;
        let allow = boolean(tag::ALLOW, self.fixed(tag::ALLOW)?)?;
        let enforcement = enforcement(self.fixed(tag::ENFORCEMENT)?)?;
        let policy_ids = list(tag::POLICY_IDS, self.required(tag::POLICY_IDS)?, limit::POLICY_IDS)?;
        let policy_commit = self.text(tag::POLICY_COMMIT, limit::DIGEST)?;
        let bundle_digest = self.text(tag::BUNDLE_DIGEST, limit::DIGEST)?;
        let reason = self.text(tag::REASON, limit::REASON)?;
        let source_address = self.committed(tag::SOURCE_ADDRESS_COMMITMENT, limit::ADDRESS)?.flatten();
        let tls = self.text(tag::TLS, limit::TLS)?;
        let trace_id = self.optional_text(tag::TRACE_ID, limit::TRACE_ID)?;
        let latency = self.optional(tag::LATENCY_US)?;
        let latency_us = latency.map(|value| fixed(tag::LATENCY_US, value)).transpose()?.map(u64::from_be_bytes);
        let context = self.required(tag::CONTEXT)?;
        let count = u64::from_be_bytes(self.fixed(tag::COUNT)?);
        let detail = self.optional_text(tag::DETAIL, limit::DETAIL)?;
        let shadow = self.optional(tag::SHADOW)?.map(shadow).transpose()?;
        let personal_path = boolean(tag::FLAGS, self.fixed(tag::FLAGS)?)?;
        if let Some((tag, at, _)) = self.peek()? {
            return Err(DecodeError::UnknownTag { tag, at });
        }
        if plain_path.is_some() && personal_path {
            return Err(DecodeError::Value { tag: tag::PATH, why: "plain, though paths are personal" });
        }
        if committed_path.is_some() && !personal_path {
            return Err(DecodeError::Value {
                tag: tag::PATH_COMMITMENT,
                why: "committed, though paths are not personal",
            });
        }
        self.context(context, personal_path, keep)?;
        self.openings.finish()?;
        let values = Values {
            id,
            time_us,
            kind,
            producer,
            source_spiffe_id,
            destination_spiffe_id,
            destination_service,
            action,
            path: committed_path.flatten().or(plain_path),
            personal_path,
            allow,
            enforcement,
            policy_ids,
            policy_commit,
            bundle_digest,
            reason,
            source_address,
            tls,
            trace_id,
            latency_us,
            count,
            detail,
            shadow,
        };
        Ok((values, self.erased))
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

    fn text(&mut self, wanted: u16, limit: usize) -> Result<&'a str, DecodeError> {
        text(wanted, self.required(wanted)?, limit)
    }

    fn optional_text(&mut self, wanted: u16, limit: usize) -> Result<Option<&'a str>, DecodeError> {
        self.optional(wanted)?.map(|value| text(wanted, value, limit)).transpose()
    }

    /// Outer `None`: no such field. Inner `None`: its value was erased.
    fn committed(&mut self, wanted: u16, limit: usize) -> Result<Option<Option<&'a str>>, DecodeError> {
        let Some(value) = self.optional(wanted)? else { return Ok(None) };
        let commitment: [u8; 32] = fixed(wanted, value)?;
        self.opened(u32::from(wanted), &commitment, limit).map(Some)
    }

    fn opened(&mut self, field: u32, commitment: &[u8], limit: usize) -> Result<Option<&'a str>, DecodeError> {
        let value = self.openings.open(field, commitment, limit)?;
        if value.is_none() {
            self.erased.push(field);
        }
        Ok(value)
    }

    fn context(
        &mut self,
        bytes: &'a [u8],
        personal_path: bool,
        mut keep: impl FnMut(&str, &str),
    ) -> Result<(), DecodeError> {
        let wrong = |why| DecodeError::Value { tag: tag::CONTEXT, why };
        if bytes.len() > limit::CONTEXT {
            return Err(wrong("longer than its limit"));
        }
        let mut items = Items { rest: bytes, tag: tag::CONTEXT };
        let mut index = 0;
        let mut opened = 0;
        while !items.rest.is_empty() {
            let key = text(tag::CONTEXT, items.next()?, limit::CONTEXT_KEY)?;
            let form = items.byte()?;
            let value = items.next()?;
            let personal = personal_context(key, personal_path);
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
            keep(key, value);
            index += 1;
        }
        Ok(())
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

fn text(tag: u16, value: &[u8], limit: usize) -> Result<&str, DecodeError> {
    if value.len() > limit {
        return Err(DecodeError::Value { tag, why: "longer than its limit" });
    }
    std::str::from_utf8(value).map_err(|_| DecodeError::Value { tag, why: "not UTF-8" })
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

/// Checks a list.
fn list(tag: u16, value: &[u8], limit: usize) -> Result<&[u8], DecodeError> {
    if value.len() > limit {
        return Err(DecodeError::Value { tag, why: "longer than its limit" });
    }
    let mut items = Items { rest: value, tag };
    while !items.rest.is_empty() {
        text(tag, items.next()?, limit::LIST_ITEM)?;
    }
    Ok(value)
}

fn shadow(value: &[u8]) -> Result<(bool, &[u8]), DecodeError> {
    let (allow, rest) = value.split_first().ok_or(DecodeError::Value { tag: tag::SHADOW, why: "wrong length" })?;
    Ok((boolean(tag::SHADOW, [*allow])?, list(tag::SHADOW, rest, limit::SHADOW_IDS)?))
}
