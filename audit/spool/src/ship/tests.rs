//! The shipper against an audit service that is slow, forgetful, repetitive, hostile or away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;

use signet_api::audit::ingest_server::{Ingest, IngestServer};
use signet_api::audit::{Batch, PutBundleRequest, PutBundleResponse};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::record::Record;
use crate::spool::{Durability, OnFull, SpoolConfig};
use crate::testing::decode;

const PRODUCER: &str = "spiffe://td/ns/bank/proxy/web";

/// What was committed, under (epoch, sequence), and how the fake behaves.
#[derive(Default)]
struct Store {
    committed: BTreeMap<(Uuid, u64), Vec<u8>>,
    watermarks: BTreeMap<Uuid, u64>,
    closed: Vec<Uuid>,
    redelivered: u64,
    batches: u64,
    conflicts: u64,
    gaps: u64,
    misbehave: bool,
    reject: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Store>>);

impl Store {
    fn commit(&mut self, batch: &Batch) -> Ack {
        let epoch = Uuid::from_slice(&batch.epoch).unwrap();
        let watermark = self.watermarks.entry(epoch).or_default();
        self.gaps += u64::from(batch.first_sequence > *watermark + 1);
        for (sequence, entry) in (batch.first_sequence..).zip(&batch.entries) {
            *watermark = sequence.max(*watermark);
            match self.committed.insert((epoch, sequence), entry.canonical.clone()) {
                Some(before) if before != entry.canonical => self.conflicts += 1,
                Some(_) => self.redelivered += 1,
                None => {}
            }
        }
        if batch.closing {
            self.closed.push(epoch);
        }
        Ack {
            epoch: batch.epoch.clone(),
            committed: *watermark,
            closed: self.closed.contains(&epoch),
            ..Ack::default()
        }
    }
}

#[tonic::async_trait]
impl Ingest for Fake {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>>;

    async fn stream(&self, request: Request<Streaming<Batch>>) -> Result<Response<Self::StreamStream>, Status> {
        let store = Arc::clone(&self.0);
        let mut batches = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(batch)) = batches.next().await {
                let (ack, number, misbehave) = {
                    let mut store = store.lock();
                    if store.reject {
                        let ack = Ack { error: "no".into(), ..Ack::default() };
                        (ack, 0, false)
                    } else {
                        store.batches += 1;
                        (store.commit(&batch), store.batches, store.misbehave)
                    }
                };
                // Committed all the same: some acknowledgements are lost with the connection, some come twice.
                if misbehave && number % 3 == 0 {
                    let _ = sender.send(Err(Status::unavailable("cut"))).await;
                    return;
                }
                let rejected = !ack.error.is_empty();
                for _ in 0..if misbehave && number % 2 == 0 { 2 } else { 1 } {
                    let _ = sender.send(Ok(ack.clone())).await;
                }
                if rejected {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn put_bundle(&self, _: Request<PutBundleRequest>) -> Result<Response<PutBundleResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

impl Fake {
    async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        tonic::transport::Server::builder()
            .add_service(IngestServer::new(self.clone()))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
            .await
            .unwrap();
    }

    fn reasons(&self) -> Vec<String> {
        let store = self.0.lock();
        let entry = |canonical: &Vec<u8>| signet_api::audit::Entry { canonical: canonical.clone(), openings: vec![] };
        store.committed.values().map(|canonical| decode(&entry(canonical)).reason).collect()
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("waited for: {what}"));
}

fn spool(dir: &std::path::Path) -> Spool {
    let config =
        SpoolConfig { dir: dir.into(), durability: Durability::Disk, on_full: OnFull::Deny, max_bytes: 16 << 20 };
    Spool::open(config, PRODUCER).unwrap()
}

fn append(spool: &Spool, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let record = Record { producer: PRODUCER.into(), reason: number.to_string(), ..Record::default() };
        spool.append(&record).unwrap();
    }
}

fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn every_record_arrives_once_though_acknowledgements_are_lost_and_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.0.lock().misbehave = true;
    let (listener, address) = listener().await;
    let stop = CancellationToken::new();
    let spool = spool(dir.path());
    append(&spool, 1..=3_000);
    let server = fake.serve(listener, stop.clone());
    let test = async {
        let shipping = ship_over(spool.clone(), channel(address), stop.clone());
        let more = async {
            for number in 3_001..=3_200 {
                append(&spool, number..=number);
                tokio::task::yield_now().await;
            }
            spool.close().unwrap();
            assert!(spool.drain(Duration::from_secs(30)).await, "not drained: {:?}", spool.stats());
        };
        tokio::join!(shipping, more);
        stop.cancel();
    };
    tokio::join!(server, test);
    assert_eq!(fake.reasons(), numbers(1..=3_200));
    let store = fake.0.lock();
    assert_eq!((store.conflicts, store.gaps), (0, 0));
    assert!(store.redelivered > 0, "nothing was lost on the way, so nothing was tested");
    assert_eq!(spool.stats().acked, 3_200);
    drop(spool);
}

