//! Grants that no recorded traffic used.
//!
//! Every allowed call of the records is decided again under the bundle, so that a renamed policy keeps its use; what cannot
//! be decided again counts for the policies that its record names. A denial uses no grant.

use std::collections::HashMap;

use serde::Serialize;
use signet_policy::{Bundle, Effect};

use crate::recorded::{Records, RecordsError, rfc3339};

/// An enforced permit and how often it permitted a recorded call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    pub id: String,
    pub path: String,
    pub line: u32,
    /// Calls.
    pub count: u64,
    /// RFC 3339, UTC.
    pub last_seen: Option<String>,
}

/// What records say about the use of grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Uses {
    /// In order of path and position.
    pub grants: Vec<Use>,
    /// Allowed calls that were looked at.
    pub calls: u64,
    /// The time of the first and the last of them.
    pub first: Option<String>,
    pub last: Option<String>,
}

impl Uses {
    /// Those that permitted nothing.
    pub fn unused(&self) -> impl Iterator<Item = &Use> {
        self.grants.iter().filter(|grant| grant.count == 0)
    }
}

/// Counts the use of each enforced permit of `bundle`.
///
/// # Errors
/// When not all records could be read.
pub fn uses(records: impl Records, bundle: &Bundle) -> Result<Uses, RecordsError> {
    let permits = bundle.policies().filter(|policy| !policy.is_forbid() && !policy.is_shadow());
    let mut found = Uses {
        grants: permits
            .map(|policy| Use {
                id: policy.id().to_owned(),
                path: policy.path().to_owned(),
                line: policy.line(),
                count: 0,
                last_seen: None,
            })
            .collect(),
        ..Uses::default()
    };
    let places: HashMap<String, usize> =
        found.grants.iter().enumerate().map(|(place, grant)| (grant.id.clone(), place)).collect();
    let mut seen: Vec<Option<i64>> = vec![None; found.grants.len()];
    let (mut first, mut last): (Option<i64>, Option<i64>) = (None, None);
    records.each(&mut |record| {
        if !record.is_by_policy() || record.decision != Effect::Allow {
            return;
        }
        let time = Some(record.time_us);
        found.calls += record.count;
        last = last.max(time);
        first = if first.is_none() { time } else { first.min(time) };
        let used: Vec<String> = match record.decide(bundle) {
            Ok(decision) => decision.policies.iter().map(ToString::to_string).collect(),
            Err(_) => record.policy_ids.iter().map(ToString::to_string).collect(),
        };
        for place in used.iter().filter_map(|id| places.get(id)) {
            if let Some((grant, seen)) = found.grants.get_mut(*place).zip(seen.get_mut(*place)) {
                grant.count += record.count;
                *seen = (*seen).max(time);
            }
        }
    })?;
    for (grant, seen) in found.grants.iter_mut().zip(seen) {
        grant.last_seen = seen.map(rfc3339);
    }
    (found.first, found.last) = (first.map(rfc3339), last.map(rfc3339));
    Ok(found)
}
