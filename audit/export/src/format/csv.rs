//! CSV (RFC 4180), safe against formula injection: a cell that a spreadsheet could take for a formula begins with `'`.

use std::fmt::Write as _;
use std::io;

use super::visible;
use crate::row::{COLUMNS, Row, Value, rfc3339};

const END: &str = "\r\n";

pub(super) fn header() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    names.join(",") + END
}

pub(super) fn line(out: &mut Vec<u8>, row: &Row<'_>) -> io::Result<()> {
    let mut text = String::with_capacity(1_024);
    for (place, column) in COLUMNS.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        match (column.value)(row) {
            Value::Null => {}
            // Numbers and times are ours, not a stranger's.
            Value::Long(value) => write!(text, "{value}").map_err(io::Error::other)?,
            Value::Time(value) => text.push_str(&rfc3339(value)),
            Value::Text(value) => cell(&mut text, &value),
            Value::Texts(values) => cell(&mut text, &values.join(";")),
            value @ Value::Pairs(_) => cell(&mut text, &serde_json::to_string(&value)?),
        }
    }
    text.push_str(END);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// What begins a formula in Excel, LibreOffice or Google Sheets, full-width forms included (OWASP, CSV injection).
const FORMULA: [char; 9] = ['=', '+', '-', '@', '|', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];

/// Appends a text cell, quoted where it must be.
fn cell(out: &mut String, value: &str) {
    let shown = visible(value);
    let formula = shown.trim_start().starts_with(FORMULA);
    if !formula && !shown.contains([',', '"', ';']) && shown.trim() == shown {
        out.push_str(&shown);
        return;
    }
    out.push('"');
    if formula {
        out.push('\'');
    }
    for c in shown.chars() {
        if c == '"' {
            out.push('"');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn no_cell_is_a_formula_or_breaks_its_line() {
        let shown = |value: &str| {
            let mut out = String::new();
            cell(&mut out, value);
            out
        };
        for (value, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("=1+1", "\"'=1+1\""),
            ("  =1", "\"'  =1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\u{ff1d}1", "\"'\u{ff1d}1\""),
            ("-2", "\"'-2\""),
            ("a,\"b\"", "\"a,\"\"b\"\"\""),
            ("a\r\n=b\0", "a\\u{d}\\u{a}=b\\u{0}"),
            ("\t=1", "\\u{9}=1"),
        ] {
            assert_eq!(shown(value), expected, "{value:?}");
        }
    }
}
