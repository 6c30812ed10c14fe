//! What leaves the audit store for others to read and to check: exports in five formats, with the checks that need
//! nothing but public keys.
//!
//! A crate of its own, so that Parquet is neither in the audit service nor in a sidecar.

pub mod controls;
pub mod evidence;
pub mod export;
mod format;

use aws_lc_rs::digest::{SHA256, digest};

pub use format::Format;
pub(crate) use signet_audit::row;

/// SHA-256 as 32 bytes.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // INVARIANT: SHA-256 yields 32 bytes.
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
