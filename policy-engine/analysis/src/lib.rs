//! Analysis of policy changes: what a change permits and denies that was not so before, proved by a solver; which of a
//! repository's invariants it breaks; what it does to traffic that was recorded.
//!
//! Used by the command line and by pipelines; never by a sidecar: this crate starts solver processes.
//!
//! Invariants:
//! - Nothing is claimed that was not proved, and no example is shown that the engine did not decide again under both
//!   bundles.
//! - Shadow policies are no part of what is enforced, in proofs too; an erring forbid denies.

mod diff;
mod example;
mod format;
mod invariants;
mod recorded;
mod replay;
mod report;
mod solver;
mod suggest;
mod symbolic;
mod template;
mod traffic;
mod unused;

pub use diff::{Answer, Change, Diff, Finding, TypeDiff, diff};
pub use example::Example;
pub use format::format;
pub use invariants::{Breach, Held, Invariant, invariants};
pub use recorded::{JsonLines, Recorded, Records, RecordsError};
pub use replay::{Flip, Replay, replay};
pub use report::{Report, junit};
pub use solver::{SolverSettings, Undecided};
pub use suggest::{Suggestion, suggest};
pub use traffic::{Seen, Traffic, Used};
pub use unused::{Use, Uses, uses};
