//! What a change says that it denies on purpose, in the messages of its signed commits.
//!
//! ```text
//! Signet-Denies: spiffe://east.bank.example/ns/bank/sa/web http:GET east.bank.example/bank/ledger
//! ```
//!
//! Principal, action and service, each of them `*` for all. Such lines stand among the message's trailers, or anywhere
//! in it on a line of their own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const TRAILER: &str = "Signet-Denies:";
/// More in one change are an error of the tool that wrote them.
const MAX: usize = 10_000;

/// Calls that a change is meant to deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Each `None` covers everything.
    principal: Option<String>,
    action: Option<String>,
    service: Option<String>,
}

impl Announced {
    /// Whether it speaks of this call: SPIFFE ID, Cedar action and `<trust domain>/<namespace>/<service>`.
    pub fn covers(&self, principal: &str, action: &str, service: &str) -> bool {
        let fits = |said: &Option<String>, is: &str| said.as_deref().is_none_or(|said| said == is);
        fits(&self.principal, principal) && fits(&self.action, action) && fits(&self.service, service)
    }
}

/// The lines of a commit's message. A line that does not parse announces nothing.
pub(crate) fn in_message(message: &[u8]) -> Vec<Announced> {
    let text = String::from_utf8_lossy(message);
    text.lines().filter_map(|line| line.trim().strip_prefix(TRAILER)?.parse().ok()).take(MAX).collect()
}

impl FromStr for Announced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [principal, action, service] = words.as_slice() else {
            return Err(format!("`{text}` is not `PRINCIPAL ACTION SERVICE`"));
        };
        let part = |word: &str| (word != "*").then(|| word.to_owned());
        Ok(Self { principal: part(principal), action: part(action), service: part(service) })
    }
}

impl fmt::Display for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |said: &Option<String>| said.clone().unwrap_or_else(|| "*".to_owned());
        write!(f, "{} {} {}", part(&self.principal), part(&self.action), part(&self.service))
    }
}

impl Serialize for Announced {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Announced {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_message_are_read_and_half_ones_announce_nothing() {
        let message = b"Close the ledger to web\n\nBecause.\n\n\
            Signet-Denies: spiffe://a.b/ns/bank/sa/web http:GET a.b/bank/ledger\n\
            Signet-Denies: * * a.b/bank/old\n\
            Signet-Denies: spiffe://a.b/ns/bank/sa/app\n\
            Signet-Denies:\n\
            Reviewed-by: Signet-Denies: * * *\n";
        let found = in_message(message);
        assert_eq!(found.len(), 2, "{found:?}");
        let covered = |principal, action, service| found.iter().any(|a| a.covers(principal, action, service));
        assert!(covered("spiffe://a.b/ns/bank/sa/web", "http:GET", "a.b/bank/ledger"));
        assert!(!covered("spiffe://a.b/ns/bank/sa/web", "http:POST", "a.b/bank/ledger"));
        assert!(!covered("spiffe://a.b/ns/bank/sa/app", "http:GET", "a.b/bank/ledger"));
        assert!(covered("spiffe://a.b/ns/bank/sa/app", "tcp:connect", "a.b/bank/old"));
        for one in &found {
            assert_eq!(one.to_string().parse::<Announced>().as_ref(), Ok(one));
        }
    }
}
