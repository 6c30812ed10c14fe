//! Giving back the pages of a program's own files that only its start needed.
//!
//! Reading configuration, compiling policies and making TLS configurations run through most of a program's code once. Its
//! pages stay mapped, and count as memory of the process, though the page cache has them anyway. After a release only
//! what runs is mapped again, page by page.

use std::io;

/// Unmaps the pages of this process's programs and libraries that hold nothing but what is in their files; those that are
/// used come back by themselves. Gives the bytes that were resident.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read, or the system refuses.
pub fn release_code() -> io::Result<u64> {
    let mut released = 0;
    for mapping in clean(&std::fs::read_to_string("/proc/self/smaps")?) {
        // SAFETY: MADV_DONTNEED is unsafe because it loses what was stored in private pages. `clean` gives private file
        // mappings that cannot be written and have no such pages, so every byte that can be read afterwards comes from
        // the same file. Nothing makes them writable meanwhile: the loader did its part before `main`, and nothing here
        // calls `mprotect`. The mappings exist: programs and libraries that were loaded at the start are never unmapped.
        #[expect(unsafe_code, reason = "advice is unsafe in general")]
        let refused = unsafe {
            libc::madvise(std::ptr::without_provenance_mut(mapping.start), mapping.bytes, libc::MADV_DONTNEED)
        };
        if refused != 0 {
            return Err(io::Error::last_os_error());
        }
        released += mapping.resident;
    }
    Ok(released)
}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    bytes: usize,
    resident: u64,
}

/// The private, read-only mappings of executable files in `smaps` (proc_pid_smaps(5)) none of whose pages differs from the
/// file. Data that the loader relocated has such pages, and is left alone.
fn clean(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in smaps.lines() {
        if let Some(next) = head(line) {
            current = next;
            continue;
        }
        let kibibytes = |name: &str| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok();
        if let Some(resident) = kibibytes("Rss:")
            && let Some(mapping) = &mut current
        {
            mapping.resident = resident * 1024;
        }
        if kibibytes("Anonymous:") == Some(0) {
            found.extend(current.take().filter(|mapping| mapping.resident > 0));
        }
    }
    found
}

/// `None`: no first line of a mapping. `Some(None)`: of one that is to be left alone.
fn head(line: &str) -> Option<Option<Mapping>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let (permissions, path) = (words.next()?, words.nth(3).unwrap_or_default());
    let wanted = matches!(permissions, "r-xp" | "r--p") && path.starts_with('/');
    Some(wanted.then(|| Mapping { start, bytes: end.saturating_sub(start), resident: 0 }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    const SMAPS: &str = "\
55d000000000-55d000100000 r--p 00000000 fe:00 123 /usr/bin/some program
Size:               1024 kB
Rss:                 700 kB
Anonymous:             0 kB
55d000100000-55d000300000 r-xp 00100000 fe:00 123 /usr/bin/some program
Rss:                2000 kB
Anonymous:             0 kB
55d000300000-55d000310000 r--p 00300000 fe:00 123 /usr/bin/some program
Rss:                  64 kB
Anonymous:            64 kB
55d000310000-55d000320000 rw-p 00310000 fe:00 123 /usr/bin/some program
Rss:                  64 kB
Anonymous:             0 kB
7f0000000000-7f0000100000 rw-s 00000000 fe:00 124 /spool/segment
Rss:                1024 kB
Anonymous:             0 kB
7f0000100000-7f0000200000 r--p 00000000 00:00 0
Rss:                   4 kB
Anonymous:             0 kB
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   4 kB
Anonymous:             0 kB
";

    #[test]
    fn only_pages_that_their_file_has_are_released() {
        let mapping = |start, bytes, resident: u64| Mapping { start, bytes, resident: resident * 1024 };
        let expected = [mapping(0x55d0_0000_0000, 0x10_0000, 700), mapping(0x55d0_0010_0000, 0x20_0000, 2_000)];
        assert_eq!(clean(SMAPS), expected);
        assert_eq!(clean("what is this\nRss: 5 kB\nAnonymous: 0 kB\n"), []);
    }

    #[test]
    fn the_program_goes_on_and_needs_less() {
        static CONSTANT: [u8; 64] = [7; 64];
        let resident = || -> u64 {
            clean(&std::fs::read_to_string("/proc/self/smaps").unwrap()).iter().map(|mapping| mapping.resident).sum()
        };
        // All of it, as after a long start.
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let before = resident();
        let released = release_code().unwrap();
        assert!(released > 0 && before > 0, "{released} of {before}");
        assert!(resident() < before, "{} of {before} are back already", resident());
        assert_eq!(std::hint::black_box(CONSTANT), [7; 64]);
        assert_eq!(std::fs::read(std::env::current_exe().unwrap()).unwrap().len(), program.len());
    }
}
