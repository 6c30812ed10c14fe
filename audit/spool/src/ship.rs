//! Carries a spool to the audit service.
//!
//! One stream per connection: batches go out oldest epoch first, acknowledgements come back and delete segments.
//! Whatever goes wrong, the next connection begins behind the last acknowledgement, so that the audit service sees
//! every record at least once, under a key (producer, epoch, sequence) that lets it keep exactly one.

mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use signet_api::audit::{Ack, SpoolState};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use uuid::Uuid;

pub(crate) use wire::put_entry;
use wire::{Batches, Outgoing};

use crate::spool::{Cursor, Entries, Fetched, Shared, Spool, now_us};

/// The method of `signet.audit.v1.Ingest` that takes batches.
const STREAM: &str = "/signet.audit.v1.Ingest/Stream";
/// Most records in a batch.
const BATCH: usize = 500;
/// How long the first record of a batch waits for others.
const LINGER: Duration = Duration::from_millis(20);
/// Most batches sent and not acknowledged.
const WINDOW: usize = 32;
/// Without any acknowledgement for this long while some are due, the connection is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// An idle producer says this often that it is there; `silent_after_seconds` of the audit service is a few of it.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Between attempts: doubles from the first to the second, so that a recovered audit service is found within a second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(600));

/// Streams the spool to the audit service at `audit_addr` (`host:port`) over mTLS, oldest epoch first, and deletes
/// what was acknowledged as committed. Reconnects for ever; returns when `cancel` is cancelled, or when the spool is
/// closed and everything is acknowledged.
///
/// # Cancel safety
/// May be dropped at any time; what was not acknowledged is sent again by the next call.
pub async fn ship(spool: Spool, audit_addr: String, tls: Arc<rustls::ClientConfig>, cancel: CancellationToken) {
    let channel = signet_mtls::grpc::channel(&audit_addr, tls);
    ship_over(spool, channel, cancel).await;
}

/// As [`ship`], over a channel that exists. One shipper per spool at a time.
pub async fn ship_over(spool: Spool, channel: Channel, cancel: CancellationToken) {
    let shared = Arc::clone(&spool.shared);
    let mut wait = BACKOFF.0;
    let mut failures = 0_u64;
    while !shared.finished() {
        let connection = Connection::new(&shared);
        let ended = tokio::select! {
            () = cancel.cancelled() => return,
            ended = connection.run(channel.clone()) => ended,
        };
        if connection.progressed() {
            wait = BACKOFF.0;
            failures = 0;
        }
        match ended {
            Ended::Finished => return,
            Ended::Rejected(why) => {
                shared.counters.rejections.fetch_add(1, Ordering::Relaxed);
                tracing::error!(why, "the audit service refuses records; they are kept and offered again");
                wait = BACKOFF.1;
            }
            Ended::Lost(why) => {
                failures += 1;
                // The first failure and then a reminder, not a line for each attempt.
                if failures == 1 || failures.is_multiple_of(50) {
                    tracing::warn!(why, failures, "no stream to the audit service; records are kept in the spool");
                }
            }
        }
        let jittered = wait.mul_f64(0.75 + 0.5 * fastrand::f64());
        wait = (wait * 2).min(BACKOFF.1);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
    }
}

/// Why a connection ended.
enum Ended {
    /// The spool is closed and everything is acknowledged.
    Finished,
    /// The audit service answered with an error.
    Rejected(String),
    /// The connection broke, or fell silent.
    Lost(String),
}

/// A batch on its way: what must be acknowledged.
#[derive(Debug, Clone, Copy)]
struct Sent {
    epoch: Uuid,
    last: u64,
    closing: bool,
}

#[derive(Default)]
struct Window {
    sent: VecDeque<Sent>,
    progressed: bool,
}

