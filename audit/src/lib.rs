//! The audit service: takes records from producers' spools, stores them exactly once in PostgreSQL, keeps the
//! Merkle log of its trust domain with signed checkpoints, and answers questions about what was recorded.
//!
//! What others use: [`query`] (the dashboard and the command line), [`why`] (recomputes a decision), [`verify`]
//! (recomputes a log), [`proof`] (one record, offline), [`merkle`] and
//! [`note`] (pure). The rest is the service `signet-audit`, which [`server`] runs.

mod access;
mod alerts;
mod checkpoint;
pub mod config;
mod continuous;
mod faults;
mod ingest;
pub mod merkle;
pub mod metrics;
pub mod note;
mod outgoing;
pub mod proof;
pub mod query;
mod recorder;
pub mod row;
mod secret;
mod sequencer;
pub mod server;
mod silence;
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
