//! The formats of an export, behind one interface: rows in, bytes out.

use std::io::{self, Write};

mod cef;
mod csv;
mod jsonl;
mod ocsf;
mod parquet;

use crate::row::Row;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON Lines: an object per record.
    Jsonl,
    /// RFC 4180 with a header, safe to open in a spreadsheet.
    Csv,
    /// Apache Parquet, zstd, a row group per 100,000 records.
    Parquet,
    /// Open Cybersecurity Schema Framework 1.8, an event per line.
    Ocsf,
    /// ArcSight Common Event Format, an event per line.
    Cef,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Jsonl, Self::Csv, Self::Parquet, Self::Ocsf, Self::Cef];

    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Ocsf => "ocsf",
            Self::Cef => "cef",
        }
    }

    pub(crate) fn encoder<W: Write + Send + Clone>(self, out: W) -> io::Result<Encoder<W>> {
        Ok(match self {
            Self::Jsonl => Encoder::Lines(out, jsonl::line),
            Self::Ocsf => Encoder::Lines(out, ocsf::line),
            Self::Cef => Encoder::Lines(out, cef::line),
            Self::Csv => {
                let mut out = out;
                out.write_all(csv::header().as_bytes())?;
                Encoder::Lines(out, csv::line)
            }
            Self::Parquet => Encoder::Parquet(Box::new(parquet::Encoder::new(out)?)),
        })
    }
}

/// Writes rows. What a call wrote may wait in a buffer until [`Encoder::settle`].
pub(crate) enum Encoder<W: Write + Send> {
    /// A line per record.
    Lines(W, fn(&mut Vec<u8>, &Row<'_>) -> io::Result<()>),
    Parquet(Box<parquet::Encoder<W>>),
}

impl<W: Write + Send> Encoder<W> {
    /// Takes rows. `true` when all bytes of these and earlier rows are out, so that a chunk of the manifest may end.
    pub(crate) fn rows(&mut self, rows: &[Row<'_>]) -> io::Result<bool> {
        match self {
            Self::Lines(out, line) => {
                let mut buffer = Vec::with_capacity(rows.len() * 1_024);
                for row in rows {
                    line(&mut buffer, row)?;
                }
                out.write_all(&buffer)?;
                Ok(true)
            }
            Self::Parquet(encoder) => encoder.rows(rows),
        }
    }

    /// Writes what is left and the end of the file.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Lines(mut out, _) => out.flush(),
            Self::Parquet(encoder) => encoder.finish(),
        }
    }
}

/// Hostile text in one line: control characters (and the separators that some readers take for a line's end) become
/// `\u{XX}`, visible and harmless.
pub(crate) fn visible(text: &str) -> std::borrow::Cow<'_, str> {
    let hostile = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    if !text.contains(hostile) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if hostile(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown.into()
}

#[cfg(test)]
mod tests;
