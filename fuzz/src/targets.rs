//! The readers, and what each promises for every input.

mod general;
mod http1;
mod tls;
mod wire;

use crate::Target;

/// All of them.
pub const ALL: [Target; 7] =
    [http1::HEADS, http1::CHUNKS, http1::ANSWERS, http1::CONNECT, tls::DETECTION, wire::SNAPSHOTS, wire::RECORDS];

/// The target of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Target> {
    const { &ALL }.iter().find(|target| target.name == name)
}
