//! Who decided what: kept by the one who asked.

use std::collections::BTreeSet;

use uuid::Uuid;

/// The decisions of one run.
#[derive(Debug, Default)]
pub struct Books {
    /// The producer answered that the decision was kept: its record must be there.
    pub kept: BTreeSet<Uuid>,
    /// The producer answered that it was not: there must be none.
    pub refused: BTreeSet<Uuid>,
    /// The producer died before it answered, so that nobody acted on it: one record or none.
    pub unanswered: BTreeSet<Uuid>,
}

impl Books {
    pub fn merge(&mut self, mut other: Self) {
        self.kept.append(&mut other.kept);
        self.refused.append(&mut other.refused);
        self.unanswered.append(&mut other.unanswered);
    }

    /// What does not fit the ids that the log holds.
    pub fn compare(&self, recorded: &[Uuid]) -> Vec<String> {
        let distinct: BTreeSet<Uuid> = recorded.iter().copied().collect();
        let mut wrong = Vec::new();
        let mut say = |count: usize, what: &str, example: Option<&Uuid>| {
            if count > 0 {
                wrong.push(format!(
                    "{count} {what}, for example {}",
                    example.map(ToString::to_string).unwrap_or_default()
                ));
            }
        };
        let lost: Vec<&Uuid> = self.kept.difference(&distinct).collect();
        say(lost.len(), "decisions have no record", lost.first().copied());
        say(recorded.len() - distinct.len(), "records are there more than once", None);
        let refused: Vec<&Uuid> = self.refused.intersection(&distinct).collect();
        say(refused.len(), "refused decisions have a record", refused.first().copied());
        let stray: Vec<&Uuid> =
            distinct.iter().filter(|id| !self.kept.contains(id) && !self.unanswered.contains(id)).collect();
        say(stray.len(), "records are of no decision", stray.first().copied());
        wrong
    }
}

/// The comparison finds each kind of mistake; without that a campaign would show nothing.
pub fn check_the_check() {
    let id = Uuid::from_u128;
    let books = Books { kept: [id(1), id(2)].into(), refused: [id(3)].into(), unanswered: [id(4)].into() };
    for fine in [&[id(1), id(2)][..], &[id(2), id(1), id(4)]] {
        assert_eq!(books.compare(fine), Vec::<String>::new());
    }
    for (recorded, what) in [
        (&[id(1)][..], "have no record"),
        (&[id(1), id(2), id(2)], "more than once"),
        (&[id(1), id(2), id(3)], "refused"),
        (&[id(1), id(2), id(9)], "of no decision"),
    ] {
        let wrong = books.compare(recorded);
        assert!(wrong.iter().any(|text| text.contains(what)), "{what}: {wrong:?}");
    }
}
