//! Clusters that cosign each other's checkpoints, and what a witness knows when a database does not.

use std::path::Path;
use std::time::Duration;

use signet_audit::config::{AskedWitness, Config, Witness, witness_name};
use signet_audit::note::{CosignerKey, CosignerVerifier, LogKey, split_note};
use signet_audit::testing::Postgres;
use signet_mtls::testing::Ca;
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, config, entries, until};

const EAST: &str = "east.bank.example";
const WEST: &str = "west.bank.example";

/// West's service, a witness of east's log, and what east has to know of it.
async fn west(postgres: &Postgres, directory: &Path) -> (Service, CosignerVerifier, AskedWitness) {
    let log_key = config(postgres, directory, EAST).log_key_file;
    let log = LogKey::load_or_create(&log_key, &format!("{EAST}/signet-log")).unwrap();
    let key_file = directory.join("witness.key");
    let config = Config {
        witness: Some(Witness { key_file: key_file.clone(), logs: vec![log.verifier_key()] }),
        ..config(postgres, directory, WEST)
    };
    let service = Service::start_as(config, Ca::new(WEST)).await.unwrap();
    let key = CosignerKey::load_or_create(&key_file, &witness_name(WEST)).unwrap().verifier_key();
    let asked = AskedWitness { url: format!("http://{}/", service.addresses.tlog), key: key.clone() };
    (service, key.parse().unwrap(), asked)
}

/// The size of the checkpoint that is served, and whether the witness cosigned it.
async fn served(service: &Service, witness: &CosignerVerifier) -> (u64, bool) {
    let (status, _, note) = service.get("/checkpoint").await;
    assert_eq!(status, 200);
    let note = String::from_utf8(note).unwrap();
    let (text, signatures) = split_note(&note).unwrap();
    (service.key().open_checkpoint(&note).unwrap().size, witness.find(text, signatures).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn served_checkpoints_carry_the_cosignature_of_the_other_cluster_while_it_is_there() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (west, verifier, asked) = west(&postgres, directory.path()).await;
    let config = Config { witnesses: vec![asked], ..config(&postgres, directory.path(), EAST) };
    let east = Service::start_as(config, Ca::new(EAST)).await.unwrap();
    let mut producer = east.producer(WEB).await.unwrap();
    let epoch = Uuid::now_v7();
    for (first, last) in [(1, 3), (4, 300), (301, 301)] {
        producer.send(batch(epoch, first, entries(first..=last))).await;
        until("a cosigned checkpoint", || async { served(&east, &verifier).await == (last, true) }).await;
    }
    let kept = "SELECT count(*) FROM signet.cosignatures WHERE size = 301 AND witness = $1 AND line LIKE '\u{2014} %'";
    let kept: i64 = sqlx::query_scalar(kept).bind(witness_name(WEST)).fetch_one(&east.pool).await.unwrap();
    assert_eq!(kept, 1);

    // Strangers and nonsense.
    let note = String::from_utf8(east.get("/checkpoint").await.2).unwrap();
    for (body, status) in [
        ("hello".to_owned(), 400),
        (format!("old 0\n\n{note}"), 409),
        (format!("old 301\n\n{}", note.replace(EAST, "north.bank.example")), 404),
        (format!("old 301\n\n{}", note.replace("\n301\n", "\n302\n")), 403),
        ("x".repeat(20_000), 413),
    ] {
        assert_eq!(west.post("/add-checkpoint", &body).await.0, status, "{body:.60}");
    }
    assert_eq!(west.get("/witnessed/00").await.0, 404);
    assert_eq!(east.post("/add-checkpoint", "old 0").await.0, 404, "east is no witness");

    // Without its witness a log goes on, and says so by what is missing; when the witness is back it catches up.
    let (config, ca) = {
        let at = west.addresses.tlog;
        let (config, ca) = west.stop(true).await;
        (Config { tlog: signet_audit::config::Tlog { listen: at }, ..config }, ca)
    };
    producer.send(batch(epoch, 302, entries(302..=310))).await;
    until("a checkpoint without the witness", || async { served(&east, &verifier).await == (310, false) }).await;
    let west = Service::start_as(config, ca).await.unwrap();
    until("the cosignature that was missing", || async { served(&east, &verifier).await == (310, true) }).await;
    assert!(east.verify_at(310).await.holds());
    east.stop(true).await;
    west.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_restored_together_with_its_memory_is_behind_its_witness() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (west, verifier, asked) = west(&postgres, directory.path()).await;
    let ours = Config { witnesses: vec![asked], ..config(&postgres, directory.path(), EAST) };
    let east = Service::start_as(ours.clone(), Ca::new(EAST)).await.unwrap();
    east.producer(WEB).await.unwrap().send(batch(Uuid::now_v7(), 1, entries(1..=3))).await;
    until("a cosigned checkpoint", || async { served(&east, &verifier).await == (3, true) }).await;
    let (_, ca) = east.stop(true).await;

    // Everything of east's goes back to before the first record.
    let earlier = Postgres::start().unwrap();
    let back = |memory: &str| Config {
        state_dir: Some(directory.path().join(memory)),
        database_url: earlier.dsn(),
        ..ours.clone()
    };
    let refused = format!("{:#}", Service::start_as(back("first"), ca).await.map(|_| ()).unwrap_err());
    assert!(refused.contains("0 records") && refused.contains("checkpoint of 3"), "{refused}");

    // The same while the witness is away: it is found out when the witness is back, and for good.
    let at = west.addresses.tlog;
    let (west_config, west_ca) = west.stop(true).await;
    let east = Service::start_as(back("second"), Ca::new(EAST)).await.unwrap();
    let mut producer = east.producer(WEB).await.unwrap();
    let epoch = Uuid::now_v7();
    producer.send(batch(epoch, 1, entries(1..=5))).await;
    until("a checkpoint of the fork", || async { served(&east, &verifier).await == (5, false) }).await;
    let west_config = Config { tlog: signet_audit::config::Tlog { listen: at }, ..west_config };
    let west = Service::start_as(west_config, west_ca).await.unwrap();
    let memory = back("second").state_file();
    until("what the witness holds", || async {
        std::fs::read_to_string(&memory).is_ok_and(|note| note.contains("\n3\n"))
    })
    .await;
    producer.batches.send(batch(epoch, 6, entries(6..=6))).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(2), producer.acks.message()).await;
    assert!(answer.is_err(), "nothing more is acknowledged: {answer:?}");
    let (_, ca) = east.stop(false).await;
    let refused = format!("{:#}", Service::start_as(back("second"), ca).await.map(|_| ()).unwrap_err());
    assert!(refused.contains("do not continue the signed checkpoint of 3"), "{refused}");
    west.stop(true).await;
}
