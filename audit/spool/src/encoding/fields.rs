//! The numbers of version 1: tags, limits, and the rule which values are personal. None of them ever changes.

use std::borrow::Cow;

/// Field tags, in the order of the encoding, named as their fields in `docs/record-encoding.md`.
pub mod tag {
    pub const ID: u16 = 1;
    pub const TIME_US: u16 = 2;
    pub const KIND: u16 = 3;
    pub const PRODUCER: u16 = 4;
    pub const SOURCE_SPIFFE_ID: u16 = 5;
    pub const DESTINATION_SPIFFE_ID: u16 = 6;
    pub const DESTINATION_SERVICE: u16 = 7;
    pub const ACTION: u16 = 8;
    pub const PATH: u16 = 9;
    pub const PATH_COMMITMENT: u16 = 10;
    pub const ALLOW: u16 = 11;
    pub const ENFORCEMENT: u16 = 12;
    pub const POLICY_IDS: u16 = 13;
    pub const POLICY_COMMIT: u16 = 14;
    pub const BUNDLE_DIGEST: u16 = 15;
    pub const REASON: u16 = 16;
    pub const SOURCE_ADDRESS_COMMITMENT: u16 = 17;
    pub const TLS: u16 = 18;
    pub const TRACE_ID: u16 = 19;
    pub const LATENCY_US: u16 = 20;
    pub const CONTEXT: u16 = 21;
    pub const COUNT: u16 = 22;
    pub const DETAIL: u16 = 23;
    pub const SHADOW: u16 = 24;
    pub const FLAGS: u16 = 25;
}

/// Most bytes of a value. INVARIANT: their sum, with all headers, stays within an entry of the log (tested).
pub(crate) mod limit {
    pub(crate) const SPIFFE_ID: usize = 2_048;
    pub(crate) const SERVICE: usize = 1_024;
    pub(crate) const ACTION: usize = 512;
    pub(crate) const PATH: usize = 8_192;
    pub(crate) const POLICY_IDS: usize = 8_192;
    pub(crate) const SHADOW_IDS: usize = 4_096;
    pub(crate) const LIST_ITEM: usize = 512;
    pub(crate) const DIGEST: usize = 128;
    pub(crate) const REASON: usize = 256;
    pub(crate) const ADDRESS: usize = 256;
    pub(crate) const TLS: usize = 256;
    pub(crate) const TRACE_ID: usize = 64;
    pub(crate) const CONTEXT: usize = 24_576;
    pub(crate) const CONTEXT_KEY: usize = 256;
    pub(crate) const CONTEXT_VALUE: usize = 8_192;
    pub(crate) const DETAIL: usize = 4_096;
}

/// Forms of a context value.
pub(crate) const PLAIN: u8 = 0;
pub(crate) const COMMITMENT: u8 = 1;

/// Room kept for the marker of a cut list or context.
pub(crate) const MARKER_ROOM: usize = 64;

/// Key of the context entry that stands for the entries left out.
pub(crate) const MARKER_KEY: &str = "…";

/// What a cut value ends with takes at most this much.
const CUT_ROOM: usize = 48;

/// Bytes of personal context values together; what is beyond is cut, so that openings are bounded too.
pub(crate) const OPENED_CONTEXT: usize = 32_768;

/// The limit of the next personal context value when `used` bytes were taken by those before it.
pub(crate) fn opened_limit(used: usize) -> usize {
    OPENED_CONTEXT.saturating_sub(used).clamp(CUT_ROOM, limit::CONTEXT_VALUE)
}

/// Opening numbers of context values begin here.
const CONTEXT_FIELDS: u32 = 0x0001_0000;

/// The opening number of the context value at `index`.
#[must_use]
pub fn context_field(index: u32) -> u32 {
    CONTEXT_FIELDS.saturating_add(index)
}

/// Whether the context value of this name enters as a commitment.
pub(crate) fn personal_context(key: &str, personal_path: bool) -> bool {
    key == "src_ip" || key.starts_with("jwt.") || (personal_path && key == "path")
}

/// `value` if it fits `limit` bytes, else as many of its first characters as leave room for the marker that says
/// how long it was.
pub(crate) fn cut(value: &str, limit: usize) -> Cow<'_, str> {
    if value.len() <= limit {
        return Cow::Borrowed(value);
    }
    let mut end = limit.saturating_sub(CUT_ROOM);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let kept = value.get(..end).unwrap_or_default();
    Cow::Owned(format!("{kept}…[cut from {} bytes]", value.len()))
}

/// What stands for `count` list items left out.
pub(crate) fn more(count: usize) -> String {
    format!("…[{count} more]")
}
