//! A grant for an emergency, as policies see it: `context.break_glass`.
//!
//! The engine takes a grant as it is; that it was signed by those who may, and covers the call, is for others to see to.
//! Only its end is held here: INVARIANT: a request at or after that time has no grant.

use std::collections::BTreeSet;

use cedar_policy_core::ast::Value;

use crate::context::datetime;

/// What policies can read of a grant that covers a call (`Mesh::BreakGlass` of the schema).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BreakGlass {
    /// Which incident it is for.
    pub ticket: String,
    /// Who signed it, by e-mail address.
    pub approvers: BTreeSet<String>,
    /// UTC microseconds since the Unix epoch, to the millisecond: the first moment at which it is over.
    pub until_us: i64,
}

/// The names under which records keep a grant, in the order of [`BreakGlass::pairs`].
const NAMES: [&str; 3] = ["break_glass.ticket", "break_glass.approvers", "break_glass.until_us"];

impl BreakGlass {
    /// As records keep it: the approvers are a JSON array in ascending order.
    #[must_use]
    pub fn pairs(&self) -> [(&'static str, String); 3] {
        let [ticket, approvers, until] = NAMES;
        [
            (ticket, self.ticket.clone()),
            (approvers, serde_json::to_string(&self.approvers).unwrap_or_default()),
            (until, self.until_us.to_string()),
        ]
    }

    /// The opposite of [`BreakGlass::pairs`]. `Ok(None)` when no pair is a grant's.
    ///
    /// # Errors
    /// When a value is missing or unreadable: its name.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Option<Self>, &'static str> {
        let mut found: [Option<&str>; 3] = [None; 3];
        for (name, value) in pairs {
            let place = NAMES.iter().position(|known| *known == name).and_then(|i| found.get_mut(i));
            if let Some(place) = place {
                *place = Some(value);
            }
        }
        if found.iter().all(Option::is_none) {
            return Ok(None);
        }
        let [ticket, approvers, until] = found;
        let [ticket_name, approvers_name, until_name] = NAMES;
        Ok(Some(Self {
            ticket: ticket.ok_or(ticket_name)?.to_owned(),
            approvers: approvers.and_then(|text| serde_json::from_str(text).ok()).ok_or(approvers_name)?,
            until_us: until.and_then(|text| text.parse().ok()).ok_or(until_name)?,
        }))
    }

    /// `None` where the end is out of Cedar's range.
    pub(crate) fn value(&self) -> Option<Value> {
        let approvers = Value::set(self.approvers.iter().map(|who| Value::from(who.as_str())), None);
        let fields = [
            ("ticket", Value::from(self.ticket.as_str())),
            ("approvers", approvers),
            ("until", datetime(self.until_us)?),
        ];
        Some(Value::record(fields, None))
    }

    /// Writes all that policies can read, so that equal bytes mean equal grants.
    pub(crate) fn write_key(&self, mut text: impl FnMut(&str)) {
        text(&self.ticket);
        text(&self.until_us.to_string());
        text(&self.approvers.len().to_string());
        self.approvers.iter().for_each(|who| text(who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> BreakGlass {
        BreakGlass {
            ticket: "INC-4711".to_owned(),
            approvers: ["alice@bank.example", "a \"b\", c"].map(str::to_owned).into(),
            until_us: 1_795_380_067_123_000,
        }
    }

    #[test]
    fn what_a_record_keeps_gives_the_grant_again() {
        let pairs = grant().pairs();
        let again = BreakGlass::from_pairs(pairs.iter().map(|(name, value)| (*name, value.as_str())));
        assert_eq!(again, Ok(Some(grant())));
        assert_eq!(BreakGlass::from_pairs([("method", "GET")].into_iter()), Ok(None));
        for absent in NAMES {
            let rest = pairs.iter().filter(|(name, _)| *name != absent).map(|(n, v)| (*n, v.as_str()));
            assert_eq!(BreakGlass::from_pairs(rest), Err(absent));
        }
    }

    #[test]
    fn a_grant_without_an_end_that_can_be_compared_is_no_value() {
        let endless = BreakGlass { until_us: i64::MAX, ..grant() };
        assert!(endless.value().is_none());
    }
}
