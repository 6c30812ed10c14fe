//! The calls: what each must come to, made at a steady pace whatever the answers take, and counted.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::demo::Demo;

/// A call without an answer after this has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// Problems beyond these are counted only.
const TOLD: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Allowed,
    Denied,
    /// It depends on the commit of the moment.
    Either,
}

/// One kind of call.
pub(super) struct Kind {
    source: &'static str,
    method: Method,
    uri: &'static str,
    pub(super) expect: Expect,
    /// Of so many in a round.
    share: usize,
}

impl Kind {
    pub(super) fn name(&self) -> String {
        format!("{} {} {}", self.source, self.method, self.uri)
    }
}

const LEDGER: &str = "http://ledger.bank.svc.cluster.local/accounts/1";
const ENTRIES: &str = "http://ledger.bank.svc.cluster.local/accounts/1/entries";
const LEDGER_FROM_WEST: &str = "http://ledger.bank.svc.clusterset.local/accounts/1";
const FRAUD: &str = "http://fraud.bank.svc.clusterset.local/score?account=1";
const NOT_EXPORTED: &str = "http://reporting.bank.svc.clusterset.local/daily";

fn kinds() -> Vec<Kind> {
    let kind = |source, method, uri, expect, share| Kind { source, method, uri, expect, share };
    vec![
        kind("east/bank/web", Method::GET, LEDGER, Expect::Allowed, 8),
        kind("east/bank/web", Method::GET, FRAUD, Expect::Allowed, 3),
        kind("west/bank/reporting", Method::GET, LEDGER_FROM_WEST, Expect::Allowed, 3),
        kind("east/bank/web", Method::POST, ENTRIES, Expect::Denied, 2),
        kind("west/bank/reporting", Method::DELETE, LEDGER_FROM_WEST, Expect::Denied, 1),
        kind("east/bank/web", Method::GET, NOT_EXPORTED, Expect::Denied, 1),
        kind("east/bank/web", Method::PATCH, LEDGER, Expect::Either, 2),
    ]
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) allowed: AtomicU64,
    pub(super) denied: AtomicU64,
}

/// How fast.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// As fast as `workers` get answers.
    Most { workers: usize, time: Duration },
    /// Evenly spaced; `workers` bound what is under way.
    Steady { workers: usize, rate: u32, time: Duration },
}

/// All calls of a soak.
pub(super) struct Load {
    pub(super) kinds: Vec<Kind>,
    pub(super) tallies: Vec<Tally>,
    /// Outbound listener of each kind's source.
    outbounds: Vec<String>,
    /// Kinds in the order in which they are called.
    round: Vec<usize>,
    /// First half of all trace ids.
    pub(super) prefix: String,
    number: AtomicU64,
    started: Instant,
    unexpected: AtomicU64,
    told: Mutex<Vec<String>>,
    /// What was changed last, to say beside a call that failed.
    last_change: Mutex<String>,
}

impl Load {
    pub(super) fn new(demo: &Demo) -> anyhow::Result<Self> {
        let kinds = kinds();
        let outbound = |kind: &Kind| Ok(demo.workload(kind.source)?.outbound.clone());
        let mut round: Vec<usize> = (0..).zip(&kinds).flat_map(|(n, kind)| vec![n; kind.share]).collect();
        // Spread rather than in rows: 7 has no divisor in common with the round.
        let length = round.len();
        anyhow::ensure!(!length.is_multiple_of(7), "a round of {length} calls would leave kinds out");
        round = (0..length).filter_map(|n| round.get(n * 7 % length).copied()).collect();
        Ok(Self {
            outbounds: kinds.iter().map(outbound).collect::<anyhow::Result<_>>()?,
            tallies: kinds.iter().map(|_| Tally::default()).collect(),
            kinds,
            round,
            prefix: uuid::Uuid::new_v4().simple().to_string().get(..16).unwrap_or_default().to_owned(),
            number: AtomicU64::new(0),
            started: Instant::now(),
            unexpected: AtomicU64::new(0),
            told: Mutex::default(),
            last_change: Mutex::new("nothing was changed yet".to_owned()),
        })
    }

