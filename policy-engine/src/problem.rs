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

    /// The place of a byte offset in `text`; an offset past the end is the end.
    pub fn offset(path: &'a str, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Self { path, line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
    }
}
