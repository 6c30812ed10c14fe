//! The dashboard's server: REST API, live list and the web assets inside the binary.
//!
//! It only reads, and has each reading of records recorded: decisions and events from the audit database, state from the control planes and identity servers
//! over mutual TLS with its own SVID. A part that does not answer is shown as such and takes nothing else with it.
//!
//! - [`config`]: the configuration file. [`serve`]: the listener. [`app`]: router and shared state.
//! - [`session`]: token, sessions, limit on wrong tries; `guard`: what every request passes.
//! - [`clusters`]: what control planes and identity servers say. [`store`]: what the audit database says.
//! - [`access`]: what is read is recorded first.
//! - [`live`]: new decisions, read once for all viewers. [`model`]: the API's types.

pub mod access;
mod api;
pub mod app;
pub mod assets;
pub mod clusters;
pub mod config;
mod guard;
pub mod live;
pub mod metrics;
pub mod model;
mod problem;
mod selection;
pub mod serve;
pub mod session;
pub mod store;
