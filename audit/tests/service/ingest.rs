//! What is taken, what is not, and what is said about it.

use signet_api::audit::ingest_client::IngestClient;
use signet_api::audit::{BundleFile, PutBundleRequest};
use signet_audit::query;
use signet_audit::testing::Postgres;
use signet_mtls::testing::Ca;
use tonic::Code;
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, config, entries, entry, record};

#[tokio::test(flavor = "multi_thread")]
async fn redelivery_is_stored_once_conflicts_and_gaps_are_recorded() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let epoch = Uuid::now_v7();
    let first = entries(1..=10);
    let mut producer = service.producer(WEB).await.unwrap();
    let ack = producer.send(batch(epoch, 1, first.clone())).await;
    assert_eq!((ack.committed, ack.error.as_str()), (10, ""));
    assert_eq!(service.decisions().await, 10);

    // The same again over a new stream, with news behind it.
    let mut again = first.clone();
    again.extend(entries(11..=15));
    let mut producer = service.producer(WEB).await.unwrap();
    assert_eq!(producer.send(batch(epoch, 1, again)).await.committed, 15);
    assert_eq!(service.decisions().await, 15);

    // Other bytes under sequence 3.
    let ack = producer.send(batch(epoch, 3, entries(3..=3))).await;
    assert_eq!(ack.committed, 0);
    assert!(ack.error.contains("other bytes"), "{}", ack.error);
    let conflicts = service.events("audit:conflict").await;
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].subject.as_deref(), Some(WEB));

    // A jump: 16 to 19 never came. Then 17 does, late.
    let mut producer = service.producer(WEB).await.unwrap();
    assert_eq!(producer.send(batch(epoch, 20, entries(20..=20))).await.committed, 20);
    let gaps = service.events("audit:gap").await;
    assert_eq!((gaps.len(), gaps[0].count, gaps[0].kind.as_str()), (1, 4, "gap"));
    assert_eq!(query::logs(&service.pool).await.unwrap()[0].missing, 4);
    assert_eq!(producer.send(batch(epoch, 17, entries(17..=17))).await.committed, 17);
    assert_eq!(query::logs(&service.pool).await.unwrap()[0].missing, 3);
    assert_eq!(service.decisions().await, 17);

    // The end of the epoch, after which nothing is taken.
    let mut end = batch(epoch, 21, Vec::new());
    end.closing = true;
    let ack = producer.send(end).await;
    assert!(ack.closed && ack.error.is_empty(), "{ack:?}");
    assert!(producer.send(batch(epoch, 21, entries(21..=21))).await.error.contains("closed"));
    let epochs = query::epochs(&service.pool).await.unwrap();
    assert!(epochs.iter().any(|known| known.epoch == epoch && known.closed && known.watermark == 20));

    let report = service.verify_at(19).await;
    assert!(report.holds(), "{:?}", report.problems);
    assert_eq!(report.records, 19);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_send_only_their_own_records_and_only_to_their_own_log() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    // A workload is no producer, whatever it sends.
    let refused = service.producer("spiffe://east.bank.example/ns/bank/sa/web").await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // A sidecar cannot speak for another.
    let mut producer = service.producer("spiffe://east.bank.example/ns/bank/proxy/ledger").await.unwrap();
    let ack = producer.send(batch(Uuid::now_v7(), 1, entries(1..=1))).await;
    assert!(ack.error.contains("the stream is of"), "{}", ack.error);
    // Nor continue the epoch of another.
    let epoch = Uuid::now_v7();
    assert_eq!(service.producer(WEB).await.unwrap().send(batch(epoch, 1, entries(1..=1))).await.committed, 1);
    let ledger = "spiffe://east.bank.example/ns/bank/proxy/ledger";
    let mut producer = service.producer(ledger).await.unwrap();
    let ack = producer.send(batch(epoch, 2, vec![entry(&record(ledger, 2))])).await;
    assert!(ack.error.contains("another producer"), "{}", ack.error);
    // Garbage ends its own stream only.
    let mut producer = service.producer(WEB).await.unwrap();
    let garbage = signet_api::audit::Entry { canonical: vec![0xff; 100], openings: Vec::new() };
    assert!(producer.send(batch(epoch, 2, vec![garbage])).await.error.contains("is not a record"));
    assert_eq!(service.producer(WEB).await.unwrap().send(batch(epoch, 2, entries(2..=2))).await.committed, 2);
    assert_eq!(service.decisions().await, 2);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_strings_and_clocks_are_stored_safely() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let mut nul = record(WEB, 1);
    nul.path = Some("/a\0b'; DROP TABLE signet.records; --".to_owned());
    nul.reason = "=cmd|'/c calc'!A1\0".to_owned();
    nul.policy_ids = vec!["a\nb".into(), "c".into()];
    nul.detail = Some("\u{1b}[31m\0".to_owned());
    nul.trace_id = Some("f".repeat(32));
    let mut early = record(WEB, 2);
    early.time_us = i64::MIN;
    let mut late = record(WEB, 3);
    late.time_us = i64::MAX;
    late.count = u64::MAX;
    late.latency_us = Some(u64::MAX);
    let mut long = record(WEB, 4);
    long.destination_service = "s".repeat(4_000);
    let hostile = [&nul, &early, &late, &long].map(entry).to_vec();
    let mut producer = service.producer(WEB).await.unwrap();
    let ack = producer.send(batch(Uuid::now_v7(), 1, hostile)).await;
    assert_eq!((ack.committed, ack.error.as_str()), (4, ""));
    let full = query::by_id(&service.pool, nul.id).await.unwrap().unwrap();
    assert_eq!(full.record.path, nul.path, "the canonical bytes keep what came");
    assert_eq!(full.row.policy_ids, ["a b", "c"]);
    assert_eq!(query::decisions(&service.pool, &Default::default(), None, 10).await.unwrap().rows.len(), 4);
    let report = service.verify_at(4).await;
    assert!(report.holds(), "{:?}", report.problems);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_kept_only_under_its_own_digest_and_from_the_control_plane() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let source = signet_policy::BundleSource {
        commit: "c1".to_owned(),
        signer: "alice".to_owned(),
        files: [("policies/a.cedar".to_owned(), "// nothing".to_owned())].into(),
    };
    let request = |digest: &str| PutBundleRequest {
        commit: source.commit.clone(),
        digest: digest.to_owned(),
        signer: source.signer.clone(),
        files: source
            .files
            .iter()
            .map(|(path, content)| BundleFile { path: path.clone(), content: content.clone() })
            .collect(),
    };
    let control = service.channel("spiffe://east.bank.example/signet/control");
    let mut control = IngestClient::new(control);
    let wrong = control.put_bundle(request("sha256:00")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    for _ in 0..2 {
        control.put_bundle(request(&source.digest())).await.unwrap();
    }
    let kept = query::bundle(&service.pool, &source.digest()).await.unwrap().unwrap();
    assert_eq!(kept.source("c1"), source);
    let mut proxy = IngestClient::new(service.channel(WEB));
    assert_eq!(proxy.put_bundle(request(&source.digest())).await.unwrap_err().code(), Code::PermissionDenied);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_two_clusters_start_at_once_in_one_database() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let start = |domain: &str| Service::start_as(config(&postgres, directory.path(), domain), Ca::new(domain));
    let (east, west) = tokio::join!(start("east.bank.example"), start("west.bank.example"));
    let (east, west) = (east.unwrap(), west.unwrap());
    let fraud = "spiffe://west.bank.example/ns/bank/proxy/fraud";
    let epoch = Uuid::now_v7();
    let west_batch = batch(epoch, 1, vec![entry(&record(fraud, 1))]);
    // Even the same epoch may be used in both: they are different logs.
    assert_eq!(west.producer(fraud).await.unwrap().send(west_batch).await.committed, 1);
    assert_eq!(east.producer(WEB).await.unwrap().send(batch(epoch, 1, entries(1..=2))).await.committed, 2);
    let by_log: Vec<(String, i64)> = sqlx::query_as("SELECT log, count(*) FROM decisions GROUP BY log ORDER BY log")
        .fetch_all(&east.pool)
        .await
        .unwrap();
    assert_eq!(
        by_log,
        [("east.bank.example/signet-log".to_owned(), 2), ("west.bank.example/signet-log".to_owned(), 1)]
    );
    assert!(east.verify_at(2).await.holds());
    assert!(west.verify_at(1).await.holds());
    east.stop(true).await;
    west.stop(true).await;
}
