//! The grant of a break-glass in an example: from the solver's model, and as a person reads it.

use std::collections::BTreeSet;

use cedar_policy::EvalResult;
use serde::{Serialize, Serializer};
use signet_policy::BreakGlass;

use super::datetime_us;

const HOUR_US: i64 = 3_600_000_000;

/// `context.break_glass` of a model, as it may stand in a request at `time_us`: with the end that the model says, and
/// with one that lies ahead where no policy looks at it.
pub(super) fn of_model(value: Option<EvalResult>, time_us: i64) -> Vec<Option<BreakGlass>> {
    let Some(EvalResult::Record(record)) = value else { return vec![None] };
    let ticket = match record.get("ticket") {
        Some(EvalResult::String(ticket)) => ticket.clone(),
        _ => String::new(),
    };
    let mut approvers = BTreeSet::new();
    if let Some(EvalResult::Set(set)) = record.get("approvers") {
        approvers.extend(set.iter().filter_map(|item| match item {
            EvalResult::String(who) => Some(who.clone()),
            _ => None,
        }));
    }
    let ends = [record.get("until").and_then(datetime_us), time_us.checked_add(HOUR_US)];
    let grant = |until_us| BreakGlass { ticket: ticket.clone(), approvers: approvers.clone(), until_us };
    ends.into_iter().flatten().map(|until_us| Some(grant(until_us))).collect()
}

/// What makes a grant readable.
pub(super) const PLAIN: [fn(&mut BreakGlass); 2] =
    [|grant| grant.ticket = "INC-1".to_owned(), |grant| grant.approvers.clear()];

/// ` with break-glass INC-1 (approved by ada@bank.example)`.
pub(super) fn words(grant: &BreakGlass) -> String {
    let approvers: Vec<&str> = grant.approvers.iter().map(String::as_str).collect();
    let by = if approvers.is_empty() { String::new() } else { format!(" (approved by {})", approvers.join(", ")) };
    format!(" with break-glass {}{by}", grant.ticket)
}

/// As `context.break_glass` of the schema and of test cases.
pub(super) fn serialize<S: Serializer>(grant: &Option<BreakGlass>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Grant<'a> {
        ticket: &'a str,
        approvers: &'a BTreeSet<String>,
        until: String,
    }
    let grant = grant.as_ref().map(|BreakGlass { ticket, approvers, until_us }| Grant {
        ticket,
        approvers,
        until: jiff::Timestamp::from_microsecond(*until_us).map(|time| time.to_string()).unwrap_or_default(),
    });
    grant.serialize(serializer)
}
