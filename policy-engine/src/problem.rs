//! What is wrong with a bundle: a stable code, a place, a sentence and the next step.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The bundle is refused.
    Error,
    /// The bundle works; a person should look.
    Warning,
}

/// One finding in a policy repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, snake_case: `parse`, `missing_id`, `validation`, ...
    pub code: String,
    pub severity: Severity,
    pub path: String,
    /// From 1; 0 when the finding is about the whole file.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    pub message: String,
    pub help: Option<String>,
}

impl Problem {
    pub fn error(code: &str, at: &Place<'_>, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            severity: Severity::Error,
            path: at.path.to_owned(),
            line: at.line,
            column: at.column,
            message: message.into(),
            help: None,
        }
    }

    pub fn warning(code: &str, at: &Place<'_>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, at, message) }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: {}", self.code, self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// Where in a repository something is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub path: &'a str,
    pub line: u32,
    pub column: u32,
}

impl<'a> Place<'a> {
    pub fn file(path: &'a str) -> Self {
        Self { path, line: 0, column: 0 }
    }

    pub fn at(path: &'a str, line: u32, column: u32) -> Self {
        Self { path, line, column }
    }

    /// The place of a byte offset in `text`; an offset past the end is the end. For many places in one text use [`Lines`].
    pub fn offset(path: &'a str, text: &str, offset: usize) -> Self {
        Lines::new(text).place(path, offset)
    }
}

/// Where the lines of a text begin, to find many places in it.
#[derive(Debug)]
pub struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The place of a byte offset; an offset past the end is the end.
    pub fn place<'a>(&self, path: &'a str, offset: usize) -> Place<'a> {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).unwrap_or("").chars().count() + 1;
        Place::at(path, u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns() {
        let text = "ab\n\u{e9}x\n";
        let lines = Lines::new(text);
        for (offset, want) in [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (5, (2, 2)), (7, (3, 1)), (99, (3, 1))] {
            let place = lines.place("f", offset);
            assert_eq!((place.line, place.column), want, "{offset}");
        }
    }
}
