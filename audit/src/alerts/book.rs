//! Which alerts are on: raised when a fault lasts, cleared when it stays away. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::faults::{Fault, Known};

/// For how long a fault must last before it is an alert, and stay away before the alert is over.
pub(super) const SETTLE: Duration = Duration::from_secs(4);

/// What happened to an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Raised,
    Cleared,
}

#[derive(Debug)]
struct Entry {
    detail: String,
    /// When it was seen first and last.
    first: Instant,
    last: Instant,
    active: bool,
}

/// Faults that were seen, and alerts that are on.
#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<Fault, Entry>);

impl Book {
    /// Takes up alerts that were on before a restart.
    pub(super) fn resume(&mut self, now: Instant, active: Vec<(Fault, String)>) {
        for (fault, detail) in active {
            self.0.insert(fault, Entry { detail, first: now, last: now, active: true });
        }
    }

    /// Notes what fails now; gives what changed, with what is known of it.
    pub(super) fn step(&mut self, now: Instant, faults: &Known) -> Vec<(Fault, String, Change)> {
        let mut changes = Vec::new();
        for (fault, detail) in faults {
            let entry = self.0.entry(fault.clone()).or_insert_with(|| Entry {
                detail: String::new(),
                first: now,
                last: now,
                active: false,
            });
            entry.last = now;
            entry.detail.clone_from(detail);
            if !entry.active && now.duration_since(entry.first) >= SETTLE {
                entry.active = true;
                changes.push((fault.clone(), detail.clone(), Change::Raised));
            }
        }
        self.0.retain(|fault, entry| {
            let over = if entry.active { now.duration_since(entry.last) >= SETTLE } else { entry.last != now };
            if over && entry.active {
                changes.push((fault.clone(), entry.detail.clone(), Change::Cleared));
            }
            !over
        });
        changes
    }

    /// The alerts that are on.
    pub(super) fn active(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter().filter(|(_, entry)| entry.active).map(|(fault, _)| fault)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::faults::Cause;

    fn changes(book: &mut Book, at: Instant, faults: &Known) -> Vec<Change> {
        book.step(at, faults).into_iter().map(|(.., change)| change).collect()
    }

    #[test]
    fn what_lasts_is_raised_once_and_what_stays_away_is_cleared_once() {
        let start = Instant::now();
        let fault = Fault { cause: Cause::Spool, subject: "p".to_owned() };
        let (some, none) = (Known::from([(fault, "full".to_owned())]), Known::new());
        let mut book = Book::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (second, faults, expected) in [
            (0, &some, vec![]),
            (2, &none, vec![]),
            (4, &some, vec![]), // It was away in between: counted anew.
            (6, &some, vec![]),
            (8, &some, vec![Change::Raised]),
            (10, &some, vec![]),
            (12, &none, vec![]),
            (13, &some, vec![]),
            (16, &none, vec![]),
            (17, &none, vec![Change::Cleared]),
            (30, &none, vec![]),
        ] {
            assert_eq!(changes(&mut book, at(second), faults), expected, "second {second}");
        }
        assert_eq!(book.active().count(), 0);
    }

    #[test]
    fn an_alert_of_before_a_restart_is_not_raised_again() {
        let start = Instant::now();
        let fault = Fault { cause: Cause::Clock, subject: "p".to_owned() };
        let mut book = Book::default();
        book.resume(start, vec![(fault.clone(), "2 s".to_owned())]);
        assert!(changes(&mut book, start + SETTLE, &Known::from([(fault, "3 s".to_owned())])).is_empty());
        assert_eq!(changes(&mut book, start + SETTLE * 2, &Known::new()), [Change::Cleared]);
    }
}
