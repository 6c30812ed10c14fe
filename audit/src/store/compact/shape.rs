//! The shape of a record: what all calls of one kind have in common, and most of its canonical bytes.

use std::borrow::Cow;

use signet_spool::{Fields, list_items, tag};

use super::{Key, key};
use crate::query::without_nul;

/// The values of a shape, as the dictionaries keep them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape<'a> {
    pub(crate) destination: Option<Cow<'a, str>>,
    pub(crate) action: Cow<'a, str>,
    /// Policy ids, joined by newlines.
    pub(crate) policies: Cow<'a, str>,
    pub(crate) commit: Cow<'a, str>,
    pub(crate) digest: Cow<'a, str>,
    pub(crate) reason: Cow<'a, str>,
    pub(crate) tls: Cow<'a, str>,
    /// What shadow policies would answer, and which, joined by newlines.
    pub(crate) shadow: Option<(bool, Cow<'a, str>)>,
    /// 0 enforce, 1 shadow.
    pub(crate) enforcement: i16,
    pub(crate) personal_path: bool,
}

impl<'a> Shape<'a> {
    /// The shape of a record; `None` when its fields are not those of a record.
    pub(crate) fn of(fields: &Fields<'a>) -> Option<Self> {
        let text = |tag| fields.text(tag).map(without_nul);
        let shadow = match fields.get(tag::SHADOW) {
            Some(shadow) => {
                let (allow, list) = shadow.split_first()?;
                Some((*allow == 1, joined(list)))
            }
            None => None,
        };
        Some(Self {
            destination: text(tag::DESTINATION_SPIFFE_ID),
            action: text(tag::ACTION)?,
            policies: joined(fields.get(tag::POLICY_IDS)?),
            commit: text(tag::POLICY_COMMIT)?,
            digest: text(tag::BUNDLE_DIGEST)?,
            reason: text(tag::REASON)?,
            tls: text(tag::TLS)?,
            shadow,
            enforcement: i16::from(u8::from_be_bytes(fields.fixed(tag::ENFORCEMENT)?)) - 1,
            personal_path: fields.fixed(tag::FLAGS)? == [1],
        })
    }

    /// What identifies it.
    pub(crate) fn key(&self) -> Key {
        let mut bytes = Vec::with_capacity(512);
        let mut take = |text: &str| {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        // No stored text has a NUL, so that it can stand for none.
        take(self.destination.as_deref().unwrap_or("\0"));
        for text in [&self.action, &self.policies, &self.commit, &self.digest, &self.reason, &self.tls] {
            take(text);
        }
        take(self.shadow.as_ref().map_or("\0", |(_, policies)| policies));
        let allow = self.shadow.as_ref().is_some_and(|(allow, _)| *allow);
        bytes.extend_from_slice(&self.enforcement.to_be_bytes());
        bytes.extend_from_slice(&[u8::from(allow), u8::from(self.personal_path)]);
        key(&bytes)
    }

    /// With texts of its own.
    pub(crate) fn into_owned(self) -> Shape<'static> {
        let own = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        Shape {
            destination: self.destination.map(own),
            action: own(self.action),
            policies: own(self.policies),
            commit: own(self.commit),
            digest: own(self.digest),
            reason: own(self.reason),
            tls: own(self.tls),
            shadow: self.shadow.map(|(allow, policies)| (allow, own(policies))),
            enforcement: self.enforcement,
            personal_path: self.personal_path,
        }
    }

    /// Its labels, in the order of their columns: action, commit, digest, reason, TLS.
    pub(crate) fn labels(&self) -> [&str; 5] {
        [&self.action, &self.commit, &self.digest, &self.reason, &self.tls]
    }
}

/// The texts of a list in one value. A newline within one becomes a space, so that a hostile id cannot pass for two.
pub(crate) fn joined(list: &[u8]) -> Cow<'_, str> {
    let mut items = list_items(list);
    let Some(first) = items.next() else { return "".into() };
    if list.len() == 4 + first.len() && !first.contains(['\n', '\0']) {
        return first.into();
    }
    let items: Vec<String> = list_items(list).map(|item| without_nul(item).replace('\n', " ")).collect();
    items.join("\n").into()
}

/// The parts of canonical bytes that a shape determines.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) destination: Box<[u8]>,
    pub(crate) action: Box<[u8]>,
    /// From `enforcement` to `reason`.
    pub(crate) verdict: Box<[u8]>,
    pub(crate) tls: Box<[u8]>,
    /// `shadow` and `flags`.
    pub(crate) end: Box<[u8]>,
}

impl Parts {
    pub(crate) fn of(shape: &Shape<'_>) -> Self {
        let one = |tag, text: &str| {
            let mut out = Vec::new();
            put(&mut out, tag, text.as_bytes());
            out.into_boxed_slice()
        };
        let mut verdict = Vec::new();
        put(&mut verdict, tag::ENFORCEMENT, &[u8::try_from(shape.enforcement + 1).unwrap_or(0)]);
        put(&mut verdict, tag::POLICY_IDS, &list(None, &shape.policies));
        for (tag, text) in
            [(tag::POLICY_COMMIT, &shape.commit), (tag::BUNDLE_DIGEST, &shape.digest), (tag::REASON, &shape.reason)]
        {
            put(&mut verdict, tag, text.as_bytes());
        }
        let mut end = Vec::new();
        if let Some((allow, policies)) = &shape.shadow {
            put(&mut end, tag::SHADOW, &list(Some(u8::from(*allow)), policies));
        }
        put(&mut end, tag::FLAGS, &[u8::from(shape.personal_path)]);
        Self {
            destination: shape
                .destination
                .as_deref()
                .map(|text| one(tag::DESTINATION_SPIFFE_ID, text))
                .unwrap_or_default(),
            action: one(tag::ACTION, &shape.action),
            verdict: verdict.into(),
            tls: one(tag::TLS, &shape.tls),
            end: end.into(),
        }
    }
}

fn list(lead: Option<u8>, joined: &str) -> Vec<u8> {
    let mut out: Vec<u8> = lead.into_iter().collect();
    for item in joined.split('\n').filter(|_| !joined.is_empty()) {
        out.extend_from_slice(&length(item.len()));
        out.extend_from_slice(item.as_bytes());
    }
    out
}

/// Appends a field of the canonical encoding.
pub(crate) fn put(out: &mut Vec<u8>, tag: u16, value: &[u8]) {
    out.extend_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(&length(value.len()));
    out.extend_from_slice(value);
}

/// INVARIANT: values of an entry of the log, which has at most 64 KiB.
pub(crate) fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}
