//! Crashes: nothing acknowledged is lost, nothing is stored twice, and a database that went back is noticed.

use std::collections::BTreeSet;
use std::time::Duration;

use signet_audit::query::{self, Filter};
use signet_audit::testing::Postgres;
use signet_mtls::testing::Ca;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{PATIENCE, Service, WEB, batch, config, entries, until};

/// Delivers batches of an epoch for ever, as a spool does: from what is acknowledged on, over new streams when one
/// breaks. Returns everything that it made once `stop` is cancelled and all of it is acknowledged.
async fn deliver(service: &Service, epoch: Uuid, stop: CancellationToken) -> Vec<signet_api::audit::Entry> {
    let mut made = Vec::new();
    let mut acknowledged = 0;
    loop {
        let Ok(mut producer) = service.producer(WEB).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut sent = acknowledged;
        loop {
            while !stop.is_cancelled() && sent == made.len() && sent < acknowledged + 200 {
                made.extend(entries(1..=50));
                let next = made[sent..].to_vec();
                producer.batches.send(batch(epoch, sent as u64 + 1, next)).await.unwrap();
                sent = made.len();
            }
            if sent < made.len() {
                producer.batches.send(batch(epoch, sent as u64 + 1, made[sent..].to_vec())).await.unwrap();
                sent = made.len();
            }
            if acknowledged == made.len() {
                return made;
            }
            match tokio::time::timeout(PATIENCE, producer.acks.message()).await.expect("an answer in time") {
                Ok(Some(ack)) => {
                    assert_eq!(ack.error, "");
                    acknowledged = usize::try_from(ack.committed).unwrap();
                }
                _ => break,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_postgresql_during_ingestion_loses_and_repeats_nothing() {
    let mut postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let (stop, epoch) = (CancellationToken::new(), Uuid::now_v7());
    let faults = async {
        for _ in 0..3 {
            let before = service.decisions().await;
            until("records to flow", || async { service.decisions().await > before + 200 }).await;
            tokio::task::block_in_place(|| {
                postgres.kill().unwrap();
                postgres.restart().unwrap();
            });
            until("PostgreSQL to answer", || async { sqlx::query("SELECT 1").execute(&service.pool).await.is_ok() })
                .await;
        }
        stop.cancel();
    };
    let (made, ()) = tokio::join!(deliver(&service, epoch, stop.clone()), faults);
    let (origin, end) = (service.config.origin(), made.len() as u64);
    let stored = query::records(&service.pool, &Filter::default(), &[], &origin, 0, end).await.unwrap();
    assert_eq!(stored.len(), made.len());
    for (stored, (number, entry)) in stored.iter().zip((1..).zip(&made)) {
        assert_eq!((stored.sequence, &stored.canonical), (number, &entry.canonical));
    }
    let report = service.verify_at(made.len() as i64).await;
    assert!(report.holds(), "{:?}", report.problems);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_at_any_point_is_continued_by_the_next() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(&postgres, directory.path()).await;
    let epoch = Uuid::now_v7();
    let made = entries(1..=400);
    let mut acknowledged = 0usize;
    for (round, chunk) in made.chunks(50).enumerate() {
        let mut producer = service.producer(WEB).await.unwrap();
        let from = acknowledged;
        producer
            .batches
            .send(batch(epoch, from as u64 + 1, made[from..chunk.len() * (round + 1)].to_vec()))
            .await
            .unwrap();
        if round % 2 == 0 {
            // Dies somewhere between taking the batch and answering it.
            tokio::time::sleep(Duration::from_millis(round as u64 * 3)).await;
            let (config, ca) = service.stop(false).await;
            service = Service::start_as(config, ca).await.unwrap();
        } else {
            let ack = tokio::time::timeout(PATIENCE, producer.acks.message()).await.unwrap().unwrap().unwrap();
            assert_eq!(ack.error, "");
            acknowledged = usize::try_from(ack.committed).unwrap();
        }
    }
    assert_eq!(acknowledged, made.len());
    let sequences: Vec<i64> = sqlx::query_scalar("SELECT sequence FROM signet.entries ORDER BY leaf_index")
        .fetch_all(&service.pool)
        .await
        .unwrap();
    assert_eq!(sequences.len(), made.len());
    assert_eq!(sequences.iter().collect::<BTreeSet<_>>().len(), made.len());
    let report = service.verify_at(400).await;
    assert!(report.holds(), "{:?}", report.problems);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_behind_the_last_checkpoint_stops_the_service_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    service.producer(WEB).await.unwrap().send(batch(Uuid::now_v7(), 1, entries(1..=3))).await;
    assert!(service.verify_at(3).await.holds());
    let (_, ca) = service.stop(true).await;
    // Another, empty database under the same key and state: restored to before the first record.
    let earlier = Postgres::start().unwrap();
    let refused = Service::start_as(config(&earlier, directory.path(), "east.bank.example"), ca).await.map(|_| ());
    let text = format!("{:#}", refused.unwrap_err());
    assert!(text.contains("0 records") && text.contains("checkpoint of 3") && text.contains("earlier point"), "{text}");
    let again =
        Service::start_as(config(&postgres, directory.path(), "east.bank.example"), Ca::new("east.bank.example")).await;
    again.unwrap().stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_was_rewritten_is_not_signed() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    service.producer(WEB).await.unwrap().send(batch(Uuid::now_v7(), 1, entries(1..=3))).await;
    assert!(service.verify_at(3).await.holds());
    let (config, ca) = service.stop(true).await;
    let pool = signet_audit::query::connect(&config.database_url).unwrap();
    // Someone with all rights replaces a leaf and makes tile and head fit.
    let leaf = [7u8; 32];
    let hashes: Vec<u8> = sqlx::query_scalar("SELECT hashes FROM signet.tiles").fetch_one(&pool).await.unwrap();
    let mut forged: Vec<[u8; 32]> = hashes.as_chunks::<32>().0.to_vec();
    forged[1] = leaf;
    sqlx::query("UPDATE signet.tiles SET hashes = $1").bind(forged.as_flattened()).execute(&pool).await.unwrap();
    let root = signet_audit::merkle::root_of(&forged);
    sqlx::query("UPDATE signet.logs SET root = $1").bind(root.as_slice()).execute(&pool).await.unwrap();
    let text = format!("{:#}", Service::start_as(config, ca).await.map(|_| ()).unwrap_err());
    assert!(text.contains("do not continue the signed checkpoint"), "{text}");
}
