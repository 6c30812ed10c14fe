//! The contracts between Signet's components: protobuf messages and gRPC services, and nothing else.
//!
//! `proto/` is the source; each module here is one file of it.

/// SPIFFE Workload API, as served by the node agent (SPIFFE Workload API, X.509 part).
#[allow(unreachable_pub, missing_docs, clippy::all, reason = "generated code")]
pub mod workload {
    tonic::include_proto!("_");
}

/// Agents, operators and the control plane with an identity server.
#[allow(unreachable_pub, missing_docs, clippy::all, reason = "generated code")]
pub mod identity {
    tonic::include_proto!("signet.identity.v1");
}

/// Control plane with sidecars, gateways and linked control planes.
#[allow(unreachable_pub, missing_docs, clippy::all, reason = "generated code")]
pub mod control {
    tonic::include_proto!("signet.control.v1");
}

/// Producers' spools with the audit service.
#[allow(unreachable_pub, missing_docs, clippy::all, reason = "generated code")]
pub mod audit {
    tonic::include_proto!("signet.audit.v1");
}
