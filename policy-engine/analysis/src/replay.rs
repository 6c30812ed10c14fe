//! Recorded traffic, decided again: which flows a change would flip.
//!
//! Asks a bundle each decision of policy again with the context that was recorded. Decisions that no policy made (a failed
//! handshake, a service that is not exported) are not replayed; neither are those of which something was erased or never
//! recorded. Both are counted, so that nothing is said to be unchanged that was not looked at.

use std::collections::BTreeMap;

use serde::Serialize;
use signet_policy::Bundle;

use crate::diff::Answer;
use crate::recorded::{Recorded, Records, RecordsError, rfc3339};

/// More flows that flip than a person could read are counted together.
const MOST_FLIPS: usize = 10_000;

/// Recorded calls of one kind whose answer changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flip {
    /// A SPIFFE ID, or `unauthenticated`.
    pub source: String,
    /// `<trust domain>/<namespace>/<name>`.
    pub destination: String,
    pub action: String,
    /// What was recorded: `allow` or `deny`.
    pub was: &'static str,
    /// What the bundle answers to the last of them.
    pub now: Answer,
    /// How many calls.
    pub count: u64,
    /// RFC 3339, UTC.
    pub last_seen: String,
    /// The path, or the gRPC method, of the last of them.
    pub path: Option<String>,
}

/// What became of recorded traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Decisions that were made again.
    pub decided: u64,
    /// Calls that these stand for.
    pub calls: u64,
    /// Most calls first.
    pub flips: Vec<Flip>,
    /// Calls that flip and are in no row of `flips`, because there were too many rows.
    pub further_flips: u64,
    /// Records that no policy decided: events, refusals, denials for another cause.
    pub not_by_policy: u64,
    /// Records of which something was erased or is missing, by what.
    pub not_replayed: BTreeMap<String, u64>,
}

impl Replay {
    /// Calls that were allowed and would be denied, and those the other way round, as far as they are in `flips`.
    pub fn flipped(&self) -> (u64, u64) {
        let of = |was: &str| self.flips.iter().filter(|flip| flip.was == was).map(|flip| flip.count).sum();
        (of("allow"), of("deny"))
    }
}

/// Decides every record again under `bundle`.
///
/// # Errors
/// When not all records could be read.
pub fn replay(records: impl Records, bundle: &Bundle) -> Result<Replay, RecordsError> {
    let (mut found, mut flips) = (Replay::default(), Flips::new());
    records.each(&mut |record| again(record, bundle, &mut found, &mut flips))?;
    found.flips = flips.into_values().map(|(_, flip)| flip).collect();
    found.flips.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.source.cmp(&b.source)));
    Ok(found)
}

/// By source, destination, action and recorded answer; each with when it was last seen, in Unix microseconds.
type Flips = BTreeMap<(String, String, String, &'static str), (i64, Flip)>;

fn again(record: &Recorded<'_>, bundle: &Bundle, found: &mut Replay, flips: &mut Flips) {
    if !record.is_by_policy() {
        found.not_by_policy += 1;
        return;
    }
    let decision = match record.decide(bundle) {
        Ok(decision) => decision,
        Err(missing) => {
            let erased = record.erased.iter().any(|name| name == missing);
            let why = if erased { format!("{missing} was erased") } else { format!("{missing} is not recorded") };
            *found.not_replayed.entry(why).or_default() += 1;
            return;
        }
    };
    found.decided += 1;
    found.calls += record.count;
    if decision.effect == record.decision {
        return;
    }
    let source = record.source_spiffe_id.as_deref().unwrap_or("unauthenticated");
    let key = (
        source.to_owned(),
        record.destination_service.to_string(),
        record.action.to_string(),
        record.decision.as_str(),
    );
    if flips.len() >= MOST_FLIPS && !flips.contains_key(&key) {
        found.further_flips += record.count;
        return;
    }
    let (source, destination, action, was) = key.clone();
    let (last_seen_us, flip) = flips.entry(key).or_insert_with(|| {
        let now = Answer::from(decision.clone());
        (i64::MIN, Flip { source, destination, action, was, now, count: 0, last_seen: String::new(), path: None })
    });
    flip.count += record.count;
    if *last_seen_us <= record.time_us {
        *last_seen_us = record.time_us;
        flip.last_seen = rfc3339(record.time_us);
        flip.path = record.path.as_ref().map(|path| plain(path, &flip.action));
        flip.now = decision.into();
    }
}

/// A gRPC method without its slash.
fn plain(path: &str, action: &str) -> String {
    if action == "grpc:call" { path.trim_start_matches('/').to_owned() } else { path.to_owned() }
}

#[cfg(test)]
mod tests;
