//! The configuration file of `signet-ui`, parsed once.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use signet_observe::TelemetryConfig;
use thiserror::Error;

/// Shorter tokens could be guessed; `signet demo` makes 256 random bits.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: u64 = 1024;

/// `signet-ui --config FILE`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the dashboard listens; loopback, because it speaks plain HTTP.
    pub listen: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The audit database; a role that only reads is enough.
    pub database_url: String,
    /// Holds the dashboard token; readable by its owner alone.
    pub token_file: PathBuf,
    pub clusters: Vec<ClusterConfig>,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// One cluster that the dashboard looks at, with the identity it does so with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    pub name: String,
    pub trust_domain: String,
    /// The socket that gives `/signet/ui` of this trust domain.
    pub workload_api: String,
    /// `host:port` of the identity server and of the control plane.
    pub identity: String,
    pub control: String,
    /// `host:port` of the audit service.
    pub audit: String,
}

#[derive(Debug, Error)]
pub enum ConfigProblem {
    #[error(
        "`listen: {0}` is not a loopback address; the dashboard speaks plain HTTP: listen on 127.0.0.1 and put a proxy that terminates TLS in front"
    )]
    NotLoopback(SocketAddr),
    #[error("`clusters` is empty; name at least one cluster")]
    NoClusters,
    #[error("`clusters` names `{0}` twice; give each cluster a name of its own")]
    TwiceNamed(String),
    #[error("could not read token file `{path}`; create it with 32 random bytes in hex and mode 0600")]
    TokenUnreadable { path: PathBuf, source: std::io::Error },
    #[error("token file `{path}` can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    TokenExposed { path: PathBuf, mode: u32 },
    #[error("token file `{path}` must hold one printable token of {MIN_TOKEN} to {MAX_TOKEN} characters")]
    TokenUnfit { path: PathBuf },
}

impl Config {
    /// Checks what the types alone do not say.
    pub fn check(&self) -> Result<(), ConfigProblem> {
        if !self.listen.ip().is_loopback() {
            return Err(ConfigProblem::NotLoopback(self.listen));
        }
        if self.clusters.is_empty() {
            return Err(ConfigProblem::NoClusters);
        }
        for (index, cluster) in self.clusters.iter().enumerate() {
            if self.clusters.iter().take(index).any(|other| other.name == cluster.name) {
                return Err(ConfigProblem::TwiceNamed(cluster.name.clone()));
            }
        }
        Ok(())
    }

    /// The configuration as `/config` of the admin listener shows it: without the credentials of the database.
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::json!({
            "listen": self.listen.to_string(),
            "admin": self.admin.to_string(),
            "database_url": "(redacted)",
            "token_file": self.token_file,
            "clusters": self.clusters.iter().map(|cluster| serde_json::json!({
                "name": cluster.name,
                "trust_domain": cluster.trust_domain,
                "workload_api": cluster.workload_api,
                "identity": cluster.identity,
                "control": cluster.control,
                "audit": cluster.audit,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Reads the dashboard token; refuses a file that others could read.
pub fn read_token(path: &Path) -> Result<String, ConfigProblem> {
    use std::os::unix::fs::PermissionsExt;
    let unreadable = |source| ConfigProblem::TokenUnreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ConfigProblem::TokenExposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(MAX_TOKEN + 2).read_to_string(&mut text).map_err(unreadable)?;
    let token = text.trim();
    let fits =
        token.len() >= MIN_TOKEN && token.len() as u64 <= MAX_TOKEN && token.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(token.to_owned()) } else { Err(ConfigProblem::TokenUnfit { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn token_file(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn reads_a_token_that_only_its_owner_can_read() {
        let (_dir, path) = token_file("0123456789abcdef0123\n", 0o600);
        assert_eq!(read_token(&path).unwrap(), "0123456789abcdef0123");
    }

    #[test]
    fn refuses_tokens_that_are_exposed_short_or_not_text() {
        let (_dir, path) = token_file("0123456789abcdef0123\n", 0o640);
        assert!(matches!(read_token(&path), Err(ConfigProblem::TokenExposed { mode: 0o640, .. })));
        for content in ["", "short", "0123456789 abcdef0123"] {
            let (_dir, path) = token_file(content, 0o600);
            assert!(matches!(read_token(&path), Err(ConfigProblem::TokenUnfit { .. })), "{content}");
        }
    }

    #[test]
    fn refuses_a_listener_that_others_could_reach() {
        let config = Config {
            listen: "0.0.0.0:1".parse().unwrap(),
            admin: "127.0.0.1:0".parse().unwrap(),
            database_url: "postgres://secret@x/y".into(),
            token_file: "t".into(),
            clusters: vec![],
            telemetry: TelemetryConfig::default(),
        };
        assert!(matches!(config.check(), Err(ConfigProblem::NotLoopback(_))));
        assert!(!config.redacted().to_string().contains("secret"));
    }
}
