//! Where it is measured: a private PostgreSQL, and an audit service for each database of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use signet_audit::config::{Config, Tlog};
use signet_audit::metrics::Metrics;
use signet_audit::note::VerifierKey;
use signet_audit::query;
use signet_audit::server::{self, Addresses};
use signet_audit::testing::Postgres;
use signet_mtls::testing::{self, Ca};
use signet_mtls::{PeerRule, Select, alpn};
use sqlx::PgPool;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

const TRUST_DOMAIN: &str = "east.bank.example";

/// Both contenders get the same server, with memory as a small production server has, and WAL enough that no checkpoint
/// falls into a measurement.
const SETTINGS: [(&str, &str); 4] =
    [("shared_buffers", "512MB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "1h"), ("autovacuum", "off")];

/// A private PostgreSQL and what services need beside it.
pub(crate) struct Place {
    postgres: Postgres,
    directory: tempfile::TempDir,
    pool: PgPool,
    ca: Arc<Ca>,
}

/// A running audit service over one database.
pub(crate) struct Service {
    pub(crate) addresses: Addresses,
    pub(crate) pool: PgPool,
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<Result<()>>,
    ca: Arc<Ca>,
}

impl Place {
    pub(crate) async fn make() -> Result<Self> {
        let postgres = tokio::task::block_in_place(|| Postgres::start_with(&SETTINGS))?;
        let pool = query::connect(&postgres.dsn())?;
        let mut shown = Vec::new();
        for setting in ["server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers"] {
            let value: String = sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&pool).await?;
            if value == "off" {
                bail!("{setting} is off");
            }
            shown.push(format!("{setting} {value}"));
        }
        println!("PostgreSQL: {}", shown.join(", "));
        Ok(Self { postgres, directory: tempfile::tempdir()?, pool, ca: Arc::new(Ca::new(TRUST_DOMAIN)) })
    }

    /// Connection string of a database of its own.
    pub(crate) async fn database(&self, name: &str) -> Result<String> {
        // Names are ours, without anything to quote.
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&self.pool).await?;
        let dsn = self.postgres.dsn();
        let (server, _) = dsn.rsplit_once('/').context("the connection string names a database")?;
        Ok(format!("{server}/{name}"))
    }

    /// An audit service over a new database.
    pub(crate) async fn serve(&self, database: &str) -> Result<Service> {
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        let config = Config {
            trust_domain: TRUST_DOMAIN.to_owned(),
            workload_api: "unix:/nowhere".to_owned(),
            listen: any,
            tlog: Tlog { listen: any },
            admin: any,
            database_url: self.database(database).await?,
            log_key_file: self.key_file(),
            state_dir: Some(self.directory.path().join(database)),
            witness: None,
            witnesses: Vec::new(),
            silent_after_seconds: signet_audit::config::default_silent_after(),
            alerts: signet_audit::config::AlertsConfig::default(),
            export: Vec::new(),
            telemetry: signet_observe::TelemetryConfig::default(),
        };
        let cancel = CancellationToken::new();
        let id = testing::id(&format!("spiffe://{TRUST_DOMAIN}/signet/audit"));
        let source = testing::source(&[&self.ca], &[id]);
        let admin = signet_observe::Admin::new(Default::default());
        let (tell, told) = oneshot::channel();
        let task = {
            let (config, cancel) = (config.clone(), cancel.clone());
            tokio::spawn(async move {
                server::serve(&config, source, &admin.readiness(), Metrics::default(), cancel, |addresses| {
                    let _ = tell.send(addresses);
                })
                .await
            })
        };
        let addresses = tokio::time::timeout(super::PATIENCE, told).await??;
        let pool = query::connect(&config.database_url)?;
        Ok(Service { addresses, pool, cancel, task, ca: Arc::clone(&self.ca) })
    }

    /// Removes a database that nobody uses any more.
    pub(crate) async fn drop(&self, name: &str) -> Result<()> {
        sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&self.pool).await?;
        Ok(())
    }

    /// Writes out what earlier measurements left in memory.
    pub(crate) async fn settle(&self) -> Result<()> {
        sqlx::query("CHECKPOINT").execute(&self.pool).await?;
        Ok(())
    }

    pub(crate) fn origin(&self) -> String {
        signet_audit::config::origin(TRUST_DOMAIN)
    }

    pub(crate) fn key(&self) -> Result<VerifierKey> {
        let mut file = self.key_file().into_os_string();
        file.push(".pub");
        Ok(std::fs::read_to_string(PathBuf::from(file))?.parse()?)
    }

    fn key_file(&self) -> PathBuf {
        self.directory.path().join("log.key")
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Stops PostgreSQL.
    pub(crate) async fn stop(self) -> Result<()> {
        self.pool.close().await;
        Ok(())
    }
}

impl Service {
    /// Stops the service and gives its database.
    pub(crate) async fn stop(self) -> Result<PgPool> {
        self.cancel.cancel();
        tokio::time::timeout(super::PATIENCE, self.task).await.context("the service did not stop")???;
        Ok(self.pool)
    }

    /// A connection as the producer `id`.
    pub(crate) fn channel(&self, id: &str) -> Channel {
        let source = testing::source(&[&self.ca], &[testing::id(id)]);
        let audit = testing::id(&format!("spiffe://{TRUST_DOMAIN}/signet/audit"));
        let tls = signet_mtls::client_config(&source, Select::Only, PeerRule::AnyOf(vec![audit]), &[alpn::GRPC]);
        signet_mtls::grpc::channel(&self.addresses.ingest.to_string(), tls)
    }
}
