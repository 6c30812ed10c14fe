//! The sidecar's configuration file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use signet_observe::TelemetryConfig;
use signet_spool::SpoolConfig;

/// One file per sidecar. It holds no secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `unix:PATH`: yields both the workload's SVID and the sidecar's own.
    pub workload_api: String,
    /// `host:port` of the control plane.
    pub control: String,
    /// `host:port` of the audit service.
    pub audit: String,
    /// Loopback.
    pub admin: SocketAddr,
    /// The explicit outbound listener; loopback. Without it there must be `transparent`.
    #[serde(default)]
    pub outbound: Option<SocketAddr>,
    /// Takes what the rules of `signet-proxy init` redirect.
    #[serde(default)]
    pub transparent: Option<TransparentConfig>,
    /// Listeners that lead to one service each, for apps that can neither be redirected nor be told of a proxy; loopback.
    #[serde(default)]
    pub upstreams: Vec<UpstreamConfig>,
    #[serde(default)]
    pub inbound: Vec<InboundConfig>,
    /// PEM file of the authorities that hosts outside of the mesh are verified by, where the sidecar makes the TLS.
    #[serde(default = "authorities")]
    pub egress_authorities: PathBuf,
    /// Where the last good snapshot is kept.
    pub state_dir: PathBuf,
    pub spool: SpoolConfig,
    /// How long calls in flight may take to end after SIGTERM.
    #[serde(default = "ten")]
    pub drain_seconds: u64,
    /// Threads of the data runtime; as many as there are CPUs (or as the CPU limit allows) when left out.
    #[serde(default)]
    pub workers: Option<usize>,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// The listeners that redirect rules lead to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransparentConfig {
    #[serde(default = "outbound_port")]
    pub outbound_port: u16,
    #[serde(default = "inbound_port")]
    pub inbound_port: u16,
    /// As `signet-proxy init --inbound-mode`; `tproxy` needs CAP_NET_ADMIN.
    #[serde(default)]
    pub inbound_mode: InboundMode,
    /// Where the workload's apps listen, each on the port that was asked for.
    #[serde(default = "loopback")]
    pub app_host: IpAddr,
}

/// How inbound connections get here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InboundMode {
    #[default]
    Redirect,
    Tproxy,
}

fn authorities() -> PathBuf {
    PathBuf::from("/etc/ssl/certs/ca-certificates.crt")
}

fn outbound_port() -> u16 {
    crate::intercept::OUTBOUND_PORT
}

fn inbound_port() -> u16 {
    crate::intercept::INBOUND_PORT
}

fn loopback() -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
}

/// One service on a port of its own. Whatever a request names, it goes there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    pub listen: SocketAddr,
    /// A name of the service, as an app would use it.
    pub host: String,
    /// The service's port.
    pub port: u16,
}

/// One inbound port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundConfig {
    /// Where mesh traffic arrives: the target port of a service in the snapshot.
    pub listen: SocketAddr,
    /// Where the app listens, in plaintext.
    pub app: SocketAddr,
}

fn ten() -> u64 {
    10
}

impl Config {
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// At least one.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).max(1)
    }
}