    pub(super) fn calls(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Notes what was changed, and when.
    pub(super) fn changed(&self, what: &str) {
        *self.last_change.lock().unwrap_or_else(PoisonError::into_inner) = format!("{what} at {}", self.now());
    }

    fn now(&self) -> String {
        format!("{:.1} s", self.started.elapsed().as_secs_f64())
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = self.unexpected.load(Ordering::Relaxed);
        if all > told.len() as u64 {
            told.push(format!("{all} calls in all were not as they must be; the first ones stand above"));
        }
        told
    }

    fn problem(&self, kind: &Kind, number: u64, what: &str) {
        self.unexpected.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD {
            let change = self.last_change.lock().unwrap_or_else(PoisonError::into_inner);
            let trace = self.trace_of(kind, number);
            told.push(format!("at {}: {}, trace {trace}: {what} ({change})", self.now(), kind.name()));
        }
    }

    fn trace_of(&self, kind: &Kind, number: u64) -> String {
        let index = self.kinds.iter().position(|other| std::ptr::eq(other, kind)).unwrap_or_default();
        format!("{}{index:02x}{number:014x}", self.prefix)
    }

    /// Calls for the time of `pace` and gives how many calls were made; none is under way any more.
    pub(super) async fn run(&self, pace: Pace) -> u64 {
        let (workers, time) = match pace {
            Pace::Most { workers, time } | Pace::Steady { workers, time, .. } => (workers, time),
        };
        let (start, turns) = (Instant::now(), AtomicU64::new(0));
        let work = |_| async {
            let mut connections: Vec<Option<SendRequest<Full<Bytes>>>> = self.kinds.iter().map(|_| None).collect();
            loop {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                if let Pace::Steady { rate, .. } = pace {
                    let due = start + Duration::from_secs_f64(turn as f64 / f64::from(rate));
                    if due >= start + time {
                        return;
                    }
                    tokio::time::sleep_until(due).await;
                } else if start.elapsed() >= time {
                    return;
                }
                self.one(turn, &mut connections).await;
            }
        };
        let before = self.calls();
        futures_all((0..workers).map(work).collect()).await;
        self.calls() - before
    }

    async fn one(&self, turn: u64, connections: &mut [Option<SendRequest<Full<Bytes>>>]) {
        let at = usize::try_from(turn % self.round.len() as u64).unwrap_or_default();
        let Some(index) = self.round.get(at).copied() else { return };
        let parts =
            (self.kinds.get(index), self.tallies.get(index), self.outbounds.get(index), connections.get_mut(index));
        let (Some(kind), Some(tally), Some(outbound), Some(connection)) = parts else { return };
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let answered = tokio::time::timeout(LIMIT, self.call(kind, number, outbound, connection)).await;
        let (status, decision, text) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                *connection = None;
                return self.problem(kind, number, &format!("no answer: {error:#}"));
            }
            Err(_) => {
                *connection = None;
                return self.problem(kind, number, &format!("no answer in {} s", LIMIT.as_secs()));
            }
        };
        // A denial names its decision; everything else that is no success was made by no decision.
        let denied = status == 403 && decision;
        let passed = status < 500 && !denied && status != 403;
        if denied {
            tally.denied.fetch_add(1, Ordering::Relaxed);
        } else if passed {
            tally.allowed.fetch_add(1, Ordering::Relaxed);
        }
        let as_it_must = match kind.expect {
            Expect::Allowed => status == 200,
            Expect::Denied => denied,
            Expect::Either => denied || passed,
        };
        if !as_it_must {
            self.problem(kind, number, &format!("{status}, to be {:?}: {}", kind.expect, text.trim_end()));
        }
    }

    async fn call(
        &self,
        kind: &Kind,
        number: u64,
        outbound: &str,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
    ) -> anyhow::Result<(u16, bool, String)> {
        let uri: http::Uri = kind.uri.parse()?;
        let body = if kind.method == Method::POST { r#"{"amount": 0}"# } else { "" };
        let request = Request::builder()
            .method(&kind.method)
            .uri(kind.uri)
            .header("host", uri.authority().context("a URI with a host")?.as_str())
            .header("traceparent", format!("00-{}-00f067aa0ba902b7-01", self.trace_of(kind, number)))
            .body(Full::new(Bytes::from(body)))?;
        let mut sender = match connection.take() {
            Some(kept) => kept,
            None => connect(outbound).await?,
        };
        // The sidecar may end a connection between two calls.
        if sender.ready().await.is_err() {
            sender = connect(outbound).await?;
        }
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let text = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        *connection = Some(sender);
        Ok((parts.status.as_u16(), parts.headers.contains_key("x-signet-decision"), text))
    }
}

async fn connect(outbound: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(outbound).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// All of them at once, in this task.
async fn futures_all<F: Future<Output = ()>>(work: Vec<F>) {
    let mut work: Vec<_> = work.into_iter().map(Box::pin).map(Some).collect();
    std::future::poll_fn(|cx| {
        let mut waiting = false;
        for slot in &mut work {
            match slot.as_mut().map(|one| one.as_mut().poll(cx)) {
                Some(std::task::Poll::Ready(())) => *slot = None,
                Some(std::task::Poll::Pending) => waiting = true,
                None => {}
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
}
