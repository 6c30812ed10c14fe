//! The time after a change of policy in which it may be taken back: lost calls are counted against a limit.
//!
//! A call is lost when the new bundle denies it and the one before would have allowed it. What the change itself
//! announced (`Signet-Denies:` in a signed commit's message) never counts, so that a caller whose access was revoked on
//! purpose cannot bring it back by calling.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use signet_policy_repository::Announced;

use crate::config::ReturnConfig;
use crate::persist::unix_now;

/// Kinds of calls that are told apart.
const MAX_FLOWS: usize = 10_000;
/// How many of them a message names.
const NAMED: usize = 3;

/// Calls of one kind that a proxy lost since it last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The bundle that denied them.
    pub(crate) digest: String,
    /// Who called what.
    pub(crate) flow: Flow,
    /// How often.
    pub(crate) calls: u64,
}

/// Who called what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// SPIFFE ID; empty: unauthenticated.
    pub(crate) principal: String,
    /// Cedar id.
    pub(crate) action: String,
    /// `<td>/<ns>/<name>`.
    pub(crate) service: String,
}

/// A bundle that has to prove itself. Kept across restarts without what was counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    digest: String,
    /// Unix seconds.
    ends_at: i64,
    announced: Vec<Announced>,
    #[serde(skip)]
    lost: BTreeMap<Flow, u64>,
}

impl Trial {
    pub(super) fn new(digest: String, config: &ReturnConfig, announced: Vec<Announced>) -> Self {
        let ends_at = unix_now().saturating_add(i64::from(config.within_seconds));
        Self { digest, ends_at, announced, lost: BTreeMap::new() }
    }

    pub(super) fn note(&mut self, lost: Lost) {
        let Flow { principal, action, service } = &lost.flow;
        let counts = lost.digest == self.digest
            && unix_now() < self.ends_at
            && !self.announced.iter().any(|announced| announced.covers(principal, action, service));
        if counts && (self.lost.len() < MAX_FLOWS || self.lost.contains_key(&lost.flow)) {
            let calls = self.lost.entry(lost.flow).or_default();
            *calls = calls.saturating_add(lost.calls);
        }
    }

    /// Says what was lost, once it is more than the limit: a sentence, and the flows with the most calls first.
    pub(super) fn failed(&self, config: &ReturnConfig) -> Option<(String, Vec<(&Flow, u64)>)> {
        let total = self.lost.values().fold(0_u64, |sum, calls| sum.saturating_add(*calls));
        if total <= u64::from(config.denials) {
            return None;
        }
        let mut flows: Vec<(&Flow, u64)> = self.lost.iter().map(|(flow, calls)| (flow, *calls)).collect();
        flows.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
        let named: Vec<String> = flows.iter().take(NAMED).map(|(flow, calls)| format!("{flow} ({calls})")).collect();
        let more = if flows.len() > NAMED { format!(" and {} more", flows.len() - NAMED) } else { String::new() };
        let message = format!(
            "it denied {total} calls that the policy before it allowed: {}{more}. The policy before it is in force \
             again. Correct it in a new commit, or announce what it is meant to deny in the commit's message: \
             `Signet-Denies: PRINCIPAL ACTION SERVICE`",
            named.join(", ")
        );
        Some((message, flows))
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let principal = if self.principal.is_empty() { "unauthenticated" } else { &self.principal };
        write!(f, "{principal} {} {}", self.action, self.service)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn lost(digest: &str, principal: &str, calls: u64) -> Lost {
        let flow = Flow { principal: principal.into(), action: "http:GET".into(), service: "a.b/bank/ledger".into() };
        Lost { digest: digest.into(), flow, calls }
    }

    #[test]
    fn announced_denials_and_other_bundles_never_count() {
        let config = ReturnConfig { denials: 10, within_seconds: 60 };
        let announced = vec!["spiffe://a.b/ns/bank/sa/web * a.b/bank/ledger".parse().unwrap()];
        let mut trial = Trial::new("d".into(), &config, announced);
        trial.note(lost("d", "spiffe://a.b/ns/bank/sa/web", 1_000));
        trial.note(lost("other", "spiffe://a.b/ns/bank/sa/app", 1_000));
        trial.note(lost("d", "spiffe://a.b/ns/bank/sa/app", 10));
        assert!(trial.failed(&config).is_none(), "the limit may be reached");
        trial.note(lost("d", "spiffe://a.b/ns/bank/sa/app", u64::MAX));
        let (message, flows) = trial.failed(&config).unwrap();
        assert!(message.contains("spiffe://a.b/ns/bank/sa/app http:GET a.b/bank/ledger"), "{message}");
        assert_eq!(flows.len(), 1);
    }

    #[test]
    fn a_bundle_that_held_for_long_enough_stays() {
        let config = ReturnConfig { denials: 0, within_seconds: 0 };
        let mut trial = Trial::new("d".into(), &config, Vec::new());
        trial.note(lost("d", "spiffe://a.b/ns/bank/sa/app", 10));
        assert!(trial.failed(&config).is_none());
    }
}