#[tokio::test]
async fn records_wait_for_an_audit_service_that_is_away_and_older_epochs_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let old = spool(dir.path());
    append(&old, 1..=700);
    drop(old);
    let spool = spool(dir.path());
    append(&spool, 1_000..=1_010);
    let (listener, address) = listener().await;
    drop(listener);
    let stop = CancellationToken::new();
    let fake = Fake::default();
    let shipping = ship_over(spool.clone(), channel(address), stop.clone());
    let test = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(spool.stats().acked, 0);
        let listener = TcpListener::bind(address).await.unwrap();
        let back = std::time::Instant::now();
        let watch = async {
            eventually("all acknowledged", || spool.stats().unacked == 0).await;
            assert!(back.elapsed() < Duration::from_secs(1), "recovered after {:?}", back.elapsed());
            append(&spool, 1_011..=1_011);
            let sent = std::time::Instant::now();
            eventually("a live record", || spool.stats().unacked == 0).await;
            assert!(sent.elapsed() < Duration::from_millis(500), "{:?}", sent.elapsed());
            stop.cancel();
        };
        tokio::join!(fake.serve(listener, stop.clone()), watch);
    };
    tokio::join!(shipping, test);
    let expected = [numbers(1..=700), vec!["spool_recovered".into()], numbers(1_000..=1_011)].concat();
    assert_eq!(fake.reasons(), expected);
    assert_eq!(fake.0.lock().closed.len(), 1, "only the old epoch is closed");
}

#[tokio::test]
async fn a_refusing_audit_service_costs_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    append(&spool, 1..=10);
    let fake = Fake::default();
    fake.0.lock().reject = true;
    let (listener, address) = listener().await;
    let stop = CancellationToken::new();
    let test = async {
        eventually("a rejection", || spool.stats().rejections > 0).await;
        assert_eq!(spool.stats().unacked, 10);
        fake.0.lock().reject = false;
        eventually("all acknowledged", || spool.stats().unacked == 0).await;
        stop.cancel();
    };
    tokio::join!(fake.serve(listener, stop.clone()), ship_over(spool.clone(), channel(address), stop.clone()), test);
    assert_eq!(fake.reasons(), numbers(1..=10));
}

#[tokio::test]
async fn acknowledged_segments_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    append(&spool, 1..=20_000);
    let before = spool.stats();
    assert!(before.segments >= 2, "{before:?}");
    let fake = Fake::default();
    let (listener, address) = listener().await;
    let stop = CancellationToken::new();
    let test = async {
        eventually("one segment", || spool.stats().segments == 1 && spool.stats().bytes <= 4 << 20).await;
        stop.cancel();
    };
    tokio::join!(fake.serve(listener, stop.clone()), ship_over(spool.clone(), channel(address), stop.clone()), test);
}

#[tokio::test]
async fn an_empty_spool_that_is_closed_ends_the_shipper() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let fake = Fake::default();
    let (listener, address) = listener().await;
    let stop = CancellationToken::new();
    let test = async {
        tokio::task::yield_now().await;
        spool.close().unwrap();
    };
    let ended = async {
        tokio::join!(ship_over(spool.clone(), channel(address), CancellationToken::new()), test);
        stop.cancel();
    };
    let all = async { tokio::join!(fake.serve(listener, stop.clone()), ended) };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
}

#[tokio::test]
async fn an_idle_producer_says_that_it_is_there_once_it_has_said_anything() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let fake = Fake::default();
    let (listener, address) = listener().await;
    let stop = CancellationToken::new();
    let test = async {
        append(&spool, 1..=2);
        eventually("two heartbeats", || fake.0.lock().batches >= 3).await;
        let store = fake.0.lock();
        assert_eq!((store.committed.len(), store.redelivered, store.gaps), (2, 0, 0));
        stop.cancel();
    };
    tokio::join!(fake.serve(listener, stop.clone()), ship_over(spool.clone(), channel(address), stop.clone()), test);
}
