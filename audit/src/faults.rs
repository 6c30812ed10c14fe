//! What parts of the service find failing, told to the alerts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

/// A fault that nobody speaks of for this long is over. Longer than any part takes from one failure to the next.
const VALID: Duration = Duration::from_secs(40);
/// Faults at once; more are in the log of this process only.
const MOST: usize = 2_000;

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Cause {
    /// A producer's clock is more than a second off.
    Clock,
    /// A continuous export is not taken.
    Export,
    /// Records are not taken, of all producers or of one.
    Ingestion,
    /// A producer skipped records, or fell silent.
    Missing,
    /// Nobody reviewed the log in time.
    Review,
    /// Nothing gets its place in the log, or no checkpoint is signed.
    Sequencing,
    /// A producer's spool is full or failed.
    Spool,
}

impl Cause {
    pub(crate) const ALL: [Self; 7] =
        [Self::Clock, Self::Export, Self::Ingestion, Self::Missing, Self::Review, Self::Sequencing, Self::Spool];

    /// As records, metrics and webhooks name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock_offset",
            Self::Export => "export_failed",
            Self::Ingestion => "ingestion_failed",
            Self::Missing => "records_missing",
            Self::Review => "review_overdue",
            Self::Sequencing => "sequencing_failed",
            Self::Spool => "spool_failed",
        }
    }

    /// The cause that records and rows name so.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }
}

/// A fault: what failed, and whose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fault {
    pub(crate) cause: Cause,
    /// A producer's SPIFFE ID, a log, or a part of this service.
    pub(crate) subject: String,
}

/// Faults with what is known of each.
pub(crate) type Known = BTreeMap<Fault, String>;

/// Which of a subject's instances reported a fault, what it is and when.
type Reports = HashMap<(Fault, Uuid), (String, Instant)>;

/// Where parts report; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Reports>>);

impl Faults {
    /// Says that something fails. `instance` tells a subject's epochs apart, so that a healthy one does not speak for another.
    pub(crate) fn report(&self, cause: Cause, subject: &str, instance: Uuid, detail: impl Into<String>) {
        let key = (Fault { cause, subject: subject.to_owned() }, instance);
        let mut reports = self.0.lock();
        if reports.len() < MOST || reports.contains_key(&key) {
            reports.insert(key, (detail.into(), Instant::now()));
        }
    }

    /// Says that it works again.
    pub(crate) fn works(&self, cause: Cause, subject: &str, instance: Uuid) {
        let mut reports = self.0.lock();
        if !reports.is_empty() {
            reports.remove(&(Fault { cause, subject: subject.to_owned() }, instance));
        }
    }

    /// What fails at this time.
    pub(crate) fn known(&self, now: Instant) -> Known {
        let mut reports = self.0.lock();
        reports.retain(|_, (_, at)| now.saturating_duration_since(*at) < VALID);
        reports.iter().map(|((fault, _), (detail, _))| (fault.clone(), detail.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_lasts_until_it_works_again_or_nobody_speaks_of_it() {
        let (faults, [one, other]) = (Faults::default(), [Uuid::from_u128(1), Uuid::from_u128(2)]);
        faults.report(Cause::Spool, "p", one, "full");
        faults.works(Cause::Spool, "p", other);
        assert_eq!(faults.known(Instant::now()).len(), 1, "another instance's health is not this one's");
        faults.works(Cause::Spool, "p", one);
        assert!(faults.known(Instant::now()).is_empty());
        faults.report(Cause::Spool, "p", one, "full");
        assert!(faults.known(Instant::now() + VALID).is_empty());
    }

    #[test]
    fn causes_are_found_by_their_names() {
        for cause in Cause::ALL {
            assert_eq!(Cause::named(cause.as_str()), Some(cause));
        }
        assert_eq!(Cause::named("none"), None);
    }
}
