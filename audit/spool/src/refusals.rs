//! Refusals before authentication: counted exactly, recorded in aggregate, on a quota of their own.
//!
//! Strangers decide how many refusals there are, so neither memory nor spool may grow with their number: a bounded
//! number of sources is told apart, further ones are counted together, and while refusals that are not acknowledged
//! take their share of the spool, counts stay in memory and go on. The sum of `count` over the records is exact.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::record::{Kind, Record};
use crate::spool::{OnFull, Spool, SpoolError, now_us};

/// How often counts become records: twice a second, so that a row is there within one.
const FLUSH: Duration = Duration::from_millis(500);
/// Sources, causes and services told apart between two flushes.
const MOST_KEYS: usize = 64;
/// Causes told apart for all the sources beyond.
const MOST_OTHER: usize = 32;
/// The share of the spool that refusals may take is one in this many.
const SHARE: u64 = 16;

/// One refused connection or request, before anything could be decided.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The peer's address.
    pub source: Option<IpAddr>,
    /// Stable snake_case cause, such as `signet_mtls::Refusal::as_str()`.
    pub cause: &'a str,
    /// `tls:handshake`, `http:parse`, ..
    pub action: &'a str,
    /// The inbound service, or empty.
    pub destination_service: &'a str,
    /// SPIFFE ID of the refused peer, where one could be read.
    pub source_spiffe_id: Option<&'a str>,
    /// What TLS was spoken, or `none`.
    pub tls: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Network of the source, `None` when it is unknown or one of those beyond [`MOST_KEYS`].
    prefix: Option<String>,
    other: bool,
    cause: String,
    action: String,
    service: String,
}

#[derive(Debug, Clone)]
struct Tally {
    count: u64,
    first_us: i64,
    last_us: i64,
    /// `None` once two refusals of the key differ in it.
    source_spiffe_id: Option<String>,
    tls: String,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first_us = self.first_us.min(other.first_us);
        self.last_us = self.last_us.max(other.last_us);
        if self.source_spiffe_id != other.source_spiffe_id {
            self.source_spiffe_id = None;
        }
    }
}

#[derive(Default)]
struct State {
    counted: BTreeMap<Key, Tally>,
    other: usize,
    /// Records written and not acknowledged: sequence and bytes.
    written: VecDeque<(u64, u64)>,
    written_bytes: u64,
}

/// Counts refusals and writes one record per source network (/24 or /64), cause and half second.
pub struct RefusalAggregator {
    spool: Spool,
    producer: String,
    state: Mutex<State>,
}

impl RefusalAggregator {
    /// Counts for `producer` (a SPIFFE ID) into `spool`.
    #[must_use]
    pub fn new(spool: Spool, producer: &str) -> Self {
        Self { spool, producer: producer.to_owned(), state: Mutex::default() }
    }

    /// Counts one refusal. Never touches a file.
    pub fn count(&self, refused: Refused<'_>) {
        let key = Key {
            prefix: refused.source.map(prefix),
            other: false,
            cause: refused.cause.to_owned(),
            action: refused.action.to_owned(),
            service: refused.destination_service.to_owned(),
        };
        let now = now_us();
        let tally = Tally {
            count: 1,
            first_us: now,
            last_us: now,
            source_spiffe_id: refused.source_spiffe_id.map(str::to_owned),
            tls: refused.tls.to_owned(),
        };
        self.state.lock().add(key, tally);
    }

    /// Writes what was counted, twice a second, until `cancel` is cancelled; then writes what is left. Cancel this and
    /// wait for it before the spool is closed.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(FLUSH);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.flush(u64::MAX / SHARE),
                () = cancel.cancelled() => break,
            }
        }
        self.flush(u64::MAX);
        let left: u64 = self.state.lock().counted.values().map(|tally| tally.count).sum();
        if left > 0 {
            tracing::error!(left, "refusals could not be recorded before the end");
        }
    }

    /// Writes records of what was counted, as far as `share` of the spool allows; the rest stays counted.
    fn flush(&self, quota: u64) {
        let quota = quota.min(if quota == u64::MAX { u64::MAX } else { self.spool.shared.max_bytes() / SHARE });
        let mut state = self.state.lock();
        let acked = self.spool.shared.acked();
        while let Some((sequence, bytes)) = state.written.front().copied()
            && sequence <= acked
        {
            state.written.pop_front();
            state.written_bytes -= bytes;
        }
        state.other = 0;
        let counted = std::mem::take(&mut state.counted);
        let mut failure: Option<SpoolError> = None;
        for (key, tally) in counted {
            if failure.is_none() && state.written_bytes < quota {
                match self.spool.shared.append_or(&(&self.record(&key, &tally)).into(), OnFull::Deny) {
                    Ok(appended) => {
                        state.written.push_back((appended.sequence, appended.bytes));
                        state.written_bytes += appended.bytes;
                        continue;
                    }
                    Err(error) => failure = Some(error),
                }
            }
            state.add(key, tally);
        }
        drop(state);
        if let Some(error) = failure {
            tracing::warn!(%error, "refusals cannot be recorded now; they stay counted");
        }
    }

    fn record(&self, key: &Key, tally: &Tally) -> Record {
        let source = if key.other { "\"source\":\"other\"," } else { "" };
        let detail = format!("{{{source}\"from_us\":{},\"to_us\":{}}}", tally.first_us, tally.last_us);
        Record {
            id: Uuid::now_v7(),
            time_us: tally.first_us,
            kind: Kind::Refusal,
            producer: self.producer.clone(),
            source_spiffe_id: tally.source_spiffe_id.clone(),
            destination_service: key.service.clone(),
            action: key.action.clone(),
            reason: key.cause.clone(),
            source_address: key.prefix.clone(),
            tls: tally.tls.clone(),
            count: tally.count,
            detail: Some(detail),
            ..Record::default()
        }
    }
}

impl State {
    fn add(&mut self, key: Key, tally: Tally) {
        if let Some(found) = self.counted.get_mut(&key) {
            found.add(tally);
            return;
        }
        if key.other || self.counted.len() - self.other < MOST_KEYS {
            self.other += usize::from(key.other);
            self.counted.insert(key, tally);
            return;
        }
        let mut other = Key { prefix: None, other: true, ..key };
        if !self.counted.contains_key(&other) && self.other >= MOST_OTHER {
            other = Key { cause: "other".into(), action: "other".into(), service: String::new(), ..other };
        }
        if let Some(found) = self.counted.get_mut(&other) {
            found.add(tally);
        } else {
            self.other += 1;
            self.counted.insert(other, tally);
        }
    }
}

/// The /24 of an IPv4 address, the /64 of an IPv6 address.
fn prefix(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            format!("{}/64", Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests;
