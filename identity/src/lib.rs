//! One trust domain's identities: the server that signs SVIDs, the agent that hands them to workloads over the SPIFFE
//! Workload API, and the federation that links trust domains.
//!
//! Invariants:
//! - No leaf outlives its issuer; a root key signs intermediates only; a workload's key never leaves its agent except to
//!   the workload.
//! - A bundle holds its own trust domain's authorities only, and a partner that is away changes nothing here.
//! - Every method of the server names in one table who may call it ([`server::access::TABLE`]).

pub mod agent;
pub mod bundle;
pub mod ca;
mod chain;
mod clock;
pub mod csr;
mod endpoint;
pub mod endpoint_url;
pub mod entries;
mod events;
pub mod federation;
pub mod fetch;
pub mod invite;
pub mod operator;
pub mod selector;
pub mod server;
pub mod store;
pub mod tokens;
mod unix;
