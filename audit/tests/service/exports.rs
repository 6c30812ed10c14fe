//! Continuous exports: every record at least once and in order, whatever the receiver and the service do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;
use signet_audit::config::{Config, ExportConfig, HecConfig, OtlpConfig, SyslogConfig};
use signet_audit::query;
use signet_audit::testing::Postgres;
use signet_mtls::testing::Ca;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, config, entries, until};
use crate::outside::{Https, secret, tls};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What a receiver got: leaf index and record, in the order of arrival.
type Got = Arc<Mutex<Vec<(u64, Value)>>>;

fn leaf(id: &str) -> u64 {
    id.strip_prefix("east.bank.example/signet-log/").unwrap().parse().unwrap()
}

/// Leaves that came, each with one content; the first time each came in order. How many came again.
fn check(got: &Got, size: u64) -> usize {
    let got = got.lock();
    let mut seen: BTreeMap<u64, &Value> = BTreeMap::new();
    let mut again = 0;
    for (leaf, record) in got.iter() {
        match seen.get(leaf) {
            Some(before) => {
                assert_eq!(*before, record, "leaf {leaf} came again as another");
                again += 1;
            }
            None => {
                assert_eq!(*leaf, seen.len() as u64, "skipped");
                seen.insert(*leaf, record);
            }
        }
    }
    assert!(seen.len() as u64 >= size, "{} of {size}", seen.len());
    again
}

async fn size(service: &Service) -> u64 {
    query::logs(&service.pool).await.unwrap()[0].size.unsigned_abs()
}

async fn all(got: &Got, size: u64) {
    until(&format!("{size} records"), || async { got.lock().iter().any(|(leaf, _)| leaf + 1 >= size) }).await;
}

fn export(name: &str) -> ExportConfig {
    ExportConfig { name: name.to_owned(), hec: None, otlp: None, syslog: None }
}

fn configured(postgres: &Postgres, directory: &Path, export: ExportConfig) -> Config {
    Config { export: vec![export], ..config(postgres, directory, "east.bank.example") }
}

/// Sends records while something else happens.
async fn feed(service: &Service, epoch: Uuid, rounds: std::ops::Range<u64>) {
    let mut producer = service.producer(WEB).await.unwrap();
    for round in rounds {
        let ack = producer.send(batch(epoch, round * 40 + 1, entries(round * 40 + 1..=round * 40 + 40))).await;
        assert_eq!(ack.error, "");
    }
}

