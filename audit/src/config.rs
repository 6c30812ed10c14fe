//! The configuration file of `signet-audit`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use signet_observe::TelemetryConfig;

/// What `--config` names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whose records this service takes.
    pub trust_domain: String,
    /// Where the service gets its own SVID, `unix:/path`.
    pub workload_api: String,
    /// gRPC `Ingest` over mutual TLS.
    pub listen: SocketAddr,
    /// The log for everyone to read.
    pub tlog: Tlog,
    /// Admin listener, loopback only.
    pub admin: SocketAddr,
    /// PostgreSQL.
    pub database_url: String,
    /// The log's Ed25519 key; made when absent.
    pub log_key_file: PathBuf,
    /// Where the last signed checkpoint is remembered, so that a database that went back is noticed. Beside the key when
    /// not given. It must not be restored together with the database.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// The tlog-tiles listener: plain HTTP, loopback only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tlog {
    /// Its address.
    pub listen: SocketAddr,
}

impl Config {
    /// The origin of this trust domain's log.
    #[must_use]
    pub fn origin(&self) -> String {
        origin(&self.trust_domain)
    }

    /// The file that remembers the last signed checkpoint.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        let directory =
            self.state_dir.clone().or_else(|| self.log_key_file.parent().map(PathBuf::from)).unwrap_or_default();
        directory.join("last-checkpoint")
    }

    /// For `/config`: the connection string without its password.
    #[must_use]
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::json!({
            "trust_domain": self.trust_domain,
            "workload_api": self.workload_api,
            "listen": self.listen,
            "tlog": { "listen": self.tlog.listen },
            "admin": self.admin,
            "database_url": crate::query::redact(&self.database_url),
            "log_key_file": self.log_key_file,
            "state_file": self.state_file(),
        })
    }
}

/// The origin of the log of a trust domain.
#[must_use]
pub fn origin(trust_domain: &str) -> String {
    format!("{trust_domain}/signet-log")
}
