//! The parts of canonical bytes, without copies: for a store that keeps the parts and puts the bytes together again.
//!
//! Nothing is checked here beyond the framing; [`Record::decode`](crate::Record::decode) says whether bytes are a record.

use super::VERSION;
use super::fields::{COMMITMENT, tag};

/// The values of the fields of a record, by tag.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields<'a> {
    values: [Option<&'a [u8]>; tag::FLAGS as usize + 1],
}

impl<'a> Fields<'a> {
    /// Splits canonical bytes; `None` when they are not framed as version 1 frames them.
    #[must_use]
    pub fn split(canonical: &'a [u8]) -> Option<Self> {
        let mut fields = Self::default();
        let (version, mut rest) = canonical.split_first()?;
        if *version != VERSION {
            return None;
        }
        while !rest.is_empty() {
            let (tag, after) = rest.split_first_chunk::<2>()?;
            let (value, after) = prefixed(after)?;
            *fields.values.get_mut(usize::from(u16::from_be_bytes(*tag)))? = Some(value);
            rest = after;
        }
        Some(fields)
    }

    /// The value of the field with this tag.
    #[must_use]
    pub fn get(&self, tag: u16) -> Option<&'a [u8]> {
        self.values.get(usize::from(tag)).copied().flatten()
    }

    /// The value of a field of `N` bytes.
    #[must_use]
    pub fn fixed<const N: usize>(&self, tag: u16) -> Option<[u8; N]> {
        self.get(tag)?.try_into().ok()
    }

    /// The value of a field of text.
    #[must_use]
    pub fn text(&self, tag: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(tag)?).ok()
    }
}

/// The items of a list of texts (policy ids), or of the list within [`tag::SHADOW`] after its first byte. Ends early where
/// the framing is broken.
pub fn list_items(list: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let (item, after) = prefixed(rest)?;
        rest = after;
        std::str::from_utf8(item).ok()
    })
}

/// An entry of the field [`tag::CONTEXT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextEntry<'a> {
    /// Its bytes up to the value: the name with its length, the form, the length of the value.
    pub head: &'a [u8],
    /// What follows `head`; of a personal value its commitment.
    pub value: &'a [u8],
    /// The value is a commitment.
    pub committed: bool,
}

/// The entries of the field [`tag::CONTEXT`]. Ends early where the framing is broken.
pub fn context_entries(context: &[u8]) -> impl Iterator<Item = ContextEntry<'_>> {
    let mut rest = context;
    std::iter::from_fn(move || {
        let (name, after) = prefixed(rest)?;
        let (form, after) = after.split_first()?;
        let (value, after) = prefixed(after)?;
        let (head, _) = rest.split_at_checked(4 + name.len() + 1 + 4)?;
        rest = after;
        Some(ContextEntry { head, value, committed: *form == COMMITMENT })
    })
}

/// A value after its length in four bytes, and what follows it.
fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{Record, Salts};

    #[test]
    fn the_parts_of_a_record_are_its_values() {
        let record = Record {
            action: "http:GET".to_owned(),
            policy_ids: vec!["a".into(), "b".into()],
            context: vec![("src_ip".to_owned(), "127.0.0.1".to_owned()), ("host".to_owned(), "ledger".to_owned())],
            ..Record::default()
        };
        let encoded = record.encode(&mut Salts::new()).unwrap();
        let fields = Fields::split(&encoded.canonical).unwrap();
        assert_eq!(fields.text(tag::ACTION), Some("http:GET"));
        assert_eq!(fields.fixed(tag::COUNT), Some(1u64.to_be_bytes()));
        assert_eq!((fields.get(tag::DETAIL), fields.get(999)), (None, None));
        assert_eq!(list_items(fields.get(tag::POLICY_IDS).unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        let context = fields.get(tag::CONTEXT).unwrap();
        let entries: Vec<_> = context_entries(context).collect();
        assert_eq!(entries.iter().map(|entry| entry.committed).collect::<Vec<_>>(), [true, false]);
        assert_eq!(entries.iter().flat_map(|entry| [entry.head, entry.value]).collect::<Vec<_>>().concat(), context);
    }

    #[test]
    fn broken_framing_is_no_record_and_ends_lists() {
        for broken in [&b""[..], b"\x02", b"\x01\0", b"\x01\0\x01\0\0\0\x09x", b"\x01\xff\xff\0\0\0\0"] {
            assert!(Fields::split(broken).is_none(), "{broken:?}");
        }
        assert_eq!(list_items(b"\0\0\0\x01a\0\0\0\x09b").collect::<Vec<_>>(), ["a"]);
        assert_eq!(context_entries(b"\0\0\0\x01a").count(), 0);
    }
}
