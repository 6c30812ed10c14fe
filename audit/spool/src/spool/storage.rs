//! The few file operations on which the spool's promises rest, behind a trait so that tests can make them fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
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
    /// Writes zeros to `bytes` and forces them to stable storage, so that later writes change nothing but data. Does
    /// nothing once something was written.
    fn prepare(&self, bytes: Range<u64>) -> io::Result<()>;
}

/// Bytes of one write of zeros. The page cache keeps them in pieces of this size, and a store into a piece makes all of it
/// dirty: smaller ones fault more often, larger ones are written out more often.
const ZEROS: u64 = 64 * 1024;

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
            Ok(Some(map)) => {
                let state = State { map: Some(map), used: false };
                Ok(Arc::new(Mapped { file, state: Mutex::new(state) }))
            }
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
    state: Mutex<State>,
}

struct State {
    /// `None` once the file was cut: it is never cut under its mapping.
    map: Option<Map>,
    /// Something was written: from then on zeros would destroy records.
    used: bool,
}

impl SegmentFile for Mapped {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut state = self.state.lock();
        state.used = true;
        match &mut state.map {
            Some(map) => map.write(offset, bytes),
            None => Err(io::Error::other("the segment was cut already")),
        }
    }

    fn sync(&self) -> io::Result<()> {
        // Covers what was stored through the mapping: stores dirty the pages of the same page cache.
        self.file.sync_data()
    }

    fn trim(&self, bytes: u64) -> io::Result<()> {
        if let Some(map) = self.state.lock().map.take() {
            map.unmap();
        }
        self.file.set_len(bytes)
    }

    fn prepare(&self, bytes: Range<u64>) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(ZEROS).map_err(io::Error::other)?];
        for start in bytes.clone().step_by(zeros.len()) {
            // Who begins to use the file waits for one write at most.
            let state = self.state.lock();
            if state.used {
                break;
            }
            let most = usize::try_from(bytes.end - start).unwrap_or(usize::MAX);
            self.file.write_all_at(zeros.get(..most).unwrap_or(&zeros), start)?;
        }
        self.file.sync_data()
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

    fn prepare(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}
