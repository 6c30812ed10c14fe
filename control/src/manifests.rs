//! Desired state from Kubernetes manifests in a directory.
//!
//! `document` reads files into typed objects, `resolve` joins the objects into [`Desired`](crate::model::Desired), and
//! `directory` watches. What is wrong in one file leaves the whole last good state in force: half of a change is
//! worse than none.

mod addresses;
mod directory;
mod document;
mod external;
mod place;
mod resolve;
mod routes;
mod traffic;

use std::fmt;
use std::path::{Path, PathBuf};

pub use directory::{DirectorySource, ManifestState};
pub(crate) use resolve::is_label;

use crate::model::Desired;

/// A file larger than this is refused.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// A directory with more manifest files than this is refused.
pub const MAX_FILES: usize = 10_000;

/// What is wrong with a manifest, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// Which file.
    pub file: PathBuf,
    /// Which YAML document of it, from 1; 0 when the file could not be read at all.
    pub document: usize,
    /// Line in the file, from 1; 0 when the file could not be read at all.
    pub line: u64,
    /// Such as `spec.ports[0].port`; empty when the text is not YAML.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.file.display())?;
        if self.document > 0 {
            write!(f, " line {}, document {}", self.line, self.document)?;
        }
        if !self.field.is_empty() {
            write!(f, ", field `{}`", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Reads every `*.yaml`, `*.yml` and `*.json` below `directory`.
///
/// # Errors
/// All that is wrong, at least one error; nothing of the directory should then be used.
pub fn read_directory(directory: &Path) -> Result<Desired, Vec<ManifestError>> {
    let files = directory::list_files(directory).map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    let mut texts = Vec::new();
    for file in files {
        match directory::read_file(&file) {
            Ok(text) => texts.push((file, text)),
            Err(error) => errors.push(error),
        }
    }
    let (objects, mut warnings) = match document::parse_all(&texts) {
        Ok(parsed) => parsed,
        Err(found) => {
            errors.extend(found);
            return Err(errors);
        }
    };
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut desired = resolve::resolve(objects)?;
    warnings.append(&mut desired.warnings);
    desired.warnings = warnings;
    Ok(desired)
}

#[cfg(test)]
mod tests;
