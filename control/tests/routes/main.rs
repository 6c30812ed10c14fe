//! HTTPRoute and GRPCRoute in the mesh, clause by clause of the Gateway API (1.6: HTTPRoute, GRPCRoute, GEP-1294 for
//! the mesh, GEP-1731 for retries, GEP-1742 for timeouts, GEP-3171 for mirroring): from manifests, through the control
//! plane's snapshot, over real sidecars. The name of each test says its clause.
//! Signet's own TrafficPolicy is tested in the same mesh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    dead_code,
    reason = "tests; the sidecars' harness is shared with another crate's"
)]

mod app;
mod attempts;
mod backends;
mod filters;
mod grpc;
#[path = "../../../proxy/tests/pair/harness.rs"]
mod harness;
mod matching;
mod mesh;
mod namespaces;
mod resilience;
mod traffic;
mod websocket;
