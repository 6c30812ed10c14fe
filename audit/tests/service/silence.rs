//! A producer that stops without a word is told from one that has nothing to say.

use signet_audit::query;
use signet_audit::testing::Postgres;
use signet_mtls::testing::Ca;
use signet_spool::{Spool, SpoolConfig, ship_over};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, config, entries, record, until};

const IDLE: &str = "spiffe://east.bank.example/ns/bank/proxy/ledger";

fn epoch_of(event: &query::EventRow) -> Uuid {
    let detail: serde_json::Value = serde_json::from_str(event.detail.as_deref().unwrap()).unwrap();
    serde_json::from_value(detail["epoch"].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_stops_unclosed_is_a_gap_until_it_speaks_again_and_an_idle_one_is_none() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&postgres, directory.path(), "east.bank.example");
    config.silent_after_seconds = 7;
    let service = Service::start_as(config, Ca::new("east.bank.example")).await.unwrap();

    // Idle from here on, with a real spool and its shipper.
    let spool = Spool::open(SpoolConfig::at(directory.path().join("spool")), IDLE).unwrap();
    let stop = CancellationToken::new();
    let shipping = tokio::spawn(ship_over(spool.clone(), service.channel(IDLE), stop.clone()));
    spool.append(&record(IDLE, 1)).unwrap();
    until("the idle producer's record", || async { service.decisions().await == 1 }).await;

    let (killed, closed) = (Uuid::now_v7(), Uuid::now_v7());
    let mut producer = service.producer(WEB).await.unwrap();
    assert_eq!(producer.send(batch(killed, 1, entries(1..=3))).await.committed, 3);
    let end = signet_api::audit::Batch { closing: true, ..batch(closed, 1, entries(1..=2)) };
    assert!(producer.send(end).await.closed);
    drop(producer);

    until("the silence", || async { !service.events("audit:silent").await.is_empty() }).await;
    let silences = service.events("audit:silent").await;
    assert_eq!(silences.len(), 1, "neither the idle nor the closed one: {silences:?}");
    let silence = &silences[0];
    assert_eq!((epoch_of(silence), silence.kind.as_str(), silence.reason.as_str()), (killed, "gap", "epoch_silent"));
    assert_eq!((silence.subject.as_deref(), silence.succeeded, silence.count), (Some(WEB), false, 0));
    until("the mark", || async { query::logs(&service.pool).await.unwrap()[0].silent_epochs == 1 }).await;
    let epochs = query::epochs(&service.pool).await.unwrap();
    let marked: Vec<Uuid> =
        epochs.iter().filter(|epoch| epoch.silent_since_us.is_some()).map(|epoch| epoch.epoch).collect();
    assert_eq!(marked, [killed]);

    // It comes back with what it still had.
    let mut producer = service.producer(WEB).await.unwrap();
    assert_eq!(producer.send(batch(killed, 4, entries(4..=5))).await.committed, 5);
    until("its return", || async { query::logs(&service.pool).await.unwrap()[0].silent_epochs == 0 }).await;
    let heard = service.events("audit:heard").await;
    assert_eq!(heard.len(), 1);
    assert_eq!((epoch_of(&heard[0]), heard[0].reason.as_str()), (killed, "epoch_resumed"));
    assert_eq!(service.events("audit:silent").await.len(), 1, "recorded once");
    assert!(service.events("audit:gap").await.is_empty(), "a heartbeat is no jump");

    stop.cancel();
    shipping.await.unwrap();
    service.stop(true).await;
}
