//! The bounds of every listener, pool and wait, in one place (DESIGN 10.7).

use std::time::Duration;

/// A whole TLS handshake.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// A TCP connect.
pub(crate) const CONNECT: Duration = Duration::from_secs(3);
/// A connection with all its handshakes, where a call can go elsewhere instead.
pub(crate) const CONNECT_WATCHED: Duration = Duration::from_secs(2);
/// A probe; with the time between two of a gateway it is what finding a dead cluster takes at most.
pub(crate) const PROBE: Duration = Duration::from_secs(1);
/// First bytes on an explicit listener, and inside CONNECT.
pub(crate) const DETECT: Duration = Duration::from_secs(5);
/// First bytes of a connection whose protocol nobody declared; what cannot be told by then is bytes. A server that speaks
/// first waits this long for its client's sidecar, once.
pub(crate) const DETECT_UNDECLARED: Duration = Duration::from_millis(100);
/// From the first bytes of a request's head that did not come as a whole to its end.
pub(crate) const HEAD: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 15 });
/// Between requests of an accepted HTTP/1.1 connection; in the general server, which knows no other, for a head too.
pub(crate) const SERVER_IDLE: Duration = Duration::from_secs(120);
/// For a connection, where a TrafficPolicy bounds their number.
pub(crate) const PENDING: Duration = Duration::from_secs(5);
/// Idle upstream connections go before the other side closes them.
pub(crate) const POOL_IDLE: Duration = Duration::from_secs(60);
/// No upstream connection gets older: load spreads over new endpoints.
pub(crate) const POOL_LIFETIME: Duration = Duration::from_secs(600);
/// Idle HTTP/1.1 connections kept for one endpoint.
pub(crate) const POOL_MAX_IDLE: usize = 256;
/// Streams on one pooled HTTP/2 connection before another is opened.
pub(crate) const H2_STREAMS: usize = 100;
/// HTTP/2 connections to one endpoint.
pub(crate) const H2_CONNECTIONS: usize = 16;
/// Accepted connections of one listener.
pub(crate) const CONNECTIONS: usize = 16_384;
pub(crate) const MAX_HEADERS: usize = 128;
/// A request or response head.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
pub(crate) const H2_STREAM_WINDOW: u32 = 1024 * 1024;
pub(crate) const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
pub(crate) const H2_MAX_STREAMS: u32 = 256;
pub(crate) const H2_PING: Duration = Duration::from_secs(20);
pub(crate) const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// One direction's buffer of a TCP connection.
pub(crate) const COPY_BUFFER: usize = 16 * 1024;
