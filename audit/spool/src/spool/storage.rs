//! The few file operations on which the spool's promises rest, behind a trait so that tests can make them fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use signet_map::Map;

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
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let made = match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Map::of(&file).map(Some),
            // Some file systems cannot reserve; a hole reads as zeros too, and a later failed write is noticed.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes).map(|()| None),
            Err(error) => Err(error.into()),
        };
        match made {
            Ok(Some(map)) => Ok(Arc::new(Mapped { file, map: Mutex::new(Some(map)) })),
            Ok(None) => Ok(Arc::new(file)),
            Err(error) => {
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// A segment that is written through a mapping: an append is a copy into the page cache, without a system call, and so
/// never waits for a sync of the same file.
struct Mapped {
    file: File,
    /// `None` once it was cut: a file is never cut under its mapping.
    map: Mutex<Option<Map>>,
}

impl SegmentFile for Mapped {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        match &mut *self.map.lock() {
            Some(map) => map.write(offset, bytes),
            None => Err(io::Error::other("the segment was cut already")),
        }
    }

    fn sync(&self) -> io::Result<()> {
        // Covers what was stored through the mapping: stores dirty the pages of the same page cache.
        self.file.sync_data()
    }

    fn trim(&self, bytes: u64) -> io::Result<()> {
        if let Some(map) = self.map.lock().take() {
            map.unmap();
        }
        self.file.set_len(bytes)
    }
}

/// Where space cannot be reserved a store into a mapping could meet a full disk, which ends the process; a write is told.
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
