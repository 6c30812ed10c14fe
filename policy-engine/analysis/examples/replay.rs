//! How fast recorded decisions are made again: `make bench-replay`.
//!
//! Records as an export writes them, of 50 callers and 20 services over HTTP, gRPC and TCP, under a bundle of 1,000 policies
//! of which some read the path, the address and the clock. One core: once from JSON Lines, and once from records that are
//! decoded already, as they come from the audit store. Exits with 1 below 200,000 decisions a second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a measurement")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use signet_policy::{Bundle, BundleSource, Effect};
use signet_policy_analysis::{JsonLines, Recorded, Records, RecordsError, replay};

const RECORDS: usize = 200_000;
const ROUNDS: usize = 5;
const CALLERS: usize = 50;
const SERVICES: usize = 20;
const GOAL: f64 = 200_000.0;

/// Policy `n` of 1,000: caller `n % 50` may use service `n / 50` in one of four ways.
fn policy(n: usize) -> String {
    let (caller, service) = (n % CALLERS, n / CALLERS);
    let when = match n % 4 {
        0 => "when { context has path && context.path like \"/accounts/*\" }",
        1 => "when { context.net.src_ip.isInRange(ip(\"10.0.0.0/8\")) }",
        2 => "when { context.clock.minute_of_day >= 60 && context.clock.weekday <= 6 }",
        _ => "",
    };
    format!(
        "@id(\"p{n}\") permit(principal == Mesh::Workload::\"spiffe://bank.example/ns/n/sa/w{caller}\", action, \
         resource in Mesh::Service::\"bank.example/n/s{service}\") {when};\n"
    )
}

fn bundle() -> Bundle {
    let files = [
        ("signet.yaml".to_owned(), "version: 1\n".to_owned()),
        ("policies/all.cedar".to_owned(), (0..CALLERS * SERVICES).map(policy).collect()),
    ];
    let source = BundleSource { commit: "c".into(), signer: "s".into(), files: BTreeMap::from(files) };
    Bundle::compile(&source).unwrap()
}

/// Line `n` of an export, every column of it.
fn line(n: usize) -> String {
    let (caller, service) = (n * 7 % CALLERS, n * 3 % SERVICES);
    let (action, path, more, port) = match n % 10 {
        0 | 1 => (
            "grpc:call",
            "\"bank.v1.Payments/Pay\"".to_owned(),
            r#""service":"bank.v1.Payments","method":"Pay","#,
            50051,
        ),
        2 => ("tcp:connect", "null".to_owned(), "", 5432),
        _ => {
            ("http:GET", format!("\"/accounts/{}\"", n % 500), r#""method":"GET","host":"s.n.svc.cluster.local","#, 80)
        }
    };
    let context_path = if action == "http:GET" { format!("\"path\":{path},") } else { String::new() };
    let (minute, second) = (n / 60 % 60, n % 60);
    format!(
        r#"{{"decision_id":"0192f5d0-8b7a-7c3e-9a41-{n:012x}","event_id":null,"kind":"decision","time":"2026-11-25T10:{minute:02}:{second:02}.123456Z","log":"bank.example/signet-log","leaf_index":{n},"proxy":"spiffe://bank.example/ns/n/proxy/s{service}","source_spiffe_id":"spiffe://bank.example/ns/n/sa/w{caller}","destination_spiffe_id":"spiffe://bank.example/ns/n/sa/s{service}","destination_service":"bank.example/n/s{service}","action":"{action}","path":{path},"decision":"allow","enforcement":"enforce","policy_ids":["p{id}"],"policy_commit":"0123456789abcdef0123456789abcdef01234567","bundle_digest":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","reason":"permitted","source_address":"10.1.2.{ip}:4000","tls":"TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384","trace_id":"0123456789abcdef0123456789abcdef","latency_us":150,"count":1,"shadow_decision":null,"shadow_policy_ids":[],"detail":null,"context":{{{more}{context_path}"src_ip":"10.1.2.{ip}","src_cluster":"bank.example","dst_cluster":"bank.example","dst_port":"{port}"}},"erased":[],"epoch":"0192f5d0-8b7a-7c3e-9a41-5b6c7d8e9f00","sequence":{n},"received_at":"2026-11-25T10:00:01.000000Z","leaf_hash":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}}"#,
        id = service * CALLERS + caller,
        ip = n % 200,
    )
}

/// Records that were decoded before.
struct Decoded<'r>(&'r [Recorded<'static>]);

impl Records for Decoded<'_> {
    fn each(self, what: &mut dyn FnMut(&Recorded<'_>)) -> Result<(), RecordsError> {
        self.0.iter().for_each(what);
        Ok(())
    }
}

/// A record that owns its text.
fn owned(record: &Recorded<'_>) -> Recorded<'static> {
    let text = |text: &str| text.to_owned().into();
    Recorded {
        kind: text(&record.kind),
        time_us: record.time_us,
        source_spiffe_id: record.source_spiffe_id.as_deref().map(text),
        destination_service: text(&record.destination_service),
        action: text(&record.action),
        path: record.path.as_deref().map(text),
        decision: record.decision,
        reason: text(&record.reason),
        source_address: record.source_address.as_deref().map(text),
        count: record.count,
        context: record.context.iter().map(|(name, value)| (text(name), text(value))).collect(),
        erased: Vec::new(),
        policy_ids: record.policy_ids.iter().map(|id| text(id)).collect(),
        shadow_decision: None,
    }
}

/// Decisions a second of one replay.
fn rate(records: impl Records, bundle: &Bundle) -> f64 {
    let started = Instant::now();
    let found = replay(records, bundle).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!((found.decided, found.not_by_policy, found.not_replayed.len()), (RECORDS as u64, 0, 0));
    RECORDS as f64 / seconds
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn main() -> ExitCode {
    let bundle = bundle();
    let mut text = String::new();
    (0..RECORDS).for_each(|n| writeln!(text, "{}", line(n)).unwrap());
    let mut records = Vec::with_capacity(RECORDS);
    JsonLines(text.as_bytes()).each(&mut |record| records.push(owned(record))).unwrap();
    assert!(records.iter().all(|record| record.decision == Effect::Allow));
    let (mut lines, mut decoded) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        lines.push(rate(JsonLines(text.as_bytes()), &bundle));
        decoded.push(rate(Decoded(&records), &bundle));
    }
    let (lines, decoded) = (median(lines), median(decoded));
    println!(
        "{RECORDS} records of {} bytes, 1,000 policies, one core, medians of {ROUNDS} rounds:\n",
        text.len() / RECORDS
    );
    println!("| source | decisions/s |\n|---|---|");
    println!("| JSON Lines of an export | {lines:.0} |\n| records, decoded | {decoded:.0} |");
    if lines.min(decoded) < GOAL {
        eprintln!("below {GOAL:.0} decisions a second");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
