//! JSON Lines. JSON escapes control characters by itself.

use std::io::{self, Write as _};

use crate::row::Row;

pub(super) fn line(out: &mut Vec<u8>, row: &Row<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.write_all(b"\n")
}
