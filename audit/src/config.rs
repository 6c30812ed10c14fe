//! The configuration file of `signet-audit`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    /// Which logs this service cosigns as a witness; none when not given.
    #[serde(default)]
    pub witness: Option<Witness>,
    /// Who cosigns this log.
    #[serde(default)]
    pub witnesses: Vec<AskedWitness>,
    /// After how long without a word an open producer is recorded as silent, seconds. Idle producers speak each 3 s; less than
    /// 7 would call a healthy one silent.
    #[serde(default = "default_silent_after", deserialize_with = "silent_after")]
    pub silent_after_seconds: u64,
    /// Who is told when recording fails.
    #[serde(default)]
    pub alerts: AlertsConfig,
    /// Systems that get each record as it comes.
    #[serde(default)]
    pub export: Vec<ExportConfig>,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// Who is told when recording fails. Metrics and records of alerts are made without it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsConfig {
    /// Where each alert is posted.
    #[serde(default)]
    pub webhook: Option<WebhookConfig>,
    /// How often someone must review the log (`signet audit review`), hours; nobody need when not given.
    #[serde(default)]
    pub review_every_hours: Option<f64>,
}

impl AlertsConfig {
    /// How often someone must review the log.
    #[must_use]
    pub fn review_every(&self) -> Option<Duration> {
        self.review_every_hours.and_then(|hours| Duration::try_from_secs_f64(hours * 3_600.0).ok())
    }
}

/// A webhook: JSON over HTTPS, signed with HMAC-SHA256.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `https://HOST[:PORT][/PATH]`.
    pub url: String,
    /// Holds the secret that signs; readable by its owner alone.
    pub secret_file: PathBuf,
    /// PEM file with the authorities that vouch for the host.
    #[serde(default = "system_authorities")]
    pub authorities: PathBuf,
}

/// A system that gets each record as it comes; exactly one of the three ways to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Names its cursor, for good: under another name it begins with the first record.
    pub name: String,
    /// Splunk's HTTP Event Collector, or what speaks like it.
    #[serde(default)]
    pub hec: Option<HecConfig>,
    /// OTLP logs over HTTP, as JSON.
    #[serde(default)]
    pub otlp: Option<OtlpConfig>,
    /// Syslog (RFC 5424) over TLS (RFC 5425).
    #[serde(default)]
    pub syslog: Option<SyslogConfig>,
}

/// Splunk's HTTP Event Collector.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HecConfig {
    /// `https://HOST:8088/services/collector/event`.
    pub url: String,
    /// Holds the token; readable by its owner alone.
    pub token_file: PathBuf,
    /// Whether the receiver's indexer acknowledges (`/services/collector/ack`); without it, having answered counts.
    #[serde(default)]
    pub acknowledge: bool,
    /// PEM file with the authorities that vouch for the host.
    #[serde(default = "system_authorities")]
    pub authorities: PathBuf,
}

/// OTLP logs over HTTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// `https://HOST:4318/v1/logs`.
    pub url: String,
    /// Holds a bearer token, where the collector wants one.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// PEM file with the authorities that vouch for the host.
    #[serde(default = "system_authorities")]
    pub authorities: PathBuf,
}

/// Syslog over TLS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogConfig {
    /// `HOST:6514`.
    pub address: String,
    /// PEM file with the authorities that vouch for the host.
    #[serde(default = "system_authorities")]
    pub authorities: PathBuf,
}

/// Where Debian and its descendants keep the authorities of the public web.
fn system_authorities() -> PathBuf {
    PathBuf::from("/etc/ssl/certs/ca-certificates.crt")
}

/// What `silent_after_seconds` is when it is not given.
#[must_use]
pub const fn default_silent_after() -> u64 {
    10
}

fn silent_after<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        seconds @ 7..=86_400 => Ok(seconds),
        other => Err(serde::de::Error::custom(format!("silent_after_seconds is {other}; give 7 to 86400"))),
    }
}

/// The tlog-tiles listener: plain HTTP, loopback only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tlog {
    /// Its address.
    pub listen: SocketAddr,
}

/// This service as a witness of other logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// The Ed25519 key that cosigns; made when absent. It must not be the log's.
    pub key_file: PathBuf,
    /// Verifier keys of the logs, `NAME+8 HEX DIGITS+BASE64`.
    pub logs: Vec<String>,
}

/// A witness (C2SP tlog-witness) that is asked to cosign this log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedWitness {
    /// `http://ADDRESS:PORT[/PATH]`, below which it takes `add-checkpoint`.
    pub url: String,
    /// Its verifier key for cosignatures, `NAME+8 HEX DIGITS+BASE64`.
    pub key: String,
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

    /// After how long without a word an open producer is recorded as silent.
    #[must_use]
    pub fn silent_after(&self) -> Duration {
        Duration::from_secs(self.silent_after_seconds)
    }

    /// Where the checkpoints that were cosigned last are remembered.
    #[must_use]
    pub fn witnessed_dir(&self) -> PathBuf {
        self.state_file().with_file_name("witnessed")
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
            "silent_after_seconds": self.silent_after_seconds,
            "alerts": {
                "webhook": self.alerts.webhook.as_ref().map(|webhook| &webhook.url),
                "review_every_hours": self.alerts.review_every_hours,
            },
            "export": self.export.iter().map(|export| &export.name).collect::<Vec<_>>(),
            "witness": self.witness.as_ref().map(|witness| &witness.logs),
            "witnesses": self.witnesses.iter().map(|asked| [&asked.url, &asked.key]).collect::<Vec<_>>(),
        })
    }
}

/// The name under which the audit service of a trust domain cosigns other logs.
#[must_use]
pub fn witness_name(trust_domain: &str) -> String {
    format!("{trust_domain}/signet-witness")
}

/// The origin of the log of a trust domain.
#[must_use]
pub fn origin(trust_domain: &str) -> String {
    format!("{trust_domain}/signet-log")
}
