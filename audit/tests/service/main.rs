//! The audit service over real mutual TLS and a real PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests"
)]

mod access;
mod alerts;
mod exports;
mod faults;
mod fixture;
mod ingest;
mod log;
mod outside;
mod questions;
mod silence;
mod tamper;
mod webhook;
mod witnesses;
