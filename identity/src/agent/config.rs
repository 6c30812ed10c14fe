//! The agent's configuration file.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use signet_mtls::TrustDomain;
use signet_observe::TelemetryConfig;

use crate::invite::is_host_port;

/// `signet-identity agent --config FILE`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The trust domain of this node.
    pub trust_domain: TrustDomain,
    /// `host:port` of the identity server.
    pub server: String,
    /// PEM of the roots that the server is verified against the first time.
    pub bootstrap_bundle: PathBuf,
    /// A file that holds a join token; needed only to attest.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// The agent's own key and SVID; made 0700.
    pub data_dir: PathBuf,
    /// The Workload API for entries without a socket of their own.
    pub socket: PathBuf,
    /// One socket for each `unix:socket:<name>` selector: `<dir>/<name>.sock`.
    pub workload_socket_dir: PathBuf,
    /// Loopback; none without it.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

impl AgentConfig {
    /// Everything that is wrong with the values, each naming its field.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !is_host_port(&self.server) {
            problems.push(format!("`server`: `{}` is not host:port", self.server));
        }
        for (field, path) in [("socket", &self.socket), ("workload_socket_dir", &self.workload_socket_dir)] {
            if !path.is_absolute() {
                problems.push(format!("`{field}`: `{}` must be absolute, workloads name it so", path.display()));
            }
        }
        problems
    }
}
