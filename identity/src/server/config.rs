//! The server's configuration file.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use signet_mtls::TrustDomain;
use signet_observe::TelemetryConfig;
use signet_spool::SpoolConfig;

use crate::{bundle::DEFAULT_REFRESH_HINT, entries::MAX_TTL, invite::is_host_port, invite::is_host_ports};

/// `signet-identity server --config FILE`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// The trust domain that this server speaks for.
    pub trust_domain: TrustDomain,
    /// Root, tokens, relationships; made 0700.
    pub data_dir: PathBuf,
    /// gRPC over mutual TLS: Node and Operator.
    pub listen: SocketAddr,
    /// The SPIFFE bundle endpoint.
    pub bundle_endpoint: BundleEndpointConfig,
    /// Loopback; none without it.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// Operator on a Unix socket, 0600, for whoever runs the server.
    #[serde(default)]
    pub operator_socket: Option<PathBuf>,
    /// Registration entries, YAML; read again whenever it changes.
    pub entries: PathBuf,
    /// The life of an SVID.
    #[serde(default = "default_svid_ttl")]
    pub svid_ttl_seconds: u32,
    /// The life of an intermediate; at least twice that of an SVID.
    #[serde(default = "default_intermediate_ttl")]
    pub intermediate_ttl_seconds: u32,
    /// The life of an agent's own SVID: how long an agent may be away and return without a token.
    #[serde(default)]
    pub agent_ttl_seconds: Option<u32>,
    /// What invites say, and how partners are polled.
    #[serde(default)]
    pub federation: FederationConfig,
    /// `host:port` of the audit service; without it events are only logged.
    #[serde(default)]
    pub audit: Option<String>,
    /// Where and how events wait for the audit service; by default on disk in `data_dir/spool`.
    #[serde(default)]
    pub spool: Option<SpoolConfig>,
    /// The directory of the spool alone, for those who need no other setting of it.
    #[serde(default)]
    pub spool_dir: Option<PathBuf>,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// `bundle_endpoint`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleEndpointConfig {
    /// HTTPS.
    pub listen: SocketAddr,
    /// What partners are told to poll at.
    #[serde(default = "default_refresh_hint")]
    pub refresh_hint_seconds: u32,
}

/// `federation`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationConfig {
    /// The URL under which partners reach the bundle endpoint; its listener's address by default.
    pub advertise_bundle_endpoint: Option<String>,
    /// `host:port` of this cluster's gateway, as partners reach it; of its replicas, with commas between.
    pub advertise_gateway: Option<String>,
    /// `host:port` of this cluster's control plane, as partners reach it.
    pub advertise_control: Option<String>,
    /// Partners are polled no more often than this, whatever they hint.
    pub minimum_refresh_seconds: u32,
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self {
            advertise_bundle_endpoint: None,
            advertise_gateway: None,
            advertise_control: None,
            minimum_refresh_seconds: 10,
        }
    }
}

fn default_svid_ttl() -> u32 {
    3600
}

fn default_intermediate_ttl() -> u32 {
    86_400
}

fn default_refresh_hint() -> u32 {
    DEFAULT_REFRESH_HINT
}

impl ServerConfig {
    /// Everything that is wrong with the values, each naming its field.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut wrong = |field: &str, why: String| problems.push(format!("`{field}`: {why}"));
        if self.svid_ttl_seconds == 0 || self.svid_ttl_seconds > MAX_TTL {
            wrong("svid_ttl_seconds", format!("must be 1 to {MAX_TTL}"));
        }
        if self.intermediate_ttl_seconds < self.svid_ttl_seconds.saturating_mul(2) {
            wrong("intermediate_ttl_seconds", "must be at least twice `svid_ttl_seconds`".into());
        }
        if self.spool.is_some() && self.spool_dir.is_some() {
            wrong("spool_dir", "`spool.dir` says it already; leave one of them out".into());
        }
        if self.agent_ttl_seconds == Some(0) {
            wrong("agent_ttl_seconds", "must be more than 0".into());
        }
        if self.bundle_endpoint.refresh_hint_seconds == 0 {
            wrong("bundle_endpoint.refresh_hint_seconds", "must be more than 0".into());
        }
        if let Some(url) = &self.federation.advertise_bundle_endpoint
            && let Err(error) = url.parse::<crate::endpoint_url::EndpointUrl>()
        {
            wrong("federation.advertise_bundle_endpoint", format!("`{url}`: {error}"));
        }
        if let Some(address) = self.federation.advertise_gateway.as_deref().filter(|address| !is_host_ports(address)) {
            wrong(
                "federation.advertise_gateway",
                format!("`{address}` is not host:port, or several with commas between and no spaces"),
            );
        }
        for (field, address) in
            [("federation.advertise_control", &self.federation.advertise_control), ("audit", &self.audit)]
        {
            if let Some(address) = address.as_deref().filter(|address| !is_host_port(address)) {
                wrong(field, format!("`{address}` is not host:port"));
            }
        }
        problems
    }

    /// The life of an agent's SVID: as configured, else half an intermediate's but at most half a day.
    #[must_use]
    pub fn agent_ttl(&self) -> u32 {
        self.agent_ttl_seconds.unwrap_or_else(|| (self.intermediate_ttl_seconds / 2).clamp(1, 43_200))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "trust_domain: east.bank.example\ndata_dir: /d\nlisten: 127.0.0.1:0\n\
        bundle_endpoint: {listen: '127.0.0.1:0'}\nentries: /e\n";

    #[test]
    fn the_shortest_file_has_sound_defaults() {
        let config: ServerConfig = serde_saphyr::from_str(MINIMAL).unwrap();
        assert!(config.problems().is_empty());
        assert_eq!((config.svid_ttl_seconds, config.agent_ttl()), (3600, 43_200));
    }

    #[test]
    fn all_problems_are_reported_together() {
        let text = format!(
            "{MINIMAL}svid_ttl_seconds: 100\nintermediate_ttl_seconds: 150\naudit: nowhere\n\
             federation: {{advertise_bundle_endpoint: 'http://x/', advertise_gateway: y}}\n"
        );
        let config: ServerConfig = serde_saphyr::from_str(&text).unwrap();
        let problems = config.problems().join("\n");
        for field in ["intermediate_ttl_seconds", "audit", "advertise_bundle_endpoint", "advertise_gateway"] {
            assert!(problems.contains(field), "{problems}");
        }
    }

    #[test]
    fn unknown_fields_are_errors() {
        assert!(serde_saphyr::from_str::<ServerConfig>(&format!("{MINIMAL}svid_ttl: 3\n")).is_err());
    }
}
