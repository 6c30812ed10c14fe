//! What is ingested: decisions as sidecars make them, in batches as their spools send them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signet_api::audit::Batch;
use signet_api::audit::ingest_client::IngestClient;
use signet_spool::{Kind, Record, Salts};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::place::Service;

/// As the shipper's.
const BATCH: usize = 500;
const WINDOW: usize = 32;
const PRODUCERS: [&str; 4] = ["web", "ledger", "payments", "fraud"];

/// The batches of every producer.
pub(crate) struct Load {
    batches: Vec<(String, Vec<Batch>)>,
    records: usize,
    bytes: usize,
}

/// SPIFFE ID of the sidecar of a workload.
pub(crate) fn producer(workload: &str) -> String {
    format!("spiffe://east.bank.example/ns/bank/proxy/{workload}")
}

/// The `number`th decision of a sidecar.
pub(crate) fn decision(workload: &str, number: usize) -> Record {
    let route = number % 7;
    Record {
        id: Uuid::now_v7(),
        time_us: jiff::Timestamp::now().as_microsecond(),
        kind: Kind::Decision,
        producer: producer(workload),
        source_spiffe_id: Some(format!("spiffe://east.bank.example/ns/bank/sa/caller-{}", number % 5)),
        destination_spiffe_id: Some(format!("spiffe://east.bank.example/ns/bank/sa/{workload}")),
        destination_service: format!("east.bank.example/bank/{workload}"),
        action: ["http:GET", "http:GET", "http:POST"].get(number % 3).copied().unwrap_or_default().to_owned(),
        path: Some(format!("/accounts/{}", number % 10_000)),
        allow: !number.is_multiple_of(20),
        policy_ids: vec![format!("policies/{workload}.cedar#route-{route}").into()],
        policy_commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        bundle_digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".to_owned(),
        reason: if number.is_multiple_of(20) { "forbidden" } else { "permitted" }.to_owned(),
        source_address: Some(format!("10.0.{}.{}:{}", number % 4, number % 250, 30_000 + number % 2_000)),
        tls: "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384".to_owned(),
        trace_id: Some(format!("{:032x}", fastrand::u128(..))),
        latency_us: Some(40 + number as u64 % 200),
        context: vec![
            ("host".to_owned(), format!("{workload}.bank.svc.cluster.local")),
            ("src_cluster".to_owned(), "east.bank.example".to_owned()),
            ("dst_cluster".to_owned(), "east.bank.example".to_owned()),
            ("dst_port".to_owned(), "80".to_owned()),
        ],
        ..Record::default()
    }
}

impl Load {
    /// Makes `records` decisions, evenly of all producers.
    pub(crate) fn make(records: usize) -> Result<Self> {
        let (mut salts, mut bytes, mut made) = (Salts::new(), 0, 0);
        let mut batches = Vec::new();
        for (index, workload) in PRODUCERS.into_iter().enumerate() {
            let share = records / PRODUCERS.len() + usize::from(index < records % PRODUCERS.len());
            let mut entries = Vec::with_capacity(share);
            for number in 0..share {
                let encoded = decision(workload, number).encode(&mut salts)?;
                bytes += encoded.canonical.len();
                entries.push(encoded.into());
            }
            made += entries.len();
            let mut first_sequence = 1;
            let of_it = entries.chunks(BATCH).map(|chunk| {
                let batch = Batch { first_sequence, entries: chunk.to_vec(), ..Batch::default() };
                first_sequence += chunk.len() as u64;
                batch
            });
            batches.push((producer(workload), of_it.collect()));
        }
        Ok(Self { batches, records: made, bytes })
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    pub(crate) fn mean_bytes(&self) -> usize {
        self.bytes / self.records.max(1)
    }

    /// Sends everything, all producers at once, under epochs of their own; the time until the last acknowledgement.
    pub(crate) async fn send(&self, service: &Service) -> Result<Duration> {
        let mut streams = Vec::new();
        for (producer, batches) in &self.batches {
            let (sender, receiver) = mpsc::channel(1);
            let mut client = IngestClient::new(service.channel(producer));
            let acks = client.stream(ReceiverStream::new(receiver)).await?.into_inner();
            streams.push((batches.clone(), sender, acks));
        }
        let started = Instant::now();
        let mut tasks: JoinSet<Result<()>> = JoinSet::new();
        for (batches, sender, mut acks) in streams {
            tasks.spawn(async move {
                let epoch = Uuid::now_v7().as_bytes().to_vec();
                let mut waiting = 0;
                for batch in batches {
                    if waiting == WINDOW {
                        acknowledged(acks.message().await?)?;
                        waiting -= 1;
                    }
                    let sent_at_us = jiff::Timestamp::now().as_microsecond();
                    let batch = Batch { epoch: epoch.clone(), sent_at_us, ..batch };
                    sender.send(batch).await.context("the stream ended")?;
                    waiting += 1;
                }
                while waiting > 0 {
                    acknowledged(acks.message().await?)?;
                    waiting -= 1;
                }
                Ok(())
            });
        }
        while let Some(ended) = tokio::time::timeout(super::PATIENCE, tasks.join_next()).await? {
            ended??;
        }
        Ok(started.elapsed())
    }
}

fn acknowledged(ack: Option<signet_api::audit::Ack>) -> Result<()> {
    match ack {
        Some(ack) if ack.error.is_empty() => Ok(()),
        Some(ack) => bail!("refused: {}", ack.error),
        None => bail!("the stream ended before the last acknowledgement"),
    }
}