/// A collector that is busy at first, acknowledges late, and loses what the first acknowledgement was to be for.
async fn collector(directory: &Path, got: &Got) -> Https {
    let got = Arc::clone(got);
    let (calls, asked) = (Mutex::new(0_u64), Mutex::new(BTreeMap::<u64, u64>::new()));
    Https::start(directory, move |head, body| {
        assert_eq!(head.headers["authorization"], format!("Splunk {TOKEN}").as_str());
        assert!(head.headers.contains_key("x-splunk-request-channel"));
        if head.uri.path() == "/services/collector/ack" {
            let question: Value = serde_json::from_slice(&body).unwrap();
            let id = question["acks"][0].as_u64().unwrap();
            let mut asked = asked.lock();
            let times = asked.entry(id).or_default();
            *times += 1;
            return match id {
                2 => (StatusCode::BAD_REQUEST, r#"{"text":"no such id","code":6}"#.to_owned()),
                _ => (StatusCode::OK, format!(r#"{{"acks":{{"{id}":{}}}}}"#, *times > 1)),
            };
        }
        assert_eq!(head.uri.path(), "/services/collector/event");
        let call = {
            let mut calls = calls.lock();
            *calls += 1;
            *calls
        };
        if call == 1 {
            return (StatusCode::SERVICE_UNAVAILABLE, r#"{"text":"Server is busy","code":9}"#.to_owned());
        }
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line).unwrap();
            let id = leaf(event["fields"]["signet_id"].as_str().unwrap());
            assert_eq!(event["event"]["leaf_index"], id);
            got.lock().push((id, event["event"].clone()));
        }
        (StatusCode::OK, format!(r#"{{"text":"Success","code":0,"ackId":{call}}}"#))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_every_record_though_it_is_busy_acknowledges_late_and_the_service_dies() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let got = Got::default();
    let collector = collector(directory.path(), &got).await;
    let hec = HecConfig {
        url: collector.url("/services/collector/event"),
        token_file: secret(directory.path(), "token", TOKEN),
        acknowledge: true,
        authorities: collector.authorities.clone(),
    };
    let config = configured(&postgres, directory.path(), ExportConfig { hec: Some(hec), ..export("splunk") });
    let service = Service::start_as(config, Ca::new("east.bank.example")).await.unwrap();
    let epoch = Uuid::now_v7();
    feed(&service, epoch, 0..20).await;
    // Somewhere between sending, being acknowledged and moving the cursor.
    until("a few records", || async { got.lock().len() > 100 }).await;
    let (config, ca) = service.stop(false).await;
    let service = Service::start_as(config, ca).await.unwrap();
    feed(&service, epoch, 20..40).await;
    let size = size(&service).await;
    all(&got, size).await;
    let again = check(&got, size);
    assert!(again > 0, "an acknowledgement that was lost means the same batch again");
    let began = service.events("audit:continuous_export").await;
    assert_eq!(began.len(), 2, "one for each life of the service: {began:?}");
    let verification = service.verify_at(i64::try_from(size).unwrap()).await;
    assert!(verification.holds(), "{:?}", verification.problems);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_otlp_collector_gets_every_record_and_a_rejected_batch_comes_again() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let got = Got::default();
    let taken = Arc::clone(&got);
    let calls = Mutex::new(0);
    let server = Https::start(directory.path(), move |head, body| {
        assert_eq!((head.uri.path(), head.headers.get("authorization").is_some()), ("/v1/logs", true));
        *calls.lock() += 1;
        if *calls.lock() == 1 {
            let answer = r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"no"}}"#;
            return (StatusCode::OK, answer.to_owned());
        }
        let request: Value = serde_json::from_slice(&body).unwrap();
        for record in request["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap() {
            let attributes = record["attributes"].as_array().unwrap();
            let uid = attributes.iter().find(|attribute| attribute["key"] == "log.record.uid").unwrap();
            taken.lock().push((leaf(uid["value"]["stringValue"].as_str().unwrap()), record.clone()));
        }
        (StatusCode::OK, "{}".to_owned())
    })
    .await;
    let otlp = OtlpConfig {
        url: server.url("/v1/logs"),
        token_file: Some(secret(directory.path(), "token", TOKEN)),
        authorities: server.authorities.clone(),
    };
    let config = configured(&postgres, directory.path(), ExportConfig { otlp: Some(otlp), ..export("collector") });
    let service = Service::start_as(config, Ca::new("east.bank.example")).await.unwrap();
    feed(&service, Uuid::now_v7(), 0..5).await;
    let size = size(&service).await;
    all(&got, size).await;
    check(&got, size);
    service.stop(true).await;
}

/// A syslog receiver that cuts its first connection off without TLS's own end, though it read all of it.
async fn receiver(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, frames: Arc<Mutex<Vec<String>>>) {
    for connection in 0_u64.. {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let mut rest = text.as_str();
        while let Some((length, message)) = rest.split_once(' ') {
            let (message, after) = message.split_at(length.parse().unwrap());
            frames.lock().push(message.to_owned());
            rest = after;
        }
        assert!(rest.is_empty(), "frames are counted exactly");
        if connection > 0 {
            stream.shutdown().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syslog_receiver_gets_every_record_and_one_that_vanishes_gets_it_again() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (authorities, acceptor) = tls(directory.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let frames = Arc::new(Mutex::new(Vec::new()));
    let receiving = tokio::spawn(receiver(listener, acceptor, Arc::clone(&frames)));
    let syslog = SyslogConfig { address, authorities };
    let config = configured(&postgres, directory.path(), ExportConfig { syslog: Some(syslog), ..export("siem") });
    let service = Service::start_as(config, Ca::new("east.bank.example")).await.unwrap();
    feed(&service, Uuid::now_v7(), 0..5).await;
    let size = size(&service).await;
    let got = Got::default();
    until("every record", || async {
        let new: Vec<String> = frames.lock().drain(..).collect();
        for message in new {
            // RFC 5424: priority and version, time, host, application, process, message id, no structured data.
            let parts: Vec<&str> = message.splitn(8, ' ').collect();
            assert!(["<110>1", "<108>1"].contains(&parts[0]), "{message}");
            assert!(parts[1].parse::<jiff::Timestamp>().is_ok(), "{message}");
            assert_eq!((parts[2], parts[3], parts[4], parts[6]), ("east.bank.example", "signet", "-", "-"));
            let record: Value = serde_json::from_str(parts[7]).unwrap();
            let id = record["decision_id"].as_str().or(record["event_id"].as_str()).unwrap();
            assert_eq!(parts[5], id.replace('-', ""));
            got.lock().push((record["leaf_index"].as_u64().unwrap(), record));
        }
        // The first connection may have carried all of it: only once it comes again is the test over.
        let got = got.lock();
        got.iter().any(|(leaf, _)| leaf + 1 >= size) && got.iter().filter(|(leaf, _)| *leaf == 0).count() == 2
    })
    .await;
    assert!(check(&got, size) > 0, "the batch of the connection that was cut off came again");
    receiving.abort();
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_without_a_name_or_with_two_ways_stops_the_service_with_the_reason() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (authorities, _) = tls(directory.path());
    let syslog = || Some(SyslogConfig { address: "localhost:6514".to_owned(), authorities: authorities.clone() });
    for (exports, said) in [
        (vec![export("siem")], "exactly one of"),
        (vec![ExportConfig { syslog: syslog(), ..export("no name") }], "a name has"),
        (
            vec![ExportConfig { syslog: syslog(), ..export("a") }, ExportConfig { syslog: syslog(), ..export("a") }],
            "twice",
        ),
    ] {
        let config = Config { export: exports, ..config(&postgres, directory.path(), "east.bank.example") };
        let refused = Service::start_as(config, Ca::new("east.bank.example")).await.map(|_| ()).unwrap_err();
        assert!(format!("{refused:#}").contains(said), "{refused:#}");
    }
}
