//! Grants that no recorded traffic used.
//!
//! Every allowed call of the records is decided again under the bundle, so that a renamed policy keeps its use; what cannot
//! be decided again counts for the policies that its record names. A denial uses no grant.

use std::collections::HashMap;
use std::io::BufRead;

use serde::Serialize;
use signet_policy::{Bundle, Effect};

use crate::replay::{Line, ReplayError, each};

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
/// When the records cannot be read, or a line is no record.
pub fn uses(records: impl BufRead, bundle: &Bundle) -> Result<Uses, ReplayError> {
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
    each(records, &mut |line: &Line<'_>| {
        if !line.is_by_policy() || line.decision != Effect::Allow {
            return;
        }
        let time = line.time.to_string();
        found.calls += line.count;
        later(&mut found.last, &time);
        if found.first.as_ref().is_none_or(|first| *first > time) {
            found.first = Some(time.clone());
        }
        let used: Vec<String> = match line.decide(bundle) {
            Ok(decision) => decision.policies.iter().map(ToString::to_string).collect(),
            Err(_) => line.policy_ids.iter().map(ToString::to_string).collect(),
        };
        for id in used {
            if let Some(grant) = places.get(&id).and_then(|place| found.grants.get_mut(*place)) {
                grant.count += line.count;
                later(&mut grant.last_seen, &time);
            }
        }
    })?;
    Ok(found)
}

/// Times of an export have one length, so that they are in order as text.
fn later(slot: &mut Option<String>, time: &str) {
    if slot.as_deref().is_none_or(|last| last < time) {
        *slot = Some(time.to_owned());
    }
}
