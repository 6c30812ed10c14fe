//! Every format read back: JSON Lines and CEF here, the others by other people's readers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use serde_json::Value;
use signet_audit::query::StoredRecord;
use signet_spool::{Enforcement, Kind, Record, Salts};
use uuid::Uuid;

use super::{Format, visible};
use crate::row::{COLUMNS, Row};

const LOG: &str = "east.bank.example/signet-log";

/// A record as the store gives it back.
pub(crate) fn stored(leaf_index: u64, record: &Record) -> StoredRecord {
    let encoded = record.encode(&mut Salts::new()).unwrap();
    StoredRecord {
        leaf_index,
        record: Record::decode(&encoded.canonical, &encoded.openings).unwrap(),
        canonical: encoded.canonical,
        openings: encoded.openings,
        epoch: Uuid::from_u128(7),
        sequence: i64::try_from(leaf_index).unwrap() + 1,
        received_at_us: 1_790_000_000_123_457,
    }
}

pub(crate) fn decision(number: u64) -> Record {
    Record {
        id: Uuid::from_u128(0x0192_f5d0_8b7a_7c3e_9a41_5b6c_7d8e_0000 + u128::from(number)),
        time_us: 1_790_000_000_123_456 + i64::try_from(number).unwrap(),
        producer: "spiffe://east.bank.example/ns/bank/proxy/ledger".to_owned(),
        source_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/web".to_owned()),
        destination_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/ledger".to_owned()),
        destination_service: "east.bank.example/bank/ledger".to_owned(),
        action: "http:GET".to_owned(),
        path: Some("/accounts/1".to_owned()),
        allow: true,
        policy_ids: vec!["web-reads".into(), "all-read".into()],
        policy_commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        bundle_digest: "sha256:00".to_owned(),
        reason: "permitted".to_owned(),
        source_address: Some("127.0.0.1:40000".to_owned()),
        tls: "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384".to_owned(),
        trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        latency_us: Some(87),
        context: vec![("dst_port".to_owned(), "80".to_owned()), ("src_ip".to_owned(), "127.0.0.1".to_owned())],
        ..Record::default()
    }
}

/// One of each kind and protocol, and one whose every text is hostile.
fn varied() -> Vec<Record> {
    let denied = Record { allow: false, policy_ids: Vec::new(), reason: "no_permit".to_owned(), ..decision(1) };
    let grpc = Record {
        action: "grpc:call".to_owned(),
        path: Some("bank.v1.Payments/Pay".to_owned()),
        shadow: Some((false, vec!["soon".into()])),
        ..decision(2)
    };
    let tcp = Record { action: "tcp:connect".to_owned(), path: None, trace_id: None, ..decision(3) };
    let shadow = Record { enforcement: Enforcement::Shadow, action: "gateway:forward".to_owned(), ..decision(4) };
    let refusal = Record {
        kind: Kind::Refusal,
        allow: false,
        count: 7,
        source_spiffe_id: None,
        source_address: Some("[::1]:1".to_owned()),
        policy_ids: Vec::new(),
        policy_commit: String::new(),
        bundle_digest: String::new(),
        reason: "expired".to_owned(),
        tls: "none".to_owned(),
        ..decision(5)
    };
    let event = Record {
        kind: Kind::Event,
        action: "policy:activate".to_owned(),
        detail: Some("{\"a\":\"b\"}".to_owned()),
        destination_service: String::new(),
        source_address: None,
        ..decision(6)
    };
    let gap = Record { kind: Kind::Gap, action: "audit:gap".to_owned(), count: 3, allow: false, ..event.clone() };
    let text = "=cmd|' /C calc'!A0,\"\r\n\u{1b}[2J\0\u{2028}\u{202e}'; DROP TABLE x; --".to_owned();
    let hostile = Record {
        path: Some(text.clone()),
        reason: text.clone(),
        policy_ids: vec![text.as_str().into()],
        detail: Some(text.clone()),
        source_address: Some(text.clone()),
        trace_id: Some("\n".to_owned()),
        context: vec![(text.clone(), text)],
        time_us: i64::MAX,
        ..decision(7)
    };
    vec![decision(0), denied, grpc, tcp, shadow, refusal, event, gap, hostile]
}

fn written(format: Format, records: &[StoredRecord]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("export");
    write(format, records, &path);
    std::fs::read(path).unwrap()
}

/// A writer that can be cloned, as the encoders want it.
#[derive(Clone)]
struct Shared(std::sync::Arc<std::fs::File>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write(format: Format, records: &[StoredRecord], path: &Path) {
    let file = std::sync::Arc::new(std::fs::File::create(path).unwrap());
    let mut encoder = format.encoder(Shared(file)).unwrap();
    for part in records.chunks(4) {
        let rows: Vec<Row<'_>> = part.iter().map(|stored| Row { log: LOG, stored }).collect();
        encoder.rows(&rows).unwrap();
    }
    encoder.finish().unwrap();
}

/// What another reader found in an export.
fn read_back(reader: &str, format: Format, records: &[StoredRecord]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("export");
    write(format, records, &path);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../../.tools/readers/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/readers.sh", python.display());
    let output = Command::new(python).arg(root.join("tests/readers.py")).arg(reader).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn all(records: &[Record]) -> Vec<StoredRecord> {
    (0..).zip(records).map(|(leaf, record)| stored(leaf, record)).collect()
}

#[test]
fn json_lines_hold_every_column_and_one_object_a_line() {
    let records = all(&varied());
    let text = String::from_utf8(written(Format::Jsonl, &records)).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), records.len());
    for (row, stored) in rows.iter().zip(&records) {
        assert_eq!(row.as_object().unwrap().len(), COLUMNS.len());
        assert_eq!(row["path"].as_str(), stored.record.path.as_deref());
        assert_eq!(row["leaf_hash"].as_str().unwrap(), hex::encode(stored.leaf()));
    }
    assert_eq!(rows[0]["decision_id"].as_str().unwrap(), records[0].record.id.to_string());
    assert_eq!(rows[0]["time"], "2026-09-21T14:13:20.123456Z");
    assert_eq!(rows[0]["context"]["src_ip"], "127.0.0.1");
    assert!(rows[6]["decision_id"].is_null() && rows[6]["event_id"].is_string());
}

