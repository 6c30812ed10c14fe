//! The few file operations on which the spool's promises rest, behind a trait so that tests can make them fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

/// One segment that is being written.
pub(crate) trait SegmentFile: Send + Sync {
    /// Writes all of `bytes` at `offset`, into the page cache.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Forces what was written to stable storage.
    fn sync(&self) -> io::Result<()>;
    /// Gives back the space beyond `bytes`.
    fn trim(&self, bytes: u64) -> io::Result<()>;
}

/// Where segments live.
pub(crate) trait Storage: Send + Sync {
    /// A new file of `bytes` zeros whose space is reserved.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn SegmentFile>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Forces the names in `dir` to stable storage.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The real thing.
pub(crate) struct Disk;

impl Storage for Disk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // Some file systems cannot reserve; a hole reads as zeros too, and a later failed write is noticed.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes)?,
            Err(error) => {
                let _ = std::fs::remove_file(path);
                return Err(error.into());
            }
        }
        Ok(Arc::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl SegmentFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn trim(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}
