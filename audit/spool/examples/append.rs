//! Prints what one append costs, for each durability: `cargo run --release -p signet-spool --example append [RECORDS]`.
//!
//! Nothing drains the spool meanwhile, so that only the producer's side is measured.

use std::time::Instant;

use anyhow::{Context, Result};
use signet_spool::{Durability, OnFull, Record, Salts, Spool, SpoolConfig};
use uuid::Uuid;

fn record() -> Record {
    Record {
        id: Uuid::now_v7(),
        time_us: 1_795_000_000_000_000,
        producer: "spiffe://east.bank.example/ns/bank/proxy/ledger".into(),
        source_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/web".into()),
        destination_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/ledger".into()),
        destination_service: "east.bank.example/bank/ledger".into(),
        action: "http:GET".into(),
        path: Some("/accounts/1".into()),
        allow: true,
        policy_ids: vec!["policies/ledger.cedar#web-reads-accounts".into()],
        policy_commit: "0123456789abcdef0123456789abcdef01234567".into(),
        bundle_digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".into(),
        reason: "permitted".into(),
        source_address: Some("127.0.0.1:40000".into()),
        tls: "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384".into(),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        latency_us: Some(87),
        context: vec![
            ("host".into(), "ledger.bank.svc.cluster.local".into()),
            ("src_cluster".into(), "east.bank.example".into()),
            ("dst_cluster".into(), "east.bank.example".into()),
            ("dst_port".into(), "80".into()),
        ],
        ..Record::default()
    }
}

fn main() -> Result<()> {
    let records: usize = match std::env::args().nth(1) {
        Some(argument) => argument.parse().context("RECORDS is a number")?,
        None => 100_000,
    };
    let record = record();
    let mut salts = Salts::new();
    let started = Instant::now();
    let mut bytes = 0;
    for _ in 0..records {
        bytes = record.encode(&mut salts)?.canonical.len();
    }
    let each = started.elapsed().as_secs_f64() * 1e9 / records as f64;
    println!("encoding alone: {each:.0} ns per record of {bytes} bytes");
    println!("| durability | ns per append | p50 | p99 | p99.9 | slowest, us | allocations per append |");
    println!("|---|---|---|---|---|---|---|");
    // On the file system of the working directory: temporary directories are often in memory.
    let base = std::env::current_dir()?.join(format!("append-{}", std::process::id()));
    for (durability, count) in
        [(Durability::Memory, records), (Durability::Disk, records), (Durability::Sync, records.min(500))]
    {
        let dir = base.join(format!("{durability:?}"));
        let config = SpoolConfig { dir, durability, on_full: OnFull::Deny, max_bytes: 4 << 30 };
        let spool = Spool::open(config, &record.producer)?;
        // The thread's buffers are made by its first append.
        spool.append(&record)?;
        let mut took = Vec::with_capacity(count);
        let mut error = None;
        let allocated = allocation_counter::measure(|| {
            for _ in 0..count {
                let before = Instant::now();
                if let Err(met) = spool.append(&record) {
                    error = Some(met);
                    break;
                }
                took.push(before.elapsed());
            }
        });
        if let Some(error) = error {
            return Err(error.into());
        }
        let sum: std::time::Duration = took.iter().sum();
        took.sort_unstable();
        let at = |part: f64| took.get((part * (count - 1) as f64) as usize).map_or(0, std::time::Duration::as_nanos);
        println!(
            "| {durability:?} | {} | {} | {} | {} | {} | {:.4} |",
            sum.as_nanos() / count as u128,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0) / 1000,
            allocated.count_total as f64 / count as f64,
        );
    }
    std::fs::remove_dir_all(&base).context("cannot remove the benchmark's directory")?;
    Ok(())
}
