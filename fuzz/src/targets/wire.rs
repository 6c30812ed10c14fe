//! What comes from the control plane, and what comes out of a spool.

use prost::Message as _;
use signet_api::control as wire;
use signet_proxy::snapshot::Snapshot;
use signet_spool::{Record, Salts};

use crate::{Shape, Target, shape};

/// Snapshots of the control plane, as bytes on the wire.
pub(crate) const SNAPSHOTS: Target = Target {
    name: "snapshots",
    corpus: snapshots,
    words: &[
        b"east.bank.example/bank/ledger",
        b"spiffe://east.bank.example/ns/bank/sa/ledger",
        b"http",
        b"http2",
        b"grpc",
        b"tcp",
        b"127.0.0.1:80",
        b"[::1]:80",
        b"\0",
        b"\xff",
        b"//",
        b"\x08\x01",
        b"\x12\0",
        b"sha256:",
    ],
    check: check_snapshot,
};
/// Canonical bytes of records.
pub(crate) const RECORDS: Target = Target {
    name: "records",
    corpus: records,
    words: &[b"\x01", b"\0\x01", b"\0\0\0\x10", b"\xff\xff", b"spiffe://east/ns/a/sa/b", b"\0\0\0\0\0\0\0\x01"],
    check: check_record,
};

fn snapshots() -> Vec<Vec<u8>> {
    let service = "east.bank.example/bank/ledger".to_owned();
    let inbound = |port, protocol: &str| wire::InboundService {
        service: service.clone(),
        port: 80,
        target_port: port,
        protocol: protocol.to_owned(),
        permissive: false,
        rate_limits: vec![wire::RateLimit {
            clients: vec!["spiffe://east.bank.example/ns/bank/sa/web".to_owned()],
            requests: 10,
            per_ms: 1000,
            burst: 20,
        }],
    };
    let outbound = wire::OutboundService {
        service: service.clone(),
        hosts: vec!["ledger.bank.svc.cluster.local".to_owned()],
        port: 80,
        protocol: "http".to_owned(),
        spiffe_ids: vec!["spiffe://east.bank.example/ns/bank/sa/ledger".to_owned()],
        addresses: vec!["10.0.0.7".to_owned()],
        traffic: Some(wire::Traffic {
            policy: "TrafficPolicy/bank/ledger".to_owned(),
            faults: Some(wire::Faults {
                delay_permyriad: 500,
                delay_ms: 20,
                abort_permyriad: 10_000,
                abort_status: 503,
                abort_grpc: 14,
            }),
            balancing: Some(wire::Balancing {
                algorithm: "consistent_hash".to_owned(),
                hash_header: "x-account".to_owned(),
                slow_start_ms: 30_000,
                panic_percent: Some(40),
                ..wire::Balancing::default()
            }),
            outlier: Some(wire::Outlier {
                consecutive_failures: 5,
                interval_ms: 10_000,
                eject_ms: 30_000,
                max_ejected_percent: 50,
                ..wire::Outlier::default()
            }),
            breaker: Some(wire::Breaker { max_connections: 8, ..wire::Breaker::default() }),
        }),
        failover: vec![wire::Tier { shares: vec![wire::Share { service: service.clone(), weight: 3 }] }],
        ..wire::OutboundService::default()
    };
    let whole = wire::Snapshot {
        version: 7,
        trust_domain: "east.bank.example".to_owned(),
        inbound: vec![inbound(15_443, "http"), inbound(15_444, "tcp")],
        outbound: vec![outbound],
        external: vec![wire::ExternalService {
            name: "rates".to_owned(),
            host: "rates.example".to_owned(),
            port: 443,
            originate_tls: true,
        }],
        ..wire::Snapshot::default()
    };
    let contradicting =
        wire::Snapshot { inbound: vec![inbound(15_443, "http"), inbound(15_443, "tcp")], ..whole.clone() };
    [whole, contradicting, wire::Snapshot::default()].iter().map(wire::Snapshot::encode_to_vec).collect()
}

/// What is taken is valid, and is taken again when it is written again.
fn check_snapshot(bytes: &[u8]) -> Result<Shape, String> {
    let Ok(message) = wire::Snapshot::decode(bytes) else { return Ok(0) };
    let snapshot = match Snapshot::from_wire(&message, None) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            // Up to what it quotes.
            let text = error.to_string();
            return Ok(shape(text.split('`').next()));
        }
    };
    for (place, service) in snapshot.inbound.iter().enumerate() {
        let clash = snapshot
            .inbound
            .iter()
            .skip(place + 1)
            .find(|other| other.target_port == service.target_port && other.protocol != service.protocol);
        if let Some(other) = clash {
            return Err(format!("{service:?} and {other:?} share a port and not a protocol"));
        }
        if service.target_port == 0 || service.port == 0 {
            return Err(format!("{service:?} has no port"));
        }
    }
    let again = wire::Snapshot::decode(message.encode_to_vec().as_slice()).map_err(|error| error.to_string())?;
    let again = Snapshot::from_wire(&again, None).map_err(|error| format!("written again it is refused: {error}"))?;
    if format!("{again:?}") != format!("{snapshot:?}") {
        return Err(format!("{snapshot:?} became {again:?}"));
    }
    Ok(shape((snapshot.inbound.len().min(3), snapshot.outbound.len().min(3), snapshot.external.len().min(3))))
}

fn records() -> Vec<Vec<u8>> {
    const VECTOR: &str = include_str!("../../../audit/spool/tests/vectors/record-v1.hex");
    let digits: Vec<u32> = VECTOR.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let vector: Vec<u8> = digits
        .chunks(2)
        .filter_map(|two| two.iter().try_fold(0, |sum, digit| u8::try_from(sum * 16 + digit).ok().map(u32::from)))
        .filter_map(|byte| u8::try_from(byte).ok())
        .collect();
    // Without its personal values, so that whatever is taken can be written again.
    let mut plain = Record::decode(&vector, &[]).ok();
    let encoded = plain.as_mut().and_then(|record| {
        record.erased.clear();
        (record.path, record.personal_path) = (Some("/accounts/1".to_owned()), false);
        record.context.retain(|(key, _)| key == "host");
        record.encode(&mut Salts::new()).ok()
    });
    [Some(vector), encoded.map(|encoded| encoded.canonical)].into_iter().flatten().collect()
}

/// Only what the encoder could have written is a record.
fn check_record(bytes: &[u8]) -> Result<Shape, String> {
    let record = match Record::decode(bytes, &[]) {
        Ok(record) => record,
        Err(error) => {
            let text = error.to_string();
            return Ok(shape(text.trim_end_matches(|end: char| end.is_ascii_digit())));
        }
    };
    if record.erased.is_empty() {
        let again = record.encode(&mut Salts::new()).map_err(|error| error.to_string())?;
        if again.canonical != bytes {
            return Err(format!("{record:?} is written in another way"));
        }
    }
    Ok(shape((
        record.kind.as_str(),
        record.allow,
        record.erased.len().min(4),
        record.context.len().min(4),
        record.shadow.is_some(),
    )))
}
