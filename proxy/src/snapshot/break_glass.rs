//! Grants for an emergency: whose calls of which services see `context.break_glass`, and until when.

use std::sync::Arc;

use signet_api::control as wire;
use signet_mtls::SpiffeId;
use signet_policy::BreakGlass;

use super::{SnapshotError, parse};

/// What a record calls the grant; no attribute of the schema's context has this name, so recomputing passes it over.
const GRANT: &str = "break_glass.grant";

/// One grant. Whether it is over is asked at each call, by this machine's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub id: Arc<str>,
    principals: Vec<SpiffeId>,
    /// `<td>/<ns>/<name>`, or names of external services.
    services: Vec<Arc<str>>,
    facts: BreakGlass,
    pairs: [(&'static str, String); 4],
}

impl Grant {
    /// What policies see of it.
    #[must_use]
    pub fn facts(&self) -> &BreakGlass {
        &self.facts
    }

    /// Whether it covers calls of `principal` to `service` at this time, UTC microseconds.
    #[must_use]
    pub fn covers(&self, principal: &SpiffeId, service: &str, now_us: i64) -> bool {
        now_us < self.facts.until_us
            && self.services.iter().any(|granted| **granted == *service)
            && self.principals.contains(principal)
    }

    /// As records keep it.
    pub(crate) fn pairs(&self) -> &[(&'static str, String)] {
        &self.pairs
    }
}

/// All grants of a snapshot. Where several cover a call, the one with the most approvers counts, then the one that ends
/// last: INVARIANT: their order is this order.
///
/// # Errors
/// The first field that is not valid.
pub fn grants(list: &[wire::BreakGlass]) -> Result<Vec<Arc<Grant>>, SnapshotError> {
    let mut grants = super::each("break_glass", list, grant)?;
    grants.sort_by(|a, b| {
        let rank = |grant: &Grant| (grant.facts.approvers.len(), grant.facts.until_us);
        rank(b).cmp(&rank(a)).then_with(|| a.id.cmp(&b.id))
    });
    Ok(grants)
}

fn grant(at: &str, w: &wire::BreakGlass) -> Result<Grant, SnapshotError> {
    let field =
        |name: &str, value: String, expected| SnapshotError::Field { field: format!("{at}.{name}"), value, expected };
    let principals = w.principals.iter().enumerate();
    let principals: Vec<SpiffeId> = principals
        .map(|(i, id)| parse(|| format!("{at}.principals[{i}]"), id, "a SPIFFE ID"))
        .collect::<Result<_, _>>()?;
    if principals.is_empty() || w.services.is_empty() {
        return Err(field("principals", String::new(), "at least one caller and one service"));
    }
    if w.id.is_empty() || w.ticket.is_empty() {
        return Err(field("ticket", w.ticket.clone(), "the ticket of a grant that has an id"));
    }
    let until_us = w.until.checked_mul(1_000_000).filter(|until| *until > 0);
    let until_us = until_us.ok_or_else(|| field("until", w.until.to_string(), "a time in Unix seconds"))?;
    let facts = BreakGlass { ticket: w.ticket.clone(), approvers: w.approvers.iter().cloned().collect(), until_us };
    let [ticket, approvers, until] = facts.pairs();
    Ok(Grant {
        id: Arc::from(w.id.as_str()),
        principals,
        services: w.services.iter().map(|service| Arc::from(service.as_str())).collect(),
        facts,
        pairs: [(GRANT, w.id.clone()), ticket, approvers, until],
    })
}
