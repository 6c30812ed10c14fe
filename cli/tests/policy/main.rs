//! `signet policy` as a person or a pipeline runs it: the built program on real Git repositories.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod coverage;
mod diff;
mod example;
mod fmt;
mod lsp;
mod pipelines;
mod place;
mod replay;
mod report;
