//! What leaves the audit store for others to read and to check: exports in five formats, with the checks that need
//! nothing but public keys.
//!
//! A crate of its own, so that Parquet is neither in the audit service nor in a sidecar.

pub mod controls;
pub mod evidence;
pub mod export;
mod format;
mod row;

pub use format::Format;
