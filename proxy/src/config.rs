//! The sidecar's configuration file.

use std::net::SocketAddr;
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
    /// The explicit outbound listener; loopback.
    pub outbound: SocketAddr,
    #[serde(default)]
    pub inbound: Vec<InboundConfig>,
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
