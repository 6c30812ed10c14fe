//! A producer that delivers its batches out of order and more than once, over streams that come and go.

use std::time::Duration;

use signet_api::audit::ingest_client::IngestClient;
use signet_api::audit::{Batch, Entry};
use signet_spool::Salts;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::books::Books;
use crate::children::{decision, decision_id};
use crate::plan::{HOSTILE_DECISIONS, PRODUCERS};

/// Its number among the producers.
pub const INDEX: usize = PRODUCERS;
/// Batches that are mixed with each other.
const MIXED: usize = 6;
/// An answer that does not come within this is given up, and the batch is sent again.
const SILENCE: Duration = Duration::from_secs(10);

fn entry(seed: u64, number: u64, salts: &mut Salts) -> Entry {
    decision(seed, INDEX, number).encode(salts).unwrap().into()
}

/// Delivers everything and closes its epoch; whatever it made was kept.
pub async fn deliver(seed: u64, channel: Channel) -> Books {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5bd1_e995);
    let (mut salts, epoch) = (Salts::new(), Uuid::now_v7().as_bytes().to_vec());
    let mut batches = Vec::new();
    let mut next = 1;
    while next <= HOSTILE_DECISIONS {
        let last = (next + random.u64(0..40)).min(HOSTILE_DECISIONS);
        let entries = (next..=last).map(|number| entry(seed, number, &mut salts)).collect();
        batches.push(Batch { epoch: epoch.clone(), first_sequence: next, entries, ..Batch::default() });
        next = last + 1;
    }
    for window in batches.chunks(MIXED) {
        let mut open: Vec<usize> = (0..window.len()).collect();
        while !open.is_empty() {
            let mut order: Vec<usize> = open.iter().flat_map(|index| vec![*index; random.usize(1..=3)]).collect();
            random.shuffle(&mut order);
            for done in send(&channel, order.iter().map(|index| window[*index].clone())).await {
                open.retain(|index| *index != order[done]);
            }
        }
    }
    let closing = Batch { epoch, first_sequence: HOSTILE_DECISIONS + 1, closing: true, ..Batch::default() };
    while send(&channel, std::iter::once(closing.clone())).await.is_empty() {}
    let kept = (1..=HOSTILE_DECISIONS).map(|number| decision_id(seed, INDEX, number)).collect();
    Books { kept, ..Books::default() }
}

/// Sends batches over a new stream; the places of those that were acknowledged.
async fn send(channel: &Channel, batches: impl Iterator<Item = Batch>) -> Vec<usize> {
    let batches: Vec<Batch> = batches.collect();
    let (sender, receiver) = mpsc::channel(batches.len());
    let count = batches.len();
    for batch in batches {
        let sent_at_us = jiff::Timestamp::now().as_microsecond();
        sender.send(Batch { sent_at_us, ..batch }).await.unwrap();
    }
    drop(sender);
    let mut done = Vec::new();
    let stream = async {
        let mut acks = IngestClient::new(channel.clone()).stream(ReceiverStream::new(receiver)).await?.into_inner();
        while done.len() < count {
            let Some(ack) = acks.message().await? else { break };
            assert_eq!(ack.error, "", "the hostile producer repeats itself and contradicts nothing");
            done.push(done.len());
        }
        Ok::<(), tonic::Status>(())
    };
    if !matches!(tokio::time::timeout(SILENCE, stream).await, Ok(Ok(()))) {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    done
}
