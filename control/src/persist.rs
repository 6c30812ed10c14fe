//! State files: written whole or not at all, readable by their owner alone.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a state file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The file system said no.
    #[error("the state file `{}` could not be read or written; check the directory's owner and free space", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Not what this program writes.
    #[error("the state file `{}` is damaged; restore it, or delete it to begin anew", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads a state file; None when there is none.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PersistError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PersistError::Io { path: path.to_owned(), source }),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|source| PersistError::Damaged { path: path.to_owned(), source })
}

/// Replaces a state file. After `Ok` it survives the loss of power. Blocks on the disk.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), PersistError> {
    let io = |source| PersistError::Io { path: path.to_owned(), source };
    let bytes = serde_json::to_vec(value).map_err(|source| PersistError::Damaged { path: path.to_owned(), source })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(io)?;
    file.write_all(&bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

/// Unix seconds now.
pub(crate) fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
