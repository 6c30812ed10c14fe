//! The last good snapshot on disk: written whole, by rename, after a sync; read once at start.
//!
//! It holds policy and addresses, no secrets. A file that does not read is set aside, not trusted and not fatal:
//! the proxy then waits for its control plane as if it had none.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use signet_api::control as wire;

const MAGIC: &[u8; 8] = b"SGNSNAP1";

/// Why the last good snapshot could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use `{path}` for the last good snapshot; check that the proxy's user may write there")]
    Io { path: PathBuf, source: io::Error },
    #[error("`{path}` is not a snapshot; it was ignored, remove it")]
    Format { path: PathBuf },
}

pub(super) struct Store {
    path: PathBuf,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|source| StoreError::Io { path: dir.to_owned(), source })?;
        Ok(Self { path: dir.join("snapshot.pb") })
    }

    pub(super) fn load(&self) -> Result<Option<wire::Snapshot>, StoreError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path: self.path.clone(), source }),
        };
        bytes
            .strip_prefix(MAGIC)
            .and_then(|body| wire::Snapshot::decode(body).ok())
            .map(Some)
            .ok_or_else(|| StoreError::Format { path: self.path.clone() })
    }

    pub(super) fn save(&self, snapshot: &wire::Snapshot) -> Result<(), StoreError> {
        let new = self.path.with_extension("pb.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(MAGIC)?;
            file.write_all(&snapshot.encode_to_vec())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            // The rename itself is durable only once its directory is.
            if let Some(dir) = self.path.parent() {
                File::open(dir)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|source| StoreError::Io { path: self.path.clone(), source })
    }
}
