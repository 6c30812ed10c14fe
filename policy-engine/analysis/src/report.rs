//! Everything that is to be said about a change before it is merged, and the forms in which it is read: Markdown for a
//! comment, SARIF and JUnit for a pipeline, JSON for programs.

mod junit;
mod markdown;
mod sarif;

use serde::{Serialize, Serializer};
use signet_policy::{Bundle, BundleSource, Problem};
use signet_policy_repository::{self as repository, TestResult};

use crate::diff::{Change, Diff, diff};
use crate::invariants::{Held, Invariant, invariants};
use crate::replay::Replay;
use crate::solver::SolverSettings;

pub use junit::junit;

/// What a change is and does.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Commits, or `working-tree`.
    pub base: String,
    pub head: String,
    /// Bundle digests.
    pub base_digest: String,
    pub head_digest: String,
    /// Whether the change must not be merged: see [`Report::broken`].
    pub is_broken: bool,
    /// Of head.
    pub problems: Vec<Problem>,
    pub tests: Vec<TestResult>,
    /// Nothing when one of the sides does not compile.
    pub diff: Option<Diff>,
    /// Of head.
    pub invariants: Vec<Invariant>,
    /// Ids of invariants that base states and head does not, or states otherwise.
    pub weakened_invariants: Vec<String>,
    /// What head does to recorded traffic; `"not run"` in JSON when no records were given.
    #[serde(serialize_with = "or_not_run")]
    pub replay: Option<Replay>,
}

fn or_not_run<S: Serializer>(replay: &Option<Replay>, serializer: S) -> Result<S::Ok, S::Error> {
    match replay {
        Some(replay) => replay.serialize(serializer),
        None => serializer.serialize_str(NOT_RUN),
    }
}

const NOT_RUN: &str = "not run";

impl Report {
    /// Judges the change from `base` to `head`. Starts solver processes; blocks.
    pub fn new(base: &BundleSource, head: &BundleSource, settings: &SolverSettings) -> Self {
        let checked = repository::check(head);
        let mut report = Self {
            base: base.commit.clone(),
            head: head.commit.clone(),
            base_digest: base.digest(),
            head_digest: checked.digest,
            is_broken: false,
            problems: checked.problems,
            tests: checked.tests,
            diff: None,
            invariants: Vec::new(),
            weakened_invariants: weakened(base, head),
            replay: None,
        };
        if let Ok(after) = Bundle::compile(head) {
            report.invariants = invariants(head, &after, settings);
            match Bundle::compile(base) {
                Ok(before) => report.diff = Some(diff(&before, &after, settings)),
                // Head may be what mends it: said, and no fault of head's.
                Err(problems) => report.problems.extend(problems.into_iter().take(1).map(|mut problem| {
                    problem.severity = signet_policy::Severity::Warning;
                    problem.message = format!("base does not compile, so nothing is compared: {}", problem.message);
                    problem
                })),
            }
        }
        report.is_broken = !report.broken().is_empty();
        report
    }

    /// Why the change must not be merged, one sentence each: an error, a failed test, an invariant that does not hold,
    /// something that is not decided. A change that permits more is shown and is not broken by that.
    pub fn broken(&self) -> Vec<String> {
        let mut why = Vec::new();
        let mut say = |count: usize, one: &str, many: &str| match count {
            0 => {}
            1 => why.push(format!("1 {one}")),
            n => why.push(format!("{n} {many}")),
        };
        say(self.problems.iter().filter(|p| p.is_error()).count(), "error", "errors");
        say(self.tests.iter().filter(|t| !t.passed).count(), "failed test", "failed tests");
        let invariants = |wanted: fn(&Held) -> bool| self.invariants.iter().filter(|i| wanted(&i.held)).count();
        say(invariants(|held| matches!(held, Held::Broken(_))), "broken invariant", "broken invariants");
        say(invariants(|held| matches!(held, Held::NotDecided(_))), "undecided invariant", "undecided invariants");
        say(self.of(Change::NotDecided), "undecided request type", "undecided request types");
        why
    }

    /// How many request types changed so.
    fn of(&self, change: Change) -> usize {
        self.diff.iter().flat_map(|d| &d.request_types).filter(|row| row.result == change).count()
    }
}

fn weakened(base: &BundleSource, head: &BundleSource) -> Vec<String> {
    // With the facts of head: a bundle of invariants alone compiles wherever head does.
    let stated = |source: &BundleSource| {
        let mut alone = BundleSource { commit: source.commit.clone(), ..BundleSource::default() };
        alone.files.insert("signet.yaml".to_owned(), "version: 1\n".to_owned());
        let files = source.files.iter().filter(|(path, _)| path.starts_with("invariants/"));
        alone.files.extend(files.map(|(path, text)| (format!("policies/{path}"), text.clone())));
        let bundle = Bundle::compile(&alone).ok();
        let texts = bundle.iter().flat_map(Bundle::policies).map(|p| (p.id().to_owned(), p.text().to_owned()));
        texts.collect::<std::collections::BTreeMap<_, _>>()
    };
    let after = stated(head);
    stated(base).into_iter().filter(|(id, text)| after.get(id) != Some(text)).map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests;
