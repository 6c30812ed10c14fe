//! A running service, and producers for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use signet_api::audit::ingest_client::IngestClient;
use signet_api::audit::{Ack, Batch, Entry};
use signet_audit::config::{AlertsConfig, Config, Tlog};
use signet_audit::metrics::Metrics;
use signet_audit::note::VerifierKey;
use signet_audit::query::{self, Filter};
use signet_audit::server::{self, Addresses};
use signet_audit::testing::Postgres;
use signet_audit::verify::{Verification, verify};
use signet_mtls::testing::{self, Ca};
use signet_mtls::{PeerRule, Select, alpn};
use signet_spool::{Kind, Record, Salts};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use uuid::Uuid;

/// Everything that a test waits for comes within this, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Service {
    pub addresses: Addresses,
    pub pool: PgPool,
    pub config: Config,
    pub ca: Ca,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

pub fn config(postgres: &Postgres, directory: &Path, trust_domain: &str) -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Config {
        trust_domain: trust_domain.to_owned(),
        workload_api: "unix:/nowhere".to_owned(),
        listen: any,
        tlog: Tlog { listen: any },
        admin: any,
        database_url: postgres.dsn(),
        log_key_file: directory.join(format!("{trust_domain}.key")),
        state_dir: Some(directory.join(format!("{trust_domain}.state"))),
        witness: None,
        witnesses: Vec::new(),
        silent_after_seconds: signet_audit::config::default_silent_after(),
        alerts: AlertsConfig::default(),
        export: Vec::new(),
        telemetry: signet_observe::TelemetryConfig::default(),
    }
}

impl Service {
    pub async fn start(postgres: &Postgres, directory: &Path) -> Self {
        Self::start_as(config(postgres, directory, "east.bank.example"), Ca::new("east.bank.example")).await.unwrap()
    }

    pub async fn start_as(config: Config, ca: Ca) -> anyhow::Result<Self> {
        let cancel = CancellationToken::new();
        let id = testing::id(&format!("spiffe://{}/signet/audit", config.trust_domain));
        let source = testing::source(&[&ca], &[id]);
        let admin = signet_observe::Admin::new(Default::default());
        let (tell, told) = oneshot::channel();
        let task = {
            let (config, cancel) = (config.clone(), cancel.clone());
            tokio::spawn(async move {
                server::serve(&config, source, &admin.readiness(), Metrics::default(), cancel, |addresses| {
                    tell.send(addresses).unwrap();
                })
                .await
            })
        };
        let Ok(addresses) = tokio::time::timeout(PATIENCE, told).await.expect("the service comes up") else {
            return Err(task.await?.expect_err("a service that never was ready ends with an error"));
        };
        let pool = query::connect(&config.database_url)?;
        Ok(Self { addresses, pool, config, ca, cancel, task })
    }

    /// Stops the service; with `gracefully` false at once, as far as one process allows.
    pub async fn stop(self, gracefully: bool) -> (Config, Ca) {
        if gracefully {
            self.cancel.cancel();
            tokio::time::timeout(PATIENCE, self.task).await.expect("the service stops").unwrap().unwrap();
        } else {
            self.task.abort();
            let _ = self.task.await;
        }
        (self.config, self.ca)
    }

    pub fn channel(&self, id: &str) -> Channel {
        let source = testing::source(&[&self.ca], &[testing::id(id)]);
        let audit = testing::id(&format!("spiffe://{}/signet/audit", self.config.trust_domain));
        let tls = signet_mtls::client_config(&source, Select::Only, PeerRule::AnyOf(vec![audit]), &[alpn::GRPC]);
        signet_mtls::grpc::channel(&self.addresses.ingest.to_string(), tls)
    }

    pub async fn producer(&self, id: &str) -> Result<Producer, Status> {
        let (batches, receiver) = mpsc::channel(16);
        let acks = IngestClient::new(self.channel(id)).stream(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Producer { batches, acks })
    }

