//! The sidecar's data plane, and the building blocks of it that the gateway uses.
//!
//! Outbound takes an app's calls and carries them over pooled mTLS to endpoints of the snapshot; inbound terminates
//! mTLS, decides each call, records the decision and only then forwards. See DESIGN section 3 for a call's way and
//! section 10 for what always holds.
//!
//! Left out on purpose: anything that stores, compiles from Git or issues identities.

mod ambiguity;
mod answer;
pub mod balance;
mod body;
pub mod config;
pub mod decide;
mod detect;
pub mod egress;
pub mod flow;
mod forward;
mod headers;
pub mod inbound;
pub mod intercept;
mod limits;
pub mod live;
pub mod metrics;
mod open;
pub mod outbound;
pub mod redirect;
pub mod refusal;
mod relay;
pub mod runtime;
pub mod serve;
pub mod sidecar;
pub mod snapshot;
pub mod sockets;
pub mod tap;
mod tcp;
pub mod tls;
pub mod token;
mod trace;
#[doc(hidden)]
pub mod untrusted;
pub mod upstream;
mod websocket;
