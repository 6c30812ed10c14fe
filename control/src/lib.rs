//! The control plane of one cluster: reads desired state (Kubernetes manifests, a policy branch, linked clusters) and
//! streams to each proxy only what concerns it.
//!
//! The way of a change: `manifests`, `policy` and `links` each publish immutable states; `hub` joins them into one
//! versioned [`model::World`]; `snapshot` computes from it, purely, what one proxy is told; `discovery` sends that when
//! it differs from what the proxy was sent. `link` and `federation` keep linked clusters in step, `status` shows all.
//!
//! Invariants:
//! - What is malformed or refused changes nothing: the last good manifests and the last good policy stay in force.
//! - Policy history goes forward only, across restarts.
//! - A linked cluster speaks for its own trust domain alone, and only while its lease runs.
//! - Nothing waits for the identity server, the audit service or a linked cluster.

mod authorise;
mod backoff;
mod break_glass;
mod bundles;
mod config;
mod control;
mod discovery;
mod emergency;
mod events;
mod federation;
mod gate;
mod hub;
mod link;
pub mod links;
mod live;
pub mod manifests;
mod metrics;
pub mod model;
mod persist;
mod policy;
mod proxies;
mod readiness;
pub mod snapshot;
mod status;

pub use config::{BreakGlassConfig, Config, LinkConfig, PolicyConfig, ReturnConfig};
pub use control::{Control, ControlError};