    pub fn key(&self) -> VerifierKey {
        let mut file = self.config.log_key_file.clone().into_os_string();
        file.push(".pub");
        std::fs::read_to_string(PathBuf::from(file)).unwrap().parse().unwrap()
    }

    /// Recomputes the log once a checkpoint covers `size` records.
    pub async fn verify_at(&self, size: i64) -> Verification {
        until(&format!("a checkpoint of {size} records"), || async {
            let logs = query::logs(&self.pool).await.unwrap();
            logs.iter().any(|log| log.origin == self.config.origin() && log.checkpoint_size >= Some(size))
        })
        .await;
        verify(&self.pool, &self.config.origin(), &self.key(), &[]).await.unwrap()
    }

    pub async fn decisions(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM decisions").fetch_one(&self.pool).await.unwrap()
    }

    pub async fn events(&self, action: &str) -> Vec<query::EventRow> {
        let filter = Filter { action: Some(action.to_owned()), ..Filter::default() };
        query::events(&self.pool, &filter, None, 100).await.unwrap().rows
    }

    pub async fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        self.call(&format!("GET {path} HTTP/1.1\r\nhost: log\r\nconnection: close\r\n\r\n")).await
    }

    pub async fn post(&self, path: &str, body: &str) -> (u16, String, Vec<u8>) {
        let head = format!("POST {path} HTTP/1.1\r\nhost: log\r\nconnection: close\r\ncontent-length: {}", body.len());
        self.call(&format!("{head}\r\n\r\n{body}")).await
    }

    async fn call(&self, request: &str) -> (u16, String, Vec<u8>) {
        let mut stream = tokio::net::TcpStream::connect(self.addresses.tlog).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head[9..12].parse().unwrap(), head, answer[end + 4..].to_vec())
    }
}

pub struct Producer {
    pub batches: mpsc::Sender<Batch>,
    pub acks: Streaming<Ack>,
}

impl Producer {
    /// Sends one batch and waits for its answer.
    pub async fn send(&mut self, batch: Batch) -> Ack {
        self.batches.send(batch).await.unwrap();
        tokio::time::timeout(PATIENCE, self.acks.message()).await.expect("an answer in time").unwrap().unwrap()
    }
}

pub const WEB: &str = "spiffe://east.bank.example/ns/bank/proxy/web";

/// A decision of `producer`.
pub fn record(producer: &str, number: u64) -> Record {
    Record {
        id: Uuid::now_v7(),
        time_us: jiff::Timestamp::now().as_microsecond(),
        kind: Kind::Decision,
        producer: producer.to_owned(),
        source_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/web".to_owned()),
        destination_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/ledger".to_owned()),
        destination_service: "east.bank.example/bank/ledger".to_owned(),
        action: "http:GET".to_owned(),
        path: Some(format!("/accounts/{number}")),
        allow: true,
        policy_ids: vec!["ledger-read".into()],
        policy_commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        bundle_digest: "sha256:00".to_owned(),
        reason: "permitted".to_owned(),
        source_address: Some(format!("127.0.0.1:{}", 1_000 + number % 60_000)),
        tls: "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384".to_owned(),
        latency_us: Some(120),
        context: vec![("src_ip".to_owned(), "127.0.0.1".to_owned()), ("dst_port".to_owned(), "80".to_owned())],
        ..Record::default()
    }
}

pub fn entry(record: &Record) -> Entry {
    record.encode(&mut Salts::new()).unwrap().into()
}

pub fn entries(numbers: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    numbers.map(|number| entry(&record(WEB, number))).collect()
}

pub fn batch(epoch: Uuid, first_sequence: u64, entries: Vec<Entry>) -> Batch {
    let sent_at_us = jiff::Timestamp::now().as_microsecond();
    Batch { epoch: epoch.as_bytes().to_vec(), first_sequence, entries, sent_at_us, closing: false, spool: 0 }
}

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited {PATIENCE:?} for {what}");
}
