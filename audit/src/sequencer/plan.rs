//! Which records of a batch are new, which came before, which are missing: pure.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Committed, Outcome, Refused, Work};
use crate::merkle::Hash;
use crate::store::compact::Prepared;

/// An epoch as the transaction sees it.
#[derive(Debug, Clone)]
pub(super) struct Epoch {
    pub(super) id: i32,
    pub(super) producer: String,
    pub(super) watermark: u64,
    pub(super) missing: u64,
    pub(super) closed: bool,
    pub(super) clock_offset_us: i64,
}

/// The leaves that are stored under the sequences of a batch that are at or below the watermark.
pub(super) type Stored = HashMap<u64, Hash>;

/// A row to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) epoch_id: i32,
    pub(super) sequence: u64,
    pub(super) entry: &'a Prepared,
}

/// Something that the service has to record itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Gap { first: u64, last: u64 },
    Conflict { sequence: u64, stored: Hash, came: Hash },
}

/// What becomes of one batch.
#[derive(Debug, Default)]
pub(super) struct Planned<'w> {
    pub(super) new: Vec<Row<'w>>,
    pub(super) duplicates: u64,
    pub(super) finding: Option<Finding>,
}

/// The part of a batch at or below a watermark, as first and last sequence; `None` when all of it is new.
pub(super) fn delivered_before(work: &Work, watermark: u64) -> Option<(u64, u64)> {
    let last = reaches(work).min(watermark);
    (work.first_sequence <= last).then_some((work.first_sequence, last))
}

/// The last sequence that a batch reaches.
fn reaches(work: &Work) -> u64 {
    (work.first_sequence - 1).saturating_add(work.entries.len() as u64)
}

/// Compares a batch with what is stored and moves the epoch on. On a refusal the epoch stays as it is; a conflict is in
/// the plan all the same.
pub(super) fn plan<'w>(work: &'w Work, epoch: &mut Epoch, stored: &Stored) -> (Planned<'w>, Outcome) {
    let mut planned = Planned::default();
    if epoch.producer != *work.producer {
        return (planned, Err(Refused::OtherProducer { epoch: work.epoch }));
    }
    let reaches = reaches(work);
    if epoch.closed && reaches > epoch.watermark {
        return (planned, Err(Refused::Closed { epoch: work.epoch, last: epoch.watermark }));
    }
    let mut missing = epoch.missing;
    for (sequence, entry) in (work.first_sequence..).zip(&work.entries) {
        if sequence > epoch.watermark {
            planned.new.push(Row { epoch_id: epoch.id, sequence, entry });
            continue;
        }
        match stored.get(&sequence) {
            Some(leaf) if *leaf == entry.leaf => planned.duplicates += 1,
            Some(leaf) => {
                let finding = Finding::Conflict { sequence, stored: *leaf, came: entry.leaf };
                let planned = Planned { finding: Some(finding), ..Planned::default() };
                return (planned, Err(Refused::Conflict { epoch: work.epoch, sequence }));
            }
            // It was skipped before and comes after all.
            None if missing > 0 => {
                missing -= 1;
                planned.new.push(Row { epoch_id: epoch.id, sequence, entry });
            }
            // Stored once and gone with its partition.
            None => planned.duplicates += 1,
        }
    }
    let expected = epoch.watermark + 1;
    if work.first_sequence > expected {
        let last = work.first_sequence - 1;
        planned.finding = Some(Finding::Gap { first: expected, last });
        missing += last - epoch.watermark;
    }
    epoch.missing = missing;
    epoch.watermark = epoch.watermark.max(reaches);
    epoch.closed |= work.closing;
    epoch.clock_offset_us = work.clock_offset_us;
    (planned, Ok(Committed { last: reaches, closed: epoch.closed }))
}

