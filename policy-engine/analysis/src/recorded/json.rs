//! JSON Lines, as an export of the audit log has them: an object per record. Unknown columns are later versions' and are
//! skipped.

use std::borrow::Cow;
use std::fmt;
use std::io::{BufRead, Read as _};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use signet_policy::Effect;

use super::{Recorded, Records, RecordsError};

/// A record is at most 65,535 bytes and its openings, several times that as JSON.
pub(super) const LINE_BYTES: u64 = 4 << 20;

/// An export in JSON Lines.
pub struct JsonLines<R>(pub R);

impl<R: BufRead> Records for JsonLines<R> {
    fn each(mut self, what: &mut dyn FnMut(&Recorded<'_>)) -> Result<(), RecordsError> {
        let (mut buffer, mut number) = (Vec::new(), 0_u64);
        loop {
            buffer.clear();
            number += 1;
            let read = self.0.by_ref().take(LINE_BYTES + 1).read_until(b'\n', &mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            if read as u64 > LINE_BYTES {
                return Err(RecordsError::TooLong { line: number, bytes: LINE_BYTES });
            }
            let text = buffer.trim_ascii();
            if !text.is_empty() {
                let line: Line<'_> =
                    serde_json::from_slice(text).map_err(|source| RecordsError::Line { line: number, source })?;
                what(&line.into());
            }
        }
    }
}

/// Text that is borrowed from the line unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    time: Time,
    #[serde(borrow)]
    source_spiffe_id: Option<Text<'a>>,
    #[serde(borrow)]
    destination_service: Text<'a>,
    #[serde(borrow)]
    action: Text<'a>,
    #[serde(borrow)]
    path: Option<Text<'a>>,
    decision: Effect,
    #[serde(borrow)]
    reason: Text<'a>,
    #[serde(borrow)]
    source_address: Option<Text<'a>>,
    #[serde(default = "one")]
    count: u64,
    #[serde(borrow, default)]
    context: Pairs<'a>,
    #[serde(borrow, default)]
    erased: Vec<Text<'a>>,
    #[serde(borrow, default)]
    policy_ids: Vec<Text<'a>>,
    #[serde(default)]
    shadow_decision: Option<Effect>,
}

fn one() -> u64 {
    1
}

impl<'a> From<Line<'a>> for Recorded<'a> {
    fn from(line: Line<'a>) -> Self {
        let texts = |texts: Vec<Text<'a>>| texts.into_iter().map(|text| text.0).collect();
        Self {
            kind: line.kind.0,
            time_us: line.time.0,
            source_spiffe_id: line.source_spiffe_id.map(|text| text.0),
            destination_service: line.destination_service.0,
            action: line.action.0,
            path: line.path.map(|text| text.0),
            decision: line.decision,
            reason: line.reason.0,
            source_address: line.source_address.map(|text| text.0),
            count: line.count,
            context: line.context.0,
            erased: texts(line.erased),
            policy_ids: texts(line.policy_ids),
            shadow_decision: line.shadow_decision,
        }
    }
}

/// RFC 3339, as Unix microseconds.
struct Time(i64);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.0.parse().map_err(|_| D::Error::custom("`time` is not RFC 3339"))?;
        Ok(Self(time.as_microsecond()))
    }
}

/// A JSON object of strings, in its order.
#[derive(Default)]
struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(8);
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Object).map(Pairs)
    }
}
