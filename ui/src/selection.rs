//! Which decisions a person wants to see, asked of the store and of rows that just arrived alike.
//!
//! INVARIANT: [`Selection::matches`] says of a row what the store's filter says of it, so that the live list and the
//! pages below it never disagree.

use signet_audit::query::Filter;
use uuid::Uuid;

use crate::model::{Decision, DecisionQuery, Verdict};

/// What the free text of a query means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Text {
    Any,
    DecisionId(Uuid),
    TraceId(String),
    /// Lower case.
    Part(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    allow: Option<bool>,
    source: Option<String>,
    destination: Option<String>,
    service: Option<String>,
    action: Option<String>,
    text: Text,
}

impl Selection {
    pub(crate) fn of(query: &DecisionQuery) -> Self {
        let given =
            |field: &Option<String>| field.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let destination = given(&query.destination);
        let by_id = destination.as_deref().is_some_and(|text| text.starts_with("spiffe://"));
        let (destination, service) = if by_id { (destination, None) } else { (None, destination) };
        Self {
            allow: query.decision.map(|verdict| verdict == Verdict::Allow),
            source: given(&query.source),
            destination,
            service,
            action: given(&query.action),
            text: given(&query.q).map_or(Text::Any, |text| Text::of(&text)),
        }
    }

    /// The one decision that is asked for, when its id was given.
    pub(crate) fn decision_id(&self) -> Option<Uuid> {
        match self.text {
            Text::DecisionId(id) => Some(id),
            Text::Any | Text::TraceId(_) | Text::Part(_) => None,
        }
    }

    pub(crate) fn filter(&self) -> Filter {
        let (trace_id, text) = match &self.text {
            Text::Any | Text::DecisionId(_) => (None, None),
            Text::TraceId(id) => (Some(id.clone()), None),
            Text::Part(part) => (None, Some(part.clone())),
        };
        Filter {
            allow: self.allow,
            source: self.source.clone(),
            destination: self.destination.clone(),
            service: self.service.clone(),
            action: self.action.clone(),
            trace_id,
            text,
            ..Filter::default()
        }
    }

    pub(crate) fn matches(&self, row: &Decision) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| wanted.is_none() || wanted.as_deref() == value;
        self.allow.is_none_or(|allow| allow == (row.decision == Verdict::Allow))
            && is(&self.source, row.source.as_deref())
            && is(&self.destination, row.destination.as_deref())
            && is(&self.service, Some(&row.service))
            && is(&self.action, Some(&row.action))
            && self.text.matches(row)
    }
}

impl Text {
    fn of(text: &str) -> Self {
        if let (true, Ok(id)) = (text.contains('-'), text.parse()) {
            return Self::DecisionId(id);
        }
        if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Self::TraceId(text.to_lowercase());
        }
        Self::Part(text.to_lowercase())
    }

    fn matches(&self, row: &Decision) -> bool {
        match self {
            Self::Any => true,
            Self::DecisionId(id) => row.id == id.to_string(),
            Self::TraceId(id) => row.trace_id.as_deref() == Some(id),
            Self::Part(part) => [
                row.source.as_deref(),
                row.destination.as_deref(),
                Some(&row.service),
                Some(&row.action),
                row.path.as_deref(),
                Some(&row.reason),
            ]
            .into_iter()
            .flatten()
            .chain(row.policy_ids.iter().map(String::as_str))
            .any(|value| value.to_lowercase().contains(part)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::store::tests::row;

    fn check(query: DecisionQuery, expected: bool) {
        assert_eq!(Selection::of(&query).matches(&row().decision), expected, "{query:?}");
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let decision = row().decision;
        let q = |text: &str| DecisionQuery { q: Some(text.into()), ..DecisionQuery::default() };
        check(DecisionQuery::default(), true);
        check(DecisionQuery { decision: Some(Verdict::Deny), ..DecisionQuery::default() }, true);
        check(DecisionQuery { decision: Some(Verdict::Allow), ..DecisionQuery::default() }, false);
        check(DecisionQuery { source: decision.source.clone(), ..DecisionQuery::default() }, true);
        check(DecisionQuery { source: Some("spiffe://other".into()), ..DecisionQuery::default() }, false);
        check(DecisionQuery { destination: Some(decision.service.clone()), ..DecisionQuery::default() }, true);
        check(DecisionQuery { destination: decision.destination.clone(), ..DecisionQuery::default() }, true);
        check(DecisionQuery { action: Some("http:GET".into()), ..DecisionQuery::default() }, false);
        check(DecisionQuery { source: Some(" ".into()), ..DecisionQuery::default() }, true);
        check(q("LEDGER"), true);
        check(q("no_permit"), true);
        check(q("nothing like it"), false);
        check(q(&decision.id), true);
        check(q("01890000-0000-7000-8000-000000000000"), false);
        check(q(decision.trace_id.as_deref().unwrap()), true);
    }

    #[test]
    fn a_destination_is_a_service_or_a_spiffe_id() {
        let of = |text: &str| {
            Selection::of(&DecisionQuery { destination: Some(text.into()), ..DecisionQuery::default() }).filter()
        };
        assert_eq!(of("spiffe://a/ns/b/sa/c").destination.as_deref(), Some("spiffe://a/ns/b/sa/c"));
        assert_eq!(of("a/b/c").service.as_deref(), Some("a/b/c"));
    }
}
