//! One bit, one row, one tile: whatever of a log is changed in the database is found and named.

use std::collections::BTreeMap;

use signet_api::audit::ingest_client::IngestClient;
use signet_api::audit::{BundleFile, PutBundleRequest};
use signet_audit::testing::Postgres;
use signet_audit::verify::{Problem, verify};
use signet_policy::BundleSource;
use signet_spool::Record;
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, entries, entry, record};

/// Flips the lowest bit of a byte of column `c`.
macro_rules! flip {
    ($c:literal, $at:literal) => {
        concat!($c, " = set_byte(", $c, ", ", $at, ", get_byte(", $c, ", ", $at, ") # 1)")
    };
}

/// What is changed, how it is undone (the same again when empty), and whether a problem names it.
type Case = (&'static str, String, String, fn(&Problem) -> bool);

fn case(name: &'static str, change: impl Into<String>, undo: impl Into<String>, named: fn(&Problem) -> bool) -> Case {
    (name, change.into(), undo.into(), named)
}

/// The leaf of a record that keeps its bytes whole; all others are rebuilt from their columns.
const WHOLE: u64 = 600;

fn record_is_named(problem: &Problem) -> bool {
    matches!(problem, Problem::ChangedRecord { leaf_index: 7, .. })
}

macro_rules! column {
    ($name:literal) => {
        |problem| matches!(problem, Problem::ChangedColumn { column: $name, leaf_index: WHOLE, .. })
    };
}

macro_rules! dictionary {
    ($name:literal) => {
        |problem| matches!(problem, Problem::ChangedDictionary { table: $name, .. })
    };
}

fn cases() -> Vec<Case> {
    let record = |set: &str| format!("UPDATE signet.records SET {set} WHERE leaf_index = 7");
    let whole = |set: &str| format!("UPDATE signet.records SET {set} WHERE leaf_index = {WHOLE}");
    let replaced = |table: &str, from: &str, to: &str| {
        format!("UPDATE signet.{table} SET value = replace(value, '{from}', '{to}') WHERE value LIKE '%{from}%'")
    };
    let both = |table: &str, from: &str, to: &str| (replaced(table, from, to), replaced(table, to, from));
    let (web, cew) = both("identities", "sa/web", "sa/wec");
    let (ledger, mledger) = both("identities", "sa/ledger", "sa/mledger");
    let (service, ecivres) = both("services", "bank/ledger", "bank/mledger");
    let (policy, ycilop) = both("policy_sets", "ledger-read", "ledger-real");
    let (action, noitca) = both("labels", "http:GET", "http:GEU");
    let (commit, timmoc) = both("labels", "0123456789abcdef0123", "1123456789abcdef0123");
    let (digest, tsegid) = both("labels", "sha256:00", "sha256:01");
    let (reason, nosaer) = both("labels", "permitted", "permittee");
    let (tls, slt) = both("labels", "TLSv1.3", "TLSv1.2");
    let digits = "translate({}, '0123456789', '1032547698')";
    let turned = |column: &str| format!("{column} = {}", digits.replace("{}", column));
    let tile = |level: u8, set: &str| format!("UPDATE signet.tiles SET {set} WHERE level = {level} AND tile_index = 0");
    vec![
        case("allow", record("allow = NOT allow"), "", record_is_named),
        case("kind", record("kind = kind # 1"), "", record_is_named),
        case("latency", record("latency_us = latency_us # 1"), "", record_is_named),
        case(
            "time",
            record("time = time + interval '1 microsecond'"),
            record("time = time - interval '1 microsecond'"),
            record_is_named,
        ),
        case("id", record("id = (translate(id::text, '01', '10'))::uuid"), "", record_is_named),
        case("path", record(&turned("path")), "", record_is_named),
        case(
            "trace",
            record("trace_id = '00000000-0000-0000-0000-000000000000'"),
            record("trace_id = NULL"),
            record_is_named,
        ),
        case("rest", record(r"rest = '\x020000000161'"), record("rest = ''"), record_is_named),
        case("opening", record(flip!("personal", "3")), "", record_is_named),
        case("address", record(flip!("personal", "20")), "", record_is_named),
        case(
            "opening that is gone",
            record("personal = ''::bytea, rest = personal"),
            record("personal = rest, rest = ''"),
            record_is_named,
        ),
        case(
            "number of a source",
            record("source_id = source_id + 1"),
            record("source_id = source_id - 1"),
            record_is_named,
        ),
        case("number of no shape", record("shape_id = -shape_id"), "", record_is_named),
        case("number of no context", record("context_id = -context_id"), "", record_is_named),
        case("source", web.clone(), cew.clone(), dictionary!("identities")),
        case("records of a source", web, cew, record_is_named),
        case("destination", ledger, mledger, dictionary!("identities")),
        case("service", service, ecivres, dictionary!("services")),
        case("policies", policy, ycilop, dictionary!("policy_sets")),
        case("action", action, noitca, dictionary!("labels")),
        case("commit", commit, timmoc, dictionary!("labels")),
        case("digest", digest, tsegid, dictionary!("labels")),
        case("reason", reason, nosaer, dictionary!("labels")),
        case("tls", tls, slt, dictionary!("labels")),
        case("shape", "UPDATE signet.shapes SET enforcement = 1 - enforcement", "", dictionary!("shapes")),
        case("context", format!("UPDATE signet.contexts SET {}", flip!("template", "4")), "", dictionary!("contexts")),
        case(
            "producer",
            "UPDATE signet.epochs SET producer = producer || 'x'",
            "UPDATE signet.epochs SET producer = rtrim(producer, 'x')",
            record_is_named,
        ),
        case("allow of a whole one", whole("allow = NOT allow"), "", column!("allow")),
        case("latency of a whole one", whole("latency_us = latency_us # 1"), "", column!("latency_us")),
        case("address of a whole one", whole(flip!("personal", "20")), "", column!("personal")),
        case("path of a whole one", whole("path = path || 'x'"), whole("path = rtrim(path, 'x')"), column!("path")),
        case("bytes of a whole one", whole(flip!("rest", "60")), "", |problem| {
            matches!(problem, Problem::ChangedRecord { leaf_index: WHOLE, .. })
        }),
        case(
            "run",
            "UPDATE signet.runs SET first_sequence = 2 WHERE first_leaf = 0",
            "UPDATE signet.runs SET first_sequence = 1 WHERE first_leaf = 0",
            |problem| matches!(problem, Problem::EpochDiffers { says: 601, found: 0, .. }),
        ),
        case(
            "length of a run",
            "UPDATE signet.runs SET records = records - 1",
            "UPDATE signet.runs SET records = records + 1",
            |problem| matches!(problem, Problem::RunDiffers { first_leaf: 0 }),
        ),
        case(
            "leaf",
            record("leaf_index = 5000"),
            "UPDATE signet.records SET leaf_index = 7 WHERE leaf_index = 5000",
            |problem| matches!(problem, Problem::MissingRecord { expected: 7, found: 8 }),
        ),
        case(
            "place outside of the log",
            record("leaf_index = 5000"),
            "UPDATE signet.records SET leaf_index = 7 WHERE leaf_index = 5000",
            |problem| matches!(problem, Problem::StrayRecord { leaf_index: 5000, .. }),
        ),
        case(
            "watermark",
            "UPDATE signet.epochs SET watermark = watermark + 1",
            "UPDATE signet.epochs SET watermark = watermark - 1",
            |problem| matches!(problem, Problem::EpochDiffers { says: 602, found: 601, .. }),
        ),
        case("leaf hash", tile(0, flip!("hashes", "224")), "", |problem| {
            matches!(problem, Problem::ChangedRecord { leaf_index: 7, .. })
        }),
        case("upper tile", tile(1, flip!("hashes", "33")), "", |problem| {
            matches!(problem, Problem::TileDiffers { level: 1, index: 0 })
        }),
        case(
            "tile of no tree",
            "INSERT INTO signet.tiles SELECT log_id, 3, 0, hashes FROM signet.tiles WHERE level = 1",
            "DELETE FROM signet.tiles WHERE level = 3",
            |problem| matches!(problem, Problem::TileDiffers { level: 3, index: 0 }),
        ),
        case(
            "tile that is gone",
            tile(1, "tile_index = 9"),
            "UPDATE signet.tiles SET tile_index = 0 WHERE tile_index = 9",
            |problem| matches!(problem, Problem::TileDiffers { level: 1, index: 0 }),
        ),
        case("head", format!("UPDATE signet.logs SET {}", flip!("root", "0")), "", |problem| {
            matches!(problem, Problem::HeadDiffers { size: 601 })
        }),
        case(
            "policy of a bundle",
            replaced("bundle_files", "permit", "forbid").replace("value", "content"),
            replaced("bundle_files", "forbid", "permit").replace("value", "content"),
            |problem| matches!(problem, Problem::ChangedBundle { .. }),
        ),
        case("size", "UPDATE signet.logs SET size = 602", "UPDATE signet.logs SET size = 601", |problem| {
            matches!(problem, Problem::HeadDiffers { size: 602 })
        }),
        case(
            "key",
            "UPDATE signet.logs SET verifier_key = 'x' || verifier_key",
            "UPDATE signet.logs SET verifier_key = substr(verifier_key, 2)",
            |problem| matches!(problem, Problem::OtherKey { .. }),
        ),
        case(
            "note",
            "UPDATE signet.checkpoints SET note = 'x' || note WHERE size = 601",
            "UPDATE signet.checkpoints SET note = substr(note, 2) WHERE size = 601",
            |problem| matches!(problem, Problem::BadCheckpoint { size: 601, .. }),
        ),
        case(
            "root of a checkpoint",
            format!("UPDATE signet.checkpoints SET {} WHERE size = 601", flip!("root", "31")),
            "",
            |problem| matches!(problem, Problem::BadCheckpoint { size: 601, .. }),
        ),
    ]
}

async fn put_bundle(service: &Service) {
    let (path, content) = ("policies/a.cedar".to_owned(), "permit (principal, action, resource);".to_owned());
    let files = BTreeMap::from([(path.clone(), content.clone())]);
    let source = BundleSource { commit: "0".repeat(40), signer: "alice".to_owned(), files };
    let request = PutBundleRequest {
        digest: source.digest(),
        commit: source.commit,
        signer: source.signer,
        files: vec![BundleFile { path, content }],
    };
    let control = service.channel("spiffe://east.bank.example/signet/control");
    IngestClient::new(control).put_bundle(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bit_changed_in_any_table_is_found_and_named() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let hostile = Record { path: Some("/a\0b".to_owned()), ..record(WEB, 601) };
    let sent = [entries(1..=600), vec![entry(&hostile)]].concat();
    service.producer(WEB).await.unwrap().send(batch(Uuid::now_v7(), 1, sent)).await;
    let whole = service.verify_at(601).await;
    assert!(whole.holds(), "{:?}", whole.problems);
    put_bundle(&service).await;
    let (pool, key, origin) = (service.pool.clone(), service.key(), service.config.origin());
    service.stop(true).await;

    // A superuser switches the triggers off.
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("SET session_replication_role = replica").execute(&mut *connection).await.unwrap();
    for (name, change, undo, named) in cases() {
        let undo = if undo.is_empty() { change.clone() } else { undo };
        let done = sqlx::query(sqlx::AssertSqlSafe(change)).execute(&mut *connection).await.unwrap();
        assert!(done.rows_affected() > 0, "{name}");
        let problems = verify(&pool, &origin, &key, &[]).await.unwrap().problems;
        assert!(problems.iter().any(named), "{name}: {problems:?}");
        sqlx::query(sqlx::AssertSqlSafe(undo)).execute(&mut *connection).await.unwrap();
        assert_eq!(verify(&pool, &origin, &key, &[]).await.unwrap().problems, [], "{name} is undone");
    }
}
