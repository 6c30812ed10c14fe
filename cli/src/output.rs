//! How answers are written: one table for people, JSON, YAML and JSON Lines for programs, from the same rows.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::{Failure, ResultExt};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
    Jsonl,
}

/// A row that a table can show.
pub(crate) trait Row: Serialize {
    const COLUMNS: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

/// Whether colours and progress bars may be written to standard error or output.
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal()
}

/// Writes rows in the format that was asked for; `empty` is what a person reads when there are none.
pub(crate) fn rows<R: Row>(format: Format, rows: &[R], empty: &str) -> Result<(), Failure> {
    match format {
        Format::Table if rows.is_empty() => {
            eprintln!("{empty}");
            Ok(())
        }
        Format::Table => line(&table(rows).trim_fmt()),
        Format::Json | Format::Yaml => value(format, &rows),
        Format::Jsonl => rows.iter().try_for_each(|row| value(Format::Jsonl, row)),
    }
}

fn table<R: Row>(rows: &[R]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(R::COLUMNS.iter().map(|name| {
        let cell = Cell::new(name.to_uppercase());
        if colours() { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    for row in rows {
        table.add_row(row.cells().iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    table
}

/// Writes one value; a table of one value is its YAML.
pub(crate) fn value<T: Serialize>(format: Format, value: &T) -> Result<(), Failure> {
    line(&text(format, value)?)
}

/// One value as text, without the end of its last line.
pub(crate) fn text<T: Serialize>(format: Format, value: &T) -> Result<String, Failure> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(value).failed("cannot write JSON", "report this as a bug")?,
        Format::Jsonl => serde_json::to_string(value).failed("cannot write JSON", "report this as a bug")?,
        Format::Table | Format::Yaml => {
            serde_saphyr::to_string(value).failed("cannot write YAML", "report this as a bug")?
        }
    };
    Ok(text.trim_end().to_owned())
}

/// Whether what was written has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    /// It went away, as `head` does.
    Gone,
}

/// Writes one line; a reader that went away ends the command quietly.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match put_line(text)? {
        Reader::There => Ok(()),
        Reader::Gone => std::process::exit(0),
    }
}

/// Writes one line, for a command that has something left to do when its reader went away.
pub(crate) fn put_line(text: &str) -> Result<Reader, Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        other => other.map(|()| Reader::There).failed("cannot write to standard output", "check where the output goes"),
    }
}

/// Unix seconds as RFC 3339; 0 is never.
pub(crate) fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(_) if seconds == 0 => "never".to_owned(),
        Ok(time) => time.to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// Text from records and requests comes from strangers: control characters must not reach a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
    }
}