struct Connection<'a> {
    shared: &'a Arc<Shared>,
    window: Mutex<Window>,
    /// Something left the window.
    moved: Notify,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared, window: Mutex::default(), moved: Notify::new() }
    }

    fn progressed(&self) -> bool {
        self.window.lock().progressed
    }

    async fn run(&self, channel: Channel) -> Ended {
        let (sender, receiver) = mpsc::channel(4);
        // Both at once: a server may answer the call only after it has seen the first batch.
        tokio::select! {
            ended = self.feed(sender) => ended,
            ended = self.listen(channel, receiver) => ended,
        }
    }

    async fn feed(&self, sender: mpsc::Sender<Outgoing>) -> Ended {
        let mut cursor = Cursor::default();
        loop {
            while self.window.lock().sent.len() >= WINDOW {
                self.moved.notified().await;
            }
            // Asked for before looking, so that an append in between is not missed.
            let appended = self.shared.appended.notified();
            match self.fetch(&mut cursor).await {
                Ok(Some(fetched)) => {
                    let full = fetched.entries.count >= BATCH;
                    let sent = Sent { epoch: fetched.epoch, last: fetched.last(), closing: fetched.closing };
                    self.window.lock().sent.push_back(sent);
                    if sender.send(batch(fetched, self.shared.state())).await.is_err() {
                        return Ended::Lost("the stream was closed".into());
                    }
                    if full {
                        continue;
                    }
                }
                Ok(None) if self.shared.finished() => return Ended::Finished,
                Ok(None) => match tokio::time::timeout(HEARTBEAT, appended).await {
                    Ok(()) => {}
                    Err(_) => {
                        if let Some(heartbeat) = self.heartbeat(&cursor)
                            && sender.send(heartbeat).await.is_err()
                        {
                            return Ended::Lost("the stream was closed".into());
                        }
                        continue;
                    }
                },
                Err(error) => return Ended::Lost(format!("cannot read the spool: {error}")),
            }
            tokio::time::sleep(LINGER).await;
        }
    }

    /// Says that the producer is there, when it has nothing to send.
    fn heartbeat(&self, cursor: &Cursor) -> Option<Outgoing> {
        let (epoch, next) = cursor.idle_at()?;
        self.window.lock().sent.push_back(Sent { epoch, last: next - 1, closing: false });
        let nothing = Fetched { epoch, first: next, entries: Entries::default(), closing: false };
        Some(batch(nothing, self.shared.state()))
    }

    /// Reads the next batch where blocking on files is allowed.
    async fn fetch(&self, cursor: &mut Cursor) -> std::io::Result<Option<Fetched>> {
        let shared = Arc::clone(self.shared);
        let mut moved = std::mem::take(cursor);
        let read = tokio::task::spawn_blocking(move || {
            let fetched = shared.fetch(&mut moved, BATCH);
            (fetched, moved)
        });
        let (fetched, moved) = read.await.map_err(std::io::Error::other)?;
        *cursor = moved;
        fetched
    }

    async fn listen(&self, channel: Channel, batches: mpsc::Receiver<Outgoing>) -> Ended {
        let mut client = Grpc::new(channel);
        if let Err(error) = client.ready().await {
            return Ended::Lost(format!("not ready: {error}"));
        }
        let request = tonic::Request::new(ReceiverStream::new(batches));
        let mut acks = match client.streaming(request, PathAndQuery::from_static(STREAM), Batches).await {
            Ok(response) => response.into_inner(),
            Err(status) => return ended_by(&status),
        };
        loop {
            let ack = match tokio::time::timeout(SILENCE, acks.message()).await {
                Ok(Ok(Some(ack))) => ack,
                Ok(Ok(None)) => return Ended::Lost("the audit service ended the stream".into()),
                Ok(Err(status)) => return ended_by(&status),
                Err(_) if self.window.lock().sent.is_empty() => continue,
                Err(_) => return Ended::Lost(format!("no acknowledgement for {} s", SILENCE.as_secs())),
            };
            if !ack.error.is_empty() {
                return Ended::Rejected(ack.error);
            }
            if let Err(why) = self.acknowledged(&ack) {
                return Ended::Rejected(why);
            }
            if self.shared.finished() {
                return Ended::Finished;
            }
        }
    }

    fn acknowledged(&self, ack: &Ack) -> Result<(), String> {
        let epoch = Uuid::from_slice(&ack.epoch)
            .map_err(|_| format!("an acknowledgement names an epoch of {} bytes, not 16", ack.epoch.len()))?;
        self.shared.acknowledge(epoch, ack.committed, ack.closed);
        let mut window = self.window.lock();
        let before = window.sent.len();
        window.sent.retain(|sent| sent.epoch != epoch || sent.last > ack.committed || (sent.closing && !ack.closed));
        window.progressed |= window.sent.len() < before;
        drop(window);
        self.moved.notify_one();
        Ok(())
    }
}

fn batch(fetched: Fetched, spool: SpoolState) -> Outgoing {
    Outgoing {
        epoch: fetched.epoch,
        first: fetched.first,
        entries: fetched.entries.bytes,
        sent_at_us: now_us(),
        closing: fetched.closing,
        spool,
    }
}

/// A status that no other connection would change is the audit service's refusal; the rest is a lost stream.
fn ended_by(status: &tonic::Status) -> Ended {
    use tonic::Code;
    let why = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => {
            Ended::Rejected(why)
        }
        _ => Ended::Lost(why),
    }
}

#[cfg(test)]
mod tests;
