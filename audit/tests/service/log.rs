//! The log as others read it, and what tampering with the store shows.

use std::collections::BTreeMap;

use signet_audit::merkle::{
    TileId, consistency_proof, inclusion_proof, leaf_hash, root_at, verify_consistency, verify_inclusion,
};
use signet_audit::note::LogKey;
use signet_audit::testing::Postgres;
use signet_audit::verify::{Problem, Seen, verify};
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, entries};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_served_in_tiles_that_prove_every_entry() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let (status, _, empty) = service.get("/checkpoint").await;
    assert_eq!(status, 200);
    assert_eq!(service.key().open_checkpoint(std::str::from_utf8(&empty).unwrap()).unwrap().size, 0);

    let epoch = Uuid::now_v7();
    let made = entries(1..=600);
    let mut producer = service.producer(WEB).await.unwrap();
    producer.send(batch(epoch, 1, made[..300].to_vec())).await;
    service.verify_at(300).await;
    let (_, _, note) = service.get("/checkpoint").await;
    let old = service.key().open_checkpoint(std::str::from_utf8(&note).unwrap()).unwrap();
    producer.send(batch(epoch, 301, made[300..].to_vec())).await;
    assert!(service.verify_at(600).await.holds());

    let (status, head, note) = service.get("/checkpoint").await;
    assert!(status == 200 && head.contains("cache-control: no-cache"), "{head}");
    let checkpoint = service.key().open_checkpoint(std::str::from_utf8(&note).unwrap()).unwrap();
    assert_eq!((old.size, checkpoint.size), (300, 600));

    let mut tiles = BTreeMap::new();
    for (path, level, index) in
        [("/tile/0/000", 0, 0), ("/tile/0/001", 0, 1), ("/tile/0/002.p/88", 0, 2), ("/tile/1/000.p/2", 1, 0)]
    {
        let (status, head, bytes) = service.get(path).await;
        assert!(
            status == 200 && head.contains("immutable") && head.contains("application/octet-stream"),
            "{path} {head}"
        );
        tiles.insert(TileId { level, index }, bytes.as_chunks::<32>().0.to_vec());
    }
    assert_eq!(root_at(&tiles, 600).unwrap(), checkpoint.root);
    let proof = consistency_proof(&tiles, old.size, checkpoint.size).unwrap();
    verify_consistency(old.size, &old.root, checkpoint.size, &checkpoint.root, &proof).unwrap();

    // Entries: 16-bit lengths, the canonical bytes as they were sent.
    let (_, _, mut bundle) = service.get("/tile/entries/002.p/88").await;
    let mut served = Vec::new();
    while !bundle.is_empty() {
        let length = usize::from(u16::from_be_bytes([bundle[0], bundle[1]]));
        served.push(bundle[2..2 + length].to_vec());
        bundle.drain(..2 + length);
    }
    assert_eq!(served.len(), 88);
    for (index, entry) in (512u64..).zip(&served) {
        assert_eq!(*entry, made[index as usize].canonical);
        let path = inclusion_proof(&tiles, index, 600).unwrap();
        verify_inclusion(&leaf_hash(entry), index, 600, &path, &checkpoint.root).unwrap();
    }
    // An older width of the same tile, and what is not there.
    let (status, _, part) = service.get("/tile/0/002.p/5").await;
    assert_eq!((status, part.as_slice()), (200, tiles[&TileId { level: 0, index: 2 }][..5].as_flattened()));
    for absent in [
        "/tile/0/002",
        "/tile/0/002.p/89",
        "/tile/1/000",
        "/tile/2/000.p/1",
        "/tile/entries/003",
        "/tile/x",
        "/",
        "/tile/0/2",
    ] {
        assert_eq!(service.get(absent).await.0, 404, "{absent}");
    }
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_removed_or_inserted_row_is_found_and_named() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    service.producer(WEB).await.unwrap().send(batch(Uuid::now_v7(), 1, entries(1..=20))).await;
    assert!(service.verify_at(20).await.holds());
    let pool = &service.pool;

    for refused in [
        "UPDATE signet.records SET allow = false",
        "UPDATE signet.records SET personal = ''",
        "UPDATE signet.records SET personal = signet.erased(personal), allow = false",
        "DELETE FROM signet.records WHERE leaf_index = 5",
        "TRUNCATE signet.records",
        "UPDATE signet.checkpoints SET note = ''",
        "DELETE FROM signet.checkpoints",
        "TRUNCATE signet.checkpoints",
        "UPDATE signet.identities SET value = 'spiffe://east.bank.example/ns/bank/sa/other'",
        "DELETE FROM signet.shapes",
        "DELETE FROM signet.runs",
    ] {
        let error = sqlx::query(refused).execute(pool).await.unwrap_err();
        assert!(error.to_string().contains("records are never changed"), "{refused}: {error}");
    }
    let partition: String = sqlx::query_scalar("SELECT tableoid::regclass::text FROM signet.records LIMIT 1")
        .fetch_one(pool)
        .await
        .unwrap();
    let direct = sqlx::query(sqlx::AssertSqlSafe(format!("TRUNCATE {partition}"))).execute(pool).await.unwrap_err();
    assert!(direct.to_string().contains("records are never changed"), "{direct}");

    // A superuser can switch the triggers off; the tree cannot be.
    let mut connection = pool.acquire().await.unwrap();
    let mut tamper = async |statement: &'static str| {
        sqlx::query("SET session_replication_role = replica").execute(&mut *connection).await.unwrap();
        let done = sqlx::query(statement).execute(&mut *connection).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{statement}");
        sqlx::query("RESET session_replication_role").execute(&mut *connection).await.unwrap();
        verify(pool, &service.config.origin(), &service.key(), &[]).await.unwrap().problems
    };
    let problems = tamper("UPDATE signet.records SET allow = false WHERE leaf_index = 3").await;
    assert!(matches!(problems[0], Problem::ChangedRecord { leaf_index: 3, .. }), "{problems:?}");
    assert!(problems.contains(&Problem::RootDiffers { size: 20 }), "{problems:?}");
    let problems = tamper("UPDATE signet.records SET allow = true WHERE leaf_index = 3").await;
    assert_eq!(problems, []);
    let problems = tamper("DELETE FROM signet.records WHERE leaf_index = 9").await;
    assert!(problems.contains(&Problem::MissingRecord { expected: 9, found: 10 }), "{problems:?}");
    let problems =
        tamper("UPDATE signet.checkpoints SET note = replace(note, E'\\n20\\n', E'\\n21\\n') WHERE size = 20").await;
    assert!(problems.iter().any(|problem| matches!(problem, Problem::BadCheckpoint { size: 20, .. })), "{problems:?}");
    drop(connection);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forked_or_cut_log_is_found_by_a_checkpoint_that_someone_kept() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    service.producer(WEB).await.unwrap().send(batch(Uuid::now_v7(), 1, entries(1..=10))).await;
    assert!(service.verify_at(10).await.holds());
    let (origin, key) = (service.config.origin(), service.key());
    let kept = service.get("/checkpoint").await.2;
    let kept = String::from_utf8(kept).unwrap();
    let signer = LogKey::load_or_create(&service.config.log_key_file, &origin).unwrap();
    let against = async |note: &str| {
        let seen = [Seen { place: "a drawer".to_owned(), note: note.to_owned() }];
        verify(&service.pool, &origin, &key, &seen).await.unwrap().problems
    };
    let place = || "a drawer".to_owned();
    assert_eq!(against(&kept).await, []);
    assert_eq!(
        against(&signer.sign_checkpoint(7, &[9; 32])).await,
        [Problem::Forked { size: 7, place: place() }],
        "signed by the same key, of another history"
    );
    assert_eq!(
        against(&signer.sign_checkpoint(12, &[9; 32])).await,
        [Problem::Cut { signed: 12, records: 10, place: place() }]
    );
    let stranger = LogKey::from_seed(&origin, &[1; 32]).unwrap();
    let problems = against(&stranger.sign_checkpoint(7, &[9; 32])).await;
    assert!(matches!(&problems[..], [Problem::BadSeen { .. }]), "{problems:?}");
    service.stop(true).await;
}
