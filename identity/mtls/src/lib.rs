//! SPIFFE identities on the wire: IDs, the live identity of this process, and TLS configurations over it.
//!
//! INVARIANT: no SVID is accepted against another trust domain's roots. The verifier reads the one SPIFFE ID of the leaf
//! and builds a path to the roots of *that* trust domain only. INVARIANT: both sides read the live [`IdentitySource`] at
//! each handshake, so a rotated or withdrawn SVID or bundle takes effect with the next one. TLS 1.3 only, no resumption:
//! a resumed session would outlive the roots that it was verified against.
//!
//! Left out on purpose: fetching bundles of federated trust domains (the agent does it) and who may call what (policy).

mod accept;
mod config;
pub mod grpc;
mod id;
mod identity;
mod metrics;
mod refusal;
mod source;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod verify;
mod workload_api;

pub use accept::{Accepted, HandshakeError, accept, connect, describe};
pub use config::{
    PeerRule, Select, client_config, server_config, server_config_optional_client, server_config_with_rule, server_name,
};
pub use id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use identity::{Identity, IdentityError, IdentityMaterial, Svid};
pub use metrics::register as register_metrics;
pub use refusal::{PeerError, Refusal, classify, refused_peer};
pub use source::IdentitySource;
pub use verify::{Usage, peer_id, verify_chain};

/// Protocols of the mesh, as ALPN tells them from a workload's own TLS.
pub mod alpn {
    pub const H2: &[u8] = b"signet/h2";
    pub const HTTP1: &[u8] = b"signet/http1";
    pub const TCP: &[u8] = b"signet/tcp";
    /// Components' own gRPC.
    pub const GRPC: &[u8] = b"h2";
}