/// The rows of this transaction that a later batch of it delivers again.
pub(super) fn stored_in(rows: &[Row<'_>], epoch_id: i32, first: u64, last: u64) -> Stored {
    rows.iter()
        .filter(|row| row.epoch_id == epoch_id && (first..=last).contains(&row.sequence))
        .map(|row| (row.sequence, row.entry.leaf))
        .collect()
}

/// Epochs by their UUID.
pub(super) type Epochs = HashMap<Uuid, Epoch>;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::sync::oneshot;

    use super::*;
    use crate::merkle::leaf_hash;

    fn work(first_sequence: u64, entries: &[&str], closing: bool) -> Work {
        let entries = entries
            .iter()
            .map(|text| Prepared {
                canonical: text.as_bytes().to_vec(),
                personal: Vec::new(),
                leaf: leaf_hash(text.as_bytes()),
                keys: Default::default(),
            })
            .collect();
        Work {
            producer: "p".into(),
            epoch: Uuid::nil(),
            first_sequence,
            entries,
            closing,
            clock_offset_us: 0,
            reply: oneshot::channel().0,
        }
    }

    fn epoch(watermark: u64, missing: u64) -> Epoch {
        Epoch { id: 1, producer: "p".to_owned(), watermark, missing, closed: false, clock_offset_us: 0 }
    }

    fn stored(texts: &[(u64, &str)]) -> Stored {
        texts.iter().map(|(sequence, text)| (*sequence, leaf_hash(text.as_bytes()))).collect()
    }

    fn committed(last: u64, closed: bool) -> Outcome {
        Ok(Committed { last, closed })
    }

    fn sequences(planned: &Planned<'_>) -> Vec<u64> {
        planned.new.iter().map(|row| row.sequence).collect()
    }

    #[test]
    fn only_what_lies_above_the_watermark_is_new() {
        let mut epoch = epoch(2, 0);
        let stored = stored(&[(1, "a"), (2, "b")]);
        let work = work(1, &["a", "b", "c"], true);
        let (planned, outcome) = plan(&work, &mut epoch, &stored);
        assert_eq!((sequences(&planned), planned.duplicates, outcome), (vec![3], 2, committed(3, true)));
        assert!(epoch.closed && planned.finding.is_none());
    }

    #[test]
    fn a_jump_is_a_gap_and_what_comes_late_fills_it_once() {
        let (none, mut epoch) = (Stored::new(), epoch(1, 0));
        let ahead = work(4, &["d"], false);
        let (planned, outcome) = plan(&ahead, &mut epoch, &none);
        assert_eq!((planned.finding, outcome), (Some(Finding::Gap { first: 2, last: 3 }), committed(4, false)));
        assert_eq!(epoch.missing, 2);
        let late = work(2, &["b"], false);
        let (planned, outcome) = plan(&late, &mut epoch, &none);
        assert_eq!((sequences(&planned), outcome, epoch.missing), (vec![2], committed(2, false), 1));
        let stored = stored(&[(2, "b")]);
        let (planned, _) = plan(&late, &mut epoch, &stored);
        assert_eq!((planned.duplicates, epoch.missing), (1, 1));
    }

    #[test]
    fn a_closing_mark_beyond_the_watermark_is_a_gap() {
        let mut epoch = epoch(1, 0);
        let (end, none) = (work(3, &[], true), Stored::new());
        let (planned, outcome) = plan(&end, &mut epoch, &none);
        assert_eq!((planned.finding, outcome), (Some(Finding::Gap { first: 2, last: 2 }), committed(2, true)));
    }

    #[test]
    fn other_bytes_under_the_same_sequence_are_a_conflict_and_take_nothing() {
        let mut epoch = epoch(2, 0);
        let stored = stored(&[(2, "b")]);
        let work = work(2, &["B", "c"], false);
        let (planned, outcome) = plan(&work, &mut epoch, &stored);
        assert_eq!(outcome, Err(Refused::Conflict { epoch: Uuid::nil(), sequence: 2 }));
        assert!(planned.new.is_empty());
        assert_eq!(epoch.watermark, 2);
    }

    #[test]
    fn an_epoch_takes_nothing_of_another_producer_or_after_its_end() {
        let mut other = Epoch { producer: "q".to_owned(), ..epoch(0, 0) };
        assert!(matches!(
            plan(&work(1, &["a"], false), &mut other, &Stored::new()).1,
            Err(Refused::OtherProducer { .. })
        ));
        let mut closed = Epoch { closed: true, ..epoch(1, 0) };
        assert!(matches!(plan(&work(2, &["b"], false), &mut closed, &Stored::new()).1, Err(Refused::Closed { .. })));
        let stored = stored(&[(1, "a")]);
        assert_eq!(
            plan(&work(1, &["a"], true), &mut closed, &stored).1,
            committed(1, true),
            "redelivery of the end is fine"
        );
    }
}
