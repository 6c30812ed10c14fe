//! An outbound and an inbound sidecar with an app behind them, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests"
)]

mod apps;
mod break_glass;
mod conformance;
mod drain;
mod egress;
mod end_users;
mod flows;
mod grpc;
mod harness;
mod hostile;
mod http;
mod refusals;
mod tcp;
mod transparent;
mod websocket;
