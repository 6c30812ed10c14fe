//! The child processes: a producer that keeps what it is told on standard input, and an audit service.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use signet_audit::config::{Config, Tlog};
use signet_audit::metrics::Metrics;
use signet_audit::server;
use signet_mtls::{PeerRule, Select, alpn};
use signet_spool::{Durability, Record, Spool, SpoolConfig, SpoolError, ship_over};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::identities;

/// How long a producer tries to hand over what it has.
const DRAIN: Duration = Duration::from_secs(60);

/// The decision `number` of the producer `index` in the run `seed`.
pub fn decision(seed: u64, index: usize, number: u64) -> Record {
    Record {
        id: decision_id(seed, index, number),
        time_us: jiff::Timestamp::now().as_microsecond(),
        producer: identities::producer(index),
        source_spiffe_id: Some(format!("spiffe://{}/ns/bank/sa/web", identities::TRUST_DOMAIN)),
        destination_service: format!("{}/bank/ledger", identities::TRUST_DOMAIN),
        action: "http:GET".to_owned(),
        path: Some(format!("/decisions/{number}")),
        allow: true,
        policy_ids: vec!["campaign".into()],
        reason: "permitted".to_owned(),
        source_address: Some(format!("127.0.0.1:{}", 1_000 + number)),
        tls: "TLSv1.3".to_owned(),
        ..Record::default()
    }
}

/// Names a decision, so that the books and the log can be compared.
pub fn decision_id(seed: u64, index: usize, number: u64) -> Uuid {
    Uuid::from_u128((u128::from(seed) << 64) | ((index as u128) << 48) | u128::from(number))
}

/// A connection to the audit services as the identity in `file`.
pub fn channel(file: &Path, address: &str) -> Channel {
    let audit = identities::AUDIT.parse().unwrap();
    let source = identities::read(file);
    let tls = signet_mtls::client_config(&source, Select::Only, PeerRule::AnyOf(vec![audit]), &[alpn::GRPC]);
    signet_mtls::grpc::channel(address, tls)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// `SEED INDEX DURABILITY DIRECTORY ADDRESS`: answers each number on standard input with whether its decision was kept.
/// At the end of input it hands everything over and succeeds when all of it was acknowledged.
pub fn producer(arguments: &[&str]) -> ExitCode {
    let [seed, index, durability, directory, address] = arguments else { panic!("{arguments:?}") };
    let (seed, index): (u64, usize) = (seed.parse().unwrap(), index.parse().unwrap());
    let durability = match *durability {
        "Memory" => Durability::Memory,
        "Sync" => Durability::Sync,
        _ => Durability::Disk,
    };
    let directory = Path::new(directory);
    // Short segments, so that a disk without room for the next one is met.
    let config =
        SpoolConfig { durability, max_bytes: 3 << 20, ..SpoolConfig::at(directory.join(format!("spool-{index}"))) };
    let spool = match Spool::open(config, &identities::producer(index)) {
        Ok(spool) => spool,
        Err(error) => {
            eprintln!("producer {index} cannot open its spool: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = runtime();
    let _inside = runtime.enter();
    let channel = channel(&directory.join(format!("producer-{index}.identity")), address);
    runtime.spawn(ship_over(spool.clone(), channel, CancellationToken::new()));
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let number: u64 = line.unwrap().parse().unwrap();
        let kept = spool.append(&decision(seed, index, number));
        let answer = match &kept {
            Ok(()) => "kept",
            // The record may be in the spool all the same, and nobody acts on the decision: as if it had died.
            Err(SpoolError::Failed(_)) => "failed",
            Err(_) => "refused",
        };
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
        if let Err(error @ SpoolError::Failed(_)) = kept {
            // A sidecar whose spool failed denies until it is started again.
            eprintln!("producer {index} starts again: {error}");
            return ExitCode::from(3);
        }
    }
    if let Err(error) = spool.close() {
        eprintln!("producer {index} could not close its spool: {error}");
        return ExitCode::from(4);
    }
    if runtime.block_on(spool.drain(DRAIN)) { ExitCode::SUCCESS } else { ExitCode::from(5) }
}

/// `INDEX DIRECTORY DSN`: an audit service until the end of input; prints its addresses.
pub fn service(arguments: &[&str]) -> ExitCode {
    let [index, directory, dsn] = arguments else { panic!("{arguments:?}") };
    let directory = Path::new(directory);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        trust_domain: identities::TRUST_DOMAIN.to_owned(),
        workload_api: "unix:/nowhere".to_owned(),
        listen: any,
        tlog: Tlog { listen: any },
        admin: any,
        database_url: (*dsn).to_owned(),
        log_key_file: directory.join("log.key"),
        state_dir: Some(directory.join(format!("state-{index}"))),
        witness: None,
        witnesses: Vec::new(),
        silent_after_seconds: 86_400,
        alerts: signet_audit::config::AlertsConfig::default(),
        export: Vec::new(),
        telemetry: signet_observe::TelemetryConfig::default(),
    };
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    std::thread::spawn(move || {
        // The parent keeps the other end for as long as it lives.
        for _ in std::io::stdin().lock().lines() {}
        stop.cancel();
    });
    let source = identities::read(&directory.join("audit.identity"));
    let admin = signet_observe::Admin::new(Default::default());
    let served = runtime().block_on(async {
        server::serve(&config, source, &admin.readiness(), Metrics::default(), cancel, |addresses| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{} {}", addresses.ingest, addresses.tlog).and_then(|()| out.flush()).unwrap();
        })
        .await
    });
    if let Err(error) = served {
        eprintln!("service {index}: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
