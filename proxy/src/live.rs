//! The proxy's side of the Live stream: what it counts and which calls it sees, for as long as somebody watches.
//!
//! The proxy opens the stream, so that watching needs no listener of its own, and sends nothing that the control plane does
//! not want at the moment. A control plane that reads slowly slows this task and nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use signet_api::control as wire;
use signet_api::control::live_client::LiveClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::debug;

use crate::flow::{BOUNDS_US, Counts, Decided, Flow, Flows};
use crate::tap::Taps;

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Calls that wait for the control plane.
const WAITING: usize = 1_024;
/// Calls in one message.
const BATCH: usize = 64;
/// How soon drops are told.
const DROPS: Duration = Duration::from_millis(500);
/// However often flows are wanted.
const SOONEST: Duration = Duration::from_millis(200);

/// What a proxy can show.
pub struct Live {
    flows: Arc<Flows>,
    taps: Arc<Taps>,
}

impl Live {
    #[must_use]
    pub fn new(flows: Arc<Flows>, taps: Arc<Taps>) -> Self {
        Self { flows, taps }
    }

    /// Runs until cancelled. `channel` reconnects by itself.
    pub async fn run(self, channel: Channel, cancel: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let since = Instant::now();
            let ended = cancel.run_until_cancelled(self.attach(channel.clone())).await;
            // Nobody reads what taps show any more.
            self.taps.set(&[], &mpsc::channel(1).0);
            let Some(ended) = ended else { return };
            debug!(error = %ended, "the live stream ended");
            backoff = if since.elapsed() > BACKOFF_MAX { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
            let pause = tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0));
            if cancel.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn attach(&self, channel: Channel) -> tonic::Status {
        let (sightings, outgoing) = mpsc::channel(4);
        let mut wanted = match LiveClient::new(channel).attach(ReceiverStream::new(outgoing)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        let (queue, mut calls) = mpsc::channel(WAITING);
        let mut reports: Option<Reports> = None;
        let mut drops = tokio::time::interval(DROPS);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = reports.as_ref().map(|reports| reports.due);
            let message = tokio::select! {
                message = wanted.message() => match message {
                    Ok(Some(all)) => {
                        self.taps.set(&all.taps, &queue);
                        reports = Reports::wanted(reports, all.flows_every_ms, &self.flows, Instant::now());
                        continue;
                    }
                    Ok(None) => return tonic::Status::unavailable("the control plane ended the stream"),
                    Err(status) => return status,
                },
                _ = calls.recv_many(&mut batch, BATCH) => {
                    wire::Sightings { calls: std::mem::take(&mut batch), ..wire::Sightings::default() }
                }
                _ = drops.tick(), if self.taps.is_on() => {
                    let drops = self.taps.drops();
                    if drops.is_empty() {
                        continue;
                    }
                    wire::Sightings { drops, ..wire::Sightings::default() }
                }
                () = until(due) => {
                    let flows = reports.as_mut().map(|reports| reports.next(&self.flows, Instant::now()));
                    wire::Sightings { flows, ..wire::Sightings::default() }
                }
            };
            if sightings.send(message).await.is_err() {
                return tonic::Status::unavailable("the control plane closed its side");
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What flows counted from one report to the next.
struct Reports {
    every: Duration,
    since: Instant,
    due: Instant,
    /// By the flow's address: none is dropped while the proxy runs.
    before: HashMap<usize, Counts>,
}

impl Reports {
    /// Goes on as before when that is wanted again, so that no window is cut short.
    fn wanted(before: Option<Self>, every_ms: u32, flows: &Flows, now: Instant) -> Option<Self> {
        if every_ms == 0 {
            return None;
        }
        let every = Duration::from_millis(every_ms.into()).max(SOONEST);
        if before.as_ref().is_some_and(|reports| reports.every == every) {
            return before;
        }
        let counts = flows.all().into_iter().map(|flow| (address(&flow), flow.counts()));
        Some(Self { every, since: now, due: now + every, before: counts.collect() })
    }

    fn next(&mut self, flows: &Flows, now: Instant) -> wire::FlowReport {
        let window_us = u64::try_from(now.duration_since(self.since).as_micros()).unwrap_or(u64::MAX);
        (self.since, self.due) = (now, now + self.every);
        let mut changed = Vec::new();
        for flow in flows.all() {
            let counts = flow.counts();
            let before = self.before.insert(address(&flow), counts.clone()).unwrap_or_default();
            if counts != before {
                changed.push(change(&flow, &counts, &before));
            }
        }
        wire::FlowReport { window_us, flows: changed, bounds_us: BOUNDS_US.to_vec() }
    }
}

fn address(flow: &Arc<Flow>) -> usize {
    Arc::as_ptr(flow).addr()
}

fn change(flow: &Flow, now: &Counts, before: &Counts) -> wire::FlowCounts {
    let key = flow.key();
    let denied = Decided::Deny as usize;
    let denials = |counts: &Counts| counts.answered.get(denied).map_or(0, |classes| classes.iter().sum());
    let connections_denied = |counts: &Counts| counts.connections.get(denied).copied().unwrap_or_default();
    let since = |of: &dyn Fn(&Counts) -> u64| of(now).saturating_sub(of(before));
    wire::FlowCounts {
        direction: key.direction.as_str().to_owned(),
        source: key.source.to_owned(),
        destination: key.destination.to_owned(),
        route: key.route.to_owned(),
        requests: since(&Counts::requests),
        denied: since(&denials),
        failed: since(&|counts| counts.failed),
        durations: now.durations.iter().zip(before.durations).map(|(now, before)| now.saturating_sub(before)).collect(),
        connections: since(&|counts| counts.connections.iter().sum()),
        connections_denied: since(&connections_denied),
        received_bytes: since(&|counts| counts.received),
        sent_bytes: since(&|counts| counts.sent),
    }
}

#[cfg(test)]
mod tests;
