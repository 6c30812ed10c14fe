//! The gateway's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use signet_observe::TelemetryConfig;
use signet_spool::SpoolConfig;

/// It holds no secret, so `/config` shows it whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `unix:PATH` of the socket that gives `/signet/gateway`.
    pub workload_api: String,
    /// `host:port` of the control plane's gRPC.
    pub control: String,
    /// `host:port` of the audit service's gRPC.
    pub audit: String,
    /// Loopback address of the admin listener.
    pub admin: SocketAddr,
    /// Where sidecars of linked clusters connect.
    pub listen: SocketAddr,
    /// Where the last good snapshot is kept.
    pub state_dir: PathBuf,
    pub spool: SpoolConfig,
    /// How long open tunnels may go on after the gateway was asked to end.
    #[serde(default = "default_drain")]
    pub drain_seconds: u64,
    /// A tunnel that carries no byte for this long is closed.
    #[serde(default = "default_idle")]
    pub idle_seconds: u64,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

impl Config {
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds.max(1))
    }
}

fn default_drain() -> u64 {
    8
}

fn default_idle() -> u64 {
    3600
}
