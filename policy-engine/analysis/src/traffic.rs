//! How often recorded calls used what policies name: what an editor shows beside a name.

use std::collections::HashMap;

use serde::Serialize;

use crate::recorded::{Records, RecordsError, rfc3339};

/// More distinct names than a repository could hold are not kept, so that hostile records cannot fill the memory.
const MOST_NAMES: usize = 200_000;

/// What was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Used {
    /// A policy, by `@id`: it determined the decision.
    Policy,
    /// A caller, by SPIFFE ID.
    Caller,
    /// A service, by `<trust domain>/<namespace>/<name>`.
    Service,
    /// A Cedar action id.
    Action,
    /// A value of the context, by name: it was recorded.
    Value,
}

/// How often, and when last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub calls: u64,
    /// RFC 3339, UTC.
    pub last_seen: String,
}

/// The recorded use of names.
#[derive(Debug, Default)]
pub struct Traffic {
    names: HashMap<(Used, String), (u64, i64)>,
}

impl Traffic {
    /// Counts decisions by policy, caller, service, action and recorded value.
    ///
    /// # Errors
    /// When not all records could be read.
    pub fn of(records: impl Records) -> Result<Self, RecordsError> {
        let mut traffic = Self::default();
        records.each(&mut |record| {
            if !record.is_by_policy() {
                return;
            }
            let mut count = |used, name: &str| traffic.count(used, name, record.count, record.time_us);
            record.policy_ids.iter().for_each(|id| count(Used::Policy, id));
            if let Some(source) = &record.source_spiffe_id {
                count(Used::Caller, source);
            }
            count(Used::Service, &record.destination_service);
            count(Used::Action, &record.action);
            record.context.iter().filter(|(_, value)| !value.is_empty()).for_each(|(name, _)| count(Used::Value, name));
        })?;
        Ok(traffic)
    }

    /// The use of a name; nothing when there was none.
    pub fn seen(&self, used: Used, name: &str) -> Option<Seen> {
        let (calls, last_us) = self.names.get(&(used, name.to_owned()))?;
        Some(Seen { calls: *calls, last_seen: rfc3339(*last_us) })
    }

    /// All names of one kind.
    pub fn names(&self, of: Used) -> impl Iterator<Item = &str> {
        self.names.keys().filter(move |(used, _)| *used == of).map(|(_, name)| name.as_str())
    }

    fn count(&mut self, used: Used, name: &str, calls: u64, time_us: i64) {
        let key = (used, name.to_owned());
        if self.names.len() >= MOST_NAMES && !self.names.contains_key(&key) {
            return;
        }
        let seen = self.names.entry(key).or_insert((0, i64::MIN));
        seen.0 += calls;
        seen.1 = seen.1.max(time_us);
    }
}