#[test]
fn erased_values_are_named_and_not_invented() {
    let mut record = stored(0, &Record { personal_path: true, ..decision(0) });
    record.record = Record::decode(&record.canonical, &[]).unwrap();
    let text = String::from_utf8(written(Format::Jsonl, &[record])).unwrap();
    let row: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(row["erased"], serde_json::json!(["path", "source_address", "src_ip"]));
    assert!(row["path"].is_null() && row["source_address"].is_null());
}

#[test]
fn parquet_is_typed_compressed_and_read_by_another_implementation() {
    let records = all(&varied());
    let found = read_back("parquet", Format::Parquet, &records);
    let types = &found["types"];
    assert_eq!(types["time"], "timestamp[us, tz=UTC]");
    assert_eq!(types["leaf_index"], "int64");
    assert!(types["policy_ids"].as_str().unwrap().starts_with("list<"), "{types}");
    assert_eq!(types["decision_id"], "string");
    assert_eq!(found["compression"], serde_json::json!(["ZSTD"]));
    assert_eq!(found["groups"], serde_json::json!([records.len()]));
    let rows = found["rows"].as_array().unwrap();
    for (row, stored) in rows.iter().zip(&records) {
        let record = &stored.record;
        assert_eq!(row["path"].as_str(), record.path.as_deref());
        assert_eq!(row["reason"].as_str().unwrap(), record.reason);
        assert_eq!(row["time"].as_i64().unwrap(), record.time_us);
        assert_eq!(row["source_spiffe_id"].as_str(), record.source_spiffe_id.as_deref());
        let policies: Vec<&str> = record.policy_ids.iter().map(AsRef::as_ref).collect();
        assert_eq!(row["policy_ids"], serde_json::json!(policies));
        let context: std::collections::BTreeMap<String, String> =
            serde_json::from_str(row["context"].as_str().unwrap()).unwrap();
        assert_eq!(context, record.context.iter().cloned().collect());
    }
}

#[test]
fn csv_is_read_by_another_implementation_and_no_cell_is_a_formula() {
    let records = all(&varied());
    let found = read_back("csv", Format::Csv, &records);
    let rows = found.as_array().unwrap();
    assert_eq!(rows.len(), records.len());
    for (row, stored) in rows.iter().zip(&records) {
        assert_eq!(row["decision"], if stored.record.allow { "allow" } else { "deny" });
        for (name, cell) in row.as_object().unwrap() {
            let cell = cell.as_str().unwrap();
            assert!(!cell.starts_with(['=', '+', '-', '@']) || name == "sequence", "{name}: {cell}");
            assert!(!cell.contains(char::is_control), "{name}: {cell}");
        }
    }
    assert_eq!(rows[0]["policy_ids"], "web-reads;all-read");
    assert!(rows[8]["path"].as_str().unwrap().starts_with("'=cmd|"));
}

#[test]
fn ocsf_events_hold_against_the_schema_of_1_8_0() {
    let records = all(&varied());
    let found = read_back("ocsf", Format::Ocsf, &records);
    assert_eq!(found["errors"], serde_json::json!([]));
    assert_eq!(found["classes"], serde_json::json!({ "6003": 6, "4001": 3 }));
}

#[test]
fn ocsf_says_what_was_allowed_denied_and_observed() {
    let records = all(&varied());
    let text = String::from_utf8(written(Format::Ocsf, &records)).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<Option<u64>> = events.iter().map(|event| event["action_id"].as_u64()).collect();
    assert_eq!(actions, [Some(1), Some(2), Some(1), Some(1), Some(3), Some(2), None, None, Some(1)]);
    assert_eq!(events[0]["actor"]["authorizations"][1]["policy"]["uid"], "all-read");
    assert_eq!(events[2]["api"]["operation"], "bank.v1.Payments/Pay");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_text_never_makes_a_second_line(text in ".{0,40}", other in "[\\x00-\\x1f=|\\\\ ,\"']{0,12}") {
        let hostile = format!("{other}{text}{other}");
        let record = Record {
            path: Some(hostile.clone()),
            reason: hostile.clone(),
            detail: Some(hostile.clone()),
            action: hostile.clone(),
            policy_ids: vec![hostile.as_str().into()],
            ..decision(0)
        };
        let stored = stored(0, &record);
        for format in [Format::Jsonl, Format::Csv, Format::Ocsf, Format::Cef] {
            let text = String::from_utf8(written(format, std::slice::from_ref(&stored))).unwrap();
            let lines = if format == Format::Csv { 2 } else { 1 };
            prop_assert_eq!(text.lines().count(), lines, "{:?}: {}", format, text);
        }
        prop_assert!(!visible(&hostile).contains(char::is_control));
    }
}
