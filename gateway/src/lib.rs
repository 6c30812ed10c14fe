//! The east-west gateway: lets sidecars of linked clusters reach the exported services of this one.
//!
//! A remote sidecar connects with mTLS (HTTP/2, ALPN `signet/h2`) and asks by CONNECT for an exported service. The
//! gateway decides `gateway:forward`, records it, and only then passes bytes, which are a second mTLS between the two
//! sidecars that it cannot read.
//!
//! INVARIANTS: the authority of a CONNECT names an exported service of the snapshot and never an address. Nothing but a
//! TLS ClientHello that offers a `signet/*` protocol begins a tunnel, so no endpoint ever gets plaintext from here. A
//! tunnel is decided again whenever policy, exports or trust bundles change, and is closed if the answer is now deny.
//!
//! Built on `signet-proxy`: snapshots, decisions with their records, refusals, balancing.

mod balancer;
mod config;
mod forward;
pub mod hello;
mod metrics;
mod run;
mod server;
#[cfg(test)]
mod tests;
mod tunnel;

pub use config::Config;
pub use run::run;
