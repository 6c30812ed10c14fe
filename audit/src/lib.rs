//! The audit service: takes records from producers' spools, stores them exactly once in PostgreSQL, keeps the
//! Merkle log of its trust domain with signed checkpoints, and answers questions about what was recorded.
//!
//! What others use: [`query`] (the dashboard and the command line), [`why`] (recomputes a decision), [`verify`]
//! (recomputes a log), [`merkle`] and [`note`] (pure). The rest is the service `signet-audit`, which [`server`] runs.

mod access;
mod checkpoint;
pub mod config;
mod ingest;
pub mod merkle;
pub mod metrics;
pub mod note;
pub mod query;
mod sequencer;
pub mod server;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod tlog;
pub mod verify;
pub mod why;
mod wire;
mod witness;

pub use store::StoreError;
pub use store::guard::GuardError;
