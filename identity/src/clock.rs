//! The wall clock, read in one place; everything that decides takes the time as an argument.

/// Unix seconds.
#[must_use]
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Unix milliseconds.
#[must_use]
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
