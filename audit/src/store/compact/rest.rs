//! What a record has beyond the columns that all have: the column `rest`, empty for most.
//!
//! ```text
//! rest = "" | flags (1) || count (8)? || detail? || context? || canonical?
//! detail, context = length (4) || bytes       canonical = bytes, to the end
//! ```
//!
//! Integers are big-endian. `signet.count` and `signet.detail` in the migrations read the same.

const COUNT: u8 = 1;
const DETAIL: u8 = 2;
const CONTEXT: u8 = 4;
const CANONICAL: u8 = 8;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rest<'a> {
    /// Absent: one.
    pub(crate) count: Option<u64>,
    pub(crate) detail: Option<&'a str>,
    /// The template of a context that is in no dictionary.
    pub(crate) context: Option<&'a [u8]>,
    /// The canonical bytes, of a record that the columns cannot give back; the columns are for reading only then.
    pub(crate) canonical: Option<&'a [u8]>,
}

impl<'a> Rest<'a> {
    /// Appends the packed form.
    pub(crate) fn pack(&self, out: &mut Vec<u8>) {
        if *self == Self::default() {
            return;
        }
        let flag = |present: bool, flag: u8| if present { flag } else { 0 };
        out.push(
            flag(self.count.is_some(), COUNT)
                | flag(self.detail.is_some(), DETAIL)
                | flag(self.context.is_some(), CONTEXT)
                | flag(self.canonical.is_some(), CANONICAL),
        );
        if let Some(count) = self.count {
            out.extend_from_slice(&count.to_be_bytes());
        }
        for part in [self.detail.map(str::as_bytes), self.context].into_iter().flatten() {
            // INVARIANT: parts of an entry of the log, which has at most 64 KiB.
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(part);
        }
        out.extend_from_slice(self.canonical.unwrap_or_default());
    }

    /// Reads the packed form; `None` when it is broken.
    pub(crate) fn unpack(bytes: &'a [u8]) -> Option<Self> {
        let Some((flags, mut rest)) = bytes.split_first() else { return Some(Self::default()) };
        let mut unpacked = Self::default();
        if flags & COUNT != 0 {
            let (count, after) = rest.split_first_chunk()?;
            (unpacked.count, rest) = (Some(u64::from_be_bytes(*count)), after);
        }
        let mut part = |flag: u8| -> Option<Option<&'a [u8]>> {
            if flags & flag == 0 {
                return Some(None);
            }
            let (length, after) = rest.split_first_chunk()?;
            let (part, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            rest = after;
            Some(Some(part))
        };
        unpacked.detail = match part(DETAIL)? {
            Some(detail) => Some(std::str::from_utf8(detail).ok()?),
            None => None,
        };
        unpacked.context = part(CONTEXT)?;
        if flags & CANONICAL != 0 {
            unpacked.canonical = Some(std::mem::take(&mut rest));
        }
        (rest.is_empty() && flags & !(COUNT | DETAIL | CONTEXT | CANONICAL) == 0).then_some(unpacked)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_combination_survives_packing_and_nothing_else_is_read() {
        for flags in 0..16u8 {
            let part = |flag| flags & flag != 0;
            let rest = Rest {
                count: part(COUNT).then_some(7),
                detail: part(DETAIL).then_some("why"),
                context: part(CONTEXT).then_some(&b"values"[..]),
                canonical: part(CANONICAL).then_some(&b"bytes"[..]),
            };
            let mut packed = Vec::new();
            rest.pack(&mut packed);
            assert_eq!(Rest::unpack(&packed), Some(rest));
            if flags & CANONICAL == 0 && flags != 0 {
                packed.push(0);
                assert_eq!(Rest::unpack(&packed), None, "something follows");
                packed.truncate(packed.len() - 2);
                assert_eq!(Rest::unpack(&packed), None, "cut");
            }
        }
        assert_eq!(Rest::unpack(&[16]), None);
    }
}
