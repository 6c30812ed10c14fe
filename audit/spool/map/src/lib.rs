//! A file of fixed size that is written through a shared mapping; and giving back a program's own pages ([`release_code`]).
//!
//! A store into the mapping is in the page cache at once, without a system call: it survives the death of the process,
//! and a sync of the file on another thread carries it to stable storage without the writer waiting for it.
//!
//! This crate is the only one of the workspace that may use `unsafe`, and uses it once for each of the two. What keeps the
//! mapping sound:
//! - **The mapping never gets longer than its file.** The file's space is reserved before it is mapped, its length is
//!   fixed, and [`Map::unmap`] must be called (it consumes the mapping) before the file may be cut. A page whose block is
//!   reserved cannot fail for want of space, so a store cannot raise `SIGBUS`; a failing disk shows when the file is synced.
//! - **Nobody reads through it.** No reference into the mapping is given out, so that bytes which change underneath
//!   (another process that may write the file is already inside the trust boundary: its mode is 0600) are never behind a
//!   Rust reference that says they do not.
//!
//! It leaves out on purpose: reading, resizing, private mappings.

mod code;

use std::fs::File;
use std::io;

use memmap2::{Advice, MmapMut};

pub use code::release_code;

/// A writable shared mapping of a whole file.
#[derive(Debug)]
pub struct Map {
    map: MmapMut,
}

impl Map {
    /// Maps the whole of `file`, whose space must be reserved already and which must not be cut while the mapping lives.
    ///
    /// # Errors
    /// When the file is not open for reading and writing, is empty, or the system refuses.
    pub fn of(file: &File) -> io::Result<Self> {
        // SAFETY: `map_mut` is unsafe because the file may change or shrink under a reference into the mapping. No such
        // reference leaves this type: `write` borrows it for the length of one copy and never reads. The file is made by
        // the caller for this mapping alone (mode 0600) and is cut only after `unmap`.
        #[expect(unsafe_code, reason = "there is no safe way to map a file")]
        let map = unsafe { MmapMut::map_mut(file)? };
        Ok(Self { map })
    }

    /// Bytes that are mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Stores `bytes` at `offset`: in the page cache when it returns.
    ///
    /// # Errors
    /// When they would not fit; nothing is stored then.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len());
        let Some(place) = end.and_then(|end| self.map.get_mut(offset..end)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a write beyond the end of a mapping"));
        };
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// Makes the pages of `bytes` from `offset` present and writable, so that the first store into them does not fault.
    /// What lies beyond the end is left out; a kernel that cannot do it makes no difference but in time.
    pub fn populate(&self, offset: usize, bytes: usize) {
        let offset = offset.min(self.len());
        let bytes = bytes.min(self.len() - offset);
        if bytes > 0 {
            // Only a hint: a store does the same, later.
            let _ = self.map.advise_range(Advice::PopulateWrite, offset, bytes);
        }
    }

    /// Ends the mapping; what was stored stays in the file.
    pub fn unmap(self) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn mapped(bytes: u64) -> (tempfile::NamedTempFile, Map) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let map = Map::of(file.as_file()).unwrap();
        (file, map)
    }

    #[test]
    fn what_is_written_is_in_the_file_at_once() {
        let (file, mut map) = mapped(10_000);
        map.populate(0, 10_000);
        map.write(4_090, b"across a page").unwrap();
        let read = std::fs::read(file.path()).unwrap();
        assert_eq!((read.len(), &read[4_090..4_103]), (10_000, &b"across a page"[..]));
        map.unmap();
        file.as_file().set_len(4_096).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap().len(), 4_096);
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let (file, mut map) = mapped(100);
        for (offset, bytes) in [(98, &b"abc"[..]), (101, b""), (usize::MAX, b"a")] {
            assert!(map.write(offset, bytes).is_err(), "{offset}");
        }
        map.write(97, b"abc").unwrap();
        map.populate(5_000, 1);
        map.populate(0, usize::MAX);
        assert_eq!(&std::fs::read(file.path()).unwrap()[97..], b"abc");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100).unwrap();
        let reading = File::open(file.path()).unwrap();
        assert!(Map::of(&reading).is_err());
    }
}
