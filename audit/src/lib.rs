//! The audit service: takes records from producers' spools, stores them exactly once in PostgreSQL, keeps the
//! Merkle log of its trust domain with signed checkpoints, and answers questions about what was recorded.
//!
//! What others use: [`query`] (the dashboard and the command line), [`why`] (recomputes a decision), [`verify`]
//! (recomputes a log). The rest is the service `signet-audit`.

pub mod query;
pub mod why;
mod wire;
