//! Fuzzing of everything that reads strangers' bytes, on a stable compiler: targets are plain functions, and [`Session`] feeds
//! them mutations of a corpus. `make test` does so for a moment with a fixed seed, `make fuzz` for as long as wanted.
//!
//! Without instrumentation nobody knows which branches an input took. Instead each target says what it made of the input
//! ([`Shape`]), and inputs that led to something new are mutated further.

mod mutate;
mod session;
pub mod targets;

use std::path::Path;

pub use session::{Failure, Report, Session};

/// What a target made of an input; equal for inputs that were treated alike.
pub type Shape = u64;

/// A reader of untrusted bytes, with the promises it must keep for every input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Well-formed inputs, and attacks that were thought of.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// What mutations like to insert.
    pub words: &'static [&'static [u8]],
    /// # Errors
    /// The promise that was broken.
    pub check: fn(&[u8]) -> Result<Shape, String>,
}

/// The shape of anything that can be hashed.
#[must_use]
pub fn shape(of: impl std::hash::Hash) -> Shape {
    use std::hash::{DefaultHasher, Hasher as _};

    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The inputs on which the target of that name once failed, from `fuzz/regressions/`.
///
/// # Errors
/// When they cannot be read.
pub fn regressions(target: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut files: Vec<_> =
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    files.iter().map(std::fs::read).collect()
}
