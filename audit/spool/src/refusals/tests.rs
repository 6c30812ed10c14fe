//! Aggregated refusals: exact counts, bounded records.

use super::*;
use crate::spool::{Durability, SpoolConfig};
use crate::testing::records;

fn refused(source: [u8; 4], cause: &str) -> Refused<'_> {
    Refused {
        source: Some(IpAddr::from(source)),
        cause,
        action: "tls:handshake",
        destination_service: "",
        source_spiffe_id: None,
        tls: "none",
    }
}

fn spool(dir: &tempfile::TempDir) -> Spool {
    let config = SpoolConfig {
        dir: dir.path().into(),
        durability: Durability::Memory,
        on_full: OnFull::Deny,
        max_bytes: 1 << 20,
    };
    Spool::open(config, "spiffe://td/signet/gateway").unwrap()
}

#[test]
fn refusals_of_one_network_and_cause_become_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = RefusalAggregator::new(spool(&dir), "spiffe://td/signet/gateway");
    for last in 0..10 {
        aggregator.count(refused([192, 0, 2, last], "expired"));
    }
    aggregator.count(refused([192, 0, 2, 1], "not_tls"));
    aggregator.count(refused([198, 51, 100, 1], "expired"));
    aggregator.flush(u64::MAX);
    let mut found: Vec<_> = records(&aggregator.spool)
        .into_iter()
        .map(|record| (record.source_address.unwrap(), record.reason, record.count, record.kind, record.allow))
        .collect();
    found.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let refusal = |source: &str, cause: &str, count| (source.to_owned(), cause.to_owned(), count, Kind::Refusal, false);
    assert_eq!(
        found,
        [
            refusal("192.0.2.0/24", "expired", 10),
            refusal("192.0.2.0/24", "not_tls", 1),
            refusal("198.51.100.0/24", "expired", 1)
        ]
    );
}

#[test]
fn a_flood_of_sources_and_causes_stays_bounded_and_its_total_exact() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = RefusalAggregator::new(spool(&dir), "spiffe://td/signet/gateway");
    for index in 0..20_000_u32 {
        let [_, a, b, _] = index.to_be_bytes();
        let cause = format!("cause_{}", index % 1_000);
        aggregator.count(refused([10, a, b, (index % 251) as u8], &cause));
    }
    aggregator.flush(u64::MAX / SHARE);
    let found = records(&aggregator.spool);
    assert!(found.len() <= MOST_KEYS + MOST_OTHER + 1, "{}", found.len());
    assert_eq!(found.iter().map(|record| record.count).sum::<u64>(), 20_000);
}

#[test]
fn refusals_keep_to_their_share_of_the_spool_and_stay_counted() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = RefusalAggregator::new(spool(&dir), "spiffe://td/signet/gateway");
    let mut counted = 0;
    for round in 0..100_u8 {
        for third in 0..50 {
            aggregator.count(refused([10, round, third, 1], "expired"));
            counted += 1;
        }
        aggregator.flush(u64::MAX / SHARE);
    }
    let written: u64 = records(&aggregator.spool).iter().map(|record| record.count).sum();
    assert!(written < counted, "the share of the spool is bounded");
    assert!(aggregator.state.lock().written_bytes <= (1 << 20) / SHARE + 1024);
    aggregator.flush(u64::MAX);
    assert_eq!(records(&aggregator.spool).iter().map(|record| record.count).sum::<u64>(), counted);
}

#[test]
fn differing_identities_are_not_attributed_to_one() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = RefusalAggregator::new(spool(&dir), "spiffe://td/signet/gateway");
    let with = |id| Refused { source_spiffe_id: Some(id), ..refused([192, 0, 2, 1], "expired") };
    aggregator.count(with("spiffe://a/x"));
    aggregator.count(with("spiffe://a/x"));
    aggregator.flush(u64::MAX);
    aggregator.count(with("spiffe://a/x"));
    aggregator.count(with("spiffe://a/y"));
    aggregator.flush(u64::MAX);
    let ids: Vec<_> = records(&aggregator.spool).into_iter().map(|record| record.source_spiffe_id).collect();
    assert_eq!(ids, [Some("spiffe://a/x".to_owned()), None]);
}

#[test]
fn networks_are_24_and_64_bits() {
    for (address, network) in [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ] {
        assert_eq!(prefix(address.parse().unwrap()), network);
    }
}
