//! The comment on a pull request.
//!
//! INVARIANT: what comes from the repository or from the solver is text, never markup: it cannot start a heading, an image,
//! a link or a mention in the comment.

use std::fmt::Write as _;

use signet_policy::Problem;

use super::{NOT_RUN, Report};
use crate::diff::{Answer, Change, Finding, TypeDiff};
use crate::invariants::Held;

/// A comment has an end on every forge.
const MOST_ROWS: usize = 50;

impl Report {
    /// The report as a comment, in CommonMark with tables.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let broken = self.broken();
        let _ = match broken.as_slice() {
            [] => writeln!(out, "## Policy report: nothing is broken\n"),
            _ => writeln!(out, "## Policy report: broken ({})\n", broken.join(", ")),
        };
        let _ = writeln!(
            out,
            "From {} to {}, bundle {}.\n",
            code(short(&self.base)),
            code(short(&self.head)),
            code(&self.head_digest)
        );
        self.changes(&mut out);
        self.stated(&mut out);
        self.checks(&mut out);
        self.traffic(&mut out);
        out
    }

    fn changes(&self, out: &mut String) {
        out.push_str("### What it changes\n\n");
        let Some(diff) = &self.diff else {
            out.push_str("Not compared: one of the sides does not compile.\n\n");
            return;
        };
        let total = diff.request_types.len();
        if diff.is_unchanged() {
            let _ = writeln!(out, "Nothing: proved for all {total} request types.\n");
            return;
        }
        let changed = || diff.request_types.iter().filter(|row| row.result != Change::NoChange);
        out.push_str("| | caller | action | target | example |\n|---|---|---|---|---|\n");
        for row in changed().take(MOST_ROWS) {
            self::row(out, row);
        }
        let _ = match changed().count().saturating_sub(MOST_ROWS) {
            0 => writeln!(
                out,
                "\n{} of {total} request types: proved that nothing changes.\n",
                self.of(Change::NoChange)
            ),
            more => writeln!(out, "\nand {more} more request types.\n"),
        };
    }

    fn stated(&self, out: &mut String) {
        if self.invariants.is_empty() && self.weakened_invariants.is_empty() {
            return;
        }
        out.push_str("### Invariants\n\n");
        for invariant in &self.invariants {
            let name = format!("{} ({}:{})", code(&invariant.id), code(&invariant.path), invariant.line);
            let _ = match &invariant.held {
                Held::Holds => writeln!(out, "- {name}: holds, proved"),
                Held::NotDecided(why) => writeln!(out, "- {name}: **not decided**: {}", code(&why.to_string())),
                Held::Broken(breach) => writeln!(
                    out,
                    "- {name}: **broken**: {} is permitted by {}",
                    code(&breach.request.line()),
                    code(&breach.head.policies.join(", "))
                ),
            };
        }
        for id in &self.weakened_invariants {
            let _ = writeln!(out, "- {}: **changed or removed** by this change", code(id));
        }
        out.push('\n');
    }

    fn traffic(&self, out: &mut String) {
        out.push_str("### Recorded traffic\n\n");
        let Some(replay) = &self.replay else {
            let _ = writeln!(out, "replay: {NOT_RUN}");
            return;
        };
        if !replay.flips.is_empty() {
            out.push_str(
                "| recorded | now | caller | action | target | calls | last seen |\n|---|---|---|---|---|---|---|\n",
            );
        }
        for flip in replay.flips.iter().take(MOST_ROWS) {
            let by =
                if flip.now.policies.is_empty() { flip.now.reason.to_owned() } else { flip.now.policies.join(", ") };
            let target =
                flip.path.as_ref().map_or_else(|| flip.destination.clone(), |p| format!("{} {p}", flip.destination));
            let _ = writeln!(
                out,
                "| {} | **{}** by {} | {} | {} | {} | {} | {} |",
                flip.was,
                flip.now.effect,
                cell(&by),
                cell(&flip.source),
                cell(&flip.action),
                cell(&target),
                flip.count,
                cell(&flip.last_seen)
            );
        }
        let more = replay.flips.len().saturating_sub(MOST_ROWS);
        if more > 0 {
            let _ = writeln!(out, "\nand {more} more flows.");
        }
        let (lost, won) = replay.flipped();
        let _ = writeln!(
            out,
            "{}{} calls decided again: {lost} would be denied that were allowed, {won} allowed that were denied.",
            if replay.flips.is_empty() { "" } else { "\n" },
            replay.calls
        );
        let skipped: u64 = replay.not_replayed.values().sum();
        if skipped > 0 || replay.further_flips > 0 {
            let _ = writeln!(
                out,
                "{skipped} records could not be decided again; {} calls flip unlisted.",
                replay.further_flips
            );
        }
    }

    fn checks(&self, out: &mut String) {
        let failed: Vec<_> = self.tests.iter().filter(|test| !test.passed).collect();
        let _ =
            writeln!(out, "### Checks\n\n{} tests passed, {} failed.\n", self.tests.len() - failed.len(), failed.len());
        for test in failed.iter().take(MOST_ROWS) {
            let why = test.message.as_deref().unwrap_or("failed");
            let _ = writeln!(out, "- {}:{}: {}: {}", code(&test.path), test.line, code(&test.name), code(why));
        }
        for problem in self.problems.iter().take(MOST_ROWS) {
            let Problem { path, line, column, code: name, message, .. } = problem;
            let level = if problem.is_error() { "**error**" } else { "warning" };
            let _ = writeln!(out, "- {}:{line}:{column}: {level} {}: {}", code(path), code(name), code(message));
        }
        if !failed.is_empty() || !self.problems.is_empty() {
            out.push('\n');
        }
    }
}

fn row(out: &mut String, row: &TypeDiff) {
    let by = |answer: &Answer| match answer.policies.as_slice() {
        [] => cell(answer.reason),
        policies => cell(&policies.join(", ")),
    };
    let example = |Finding { request, base, head }: &Finding| {
        let (before, after) = (by(base), by(head));
        format!("{}: {} before by {before}, {} after by {after}", cell(&request.line()), base.effect, head.effect)
    };
    let examples: Vec<String> = [&row.newly_permitted, &row.newly_denied].into_iter().flatten().map(example).collect();
    let why = row.undecided.as_ref().map(|why| cell(&why.to_string()));
    let last = if examples.is_empty() { why.unwrap_or_default() } else { examples.join("<br>") };
    let words = row.result.as_str().replace('_', " ");
    let kind = |name: &str| name.strip_prefix("Mesh::").unwrap_or(name).to_owned();
    let _ = writeln!(
        out,
        "| **{words}** | {} | {} | {} | {last} |",
        kind(&row.principal),
        cell(&row.action),
        kind(&row.resource)
    );
}

fn short(commit: &str) -> &str {
    let is_id = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id { commit.get(..12).unwrap_or(commit) } else { commit }
}

/// A code span that its text cannot end: control characters are taken out, backticks become apostrophes.
fn code(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| {
            if c.is_control() {
                ' '
            } else if c == '`' {
                '\''
            } else {
                c
            }
        })
        .collect();
    if plain.trim().is_empty() { "`(nothing)`".to_owned() } else { format!("`{plain}`") }
}

/// The same in a table, where a bar would end the cell.
fn cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}
