//! The REST endpoints; one file per subject.

pub(crate) mod decisions;
pub(crate) mod events;
pub(crate) mod mesh;
pub(crate) mod posture;
pub(crate) mod session;
pub(crate) mod stream;
