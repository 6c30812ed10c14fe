//! Policy repositories: Git history, trusted signers, the files of a bundle and the checks that a bundle must pass.
//!
//! [`Repository::accept`] is the only way from a commit to a bundle that is enforced; [`check`] judges the same files
//! without Git, for a person at work. Nothing in a repository is ever executed and no program is spawned.
//!
//! Invariants:
//! - An accepted commit and every commit on the first-parent line since the last accepted one carry an SSH signature by
//!   a trusted key that is bound to the commit's author and committer.
//! - What is read has the content that its object id promises, within the bounds of [`Bounds`].
//! - Where review rules ask for it, several people signed the very tree that is enforced.
//! - An accepted bundle compiles strictly and passes its own tests.

mod announced;
mod break_glass;
mod cases;
mod check;
mod directory;
mod history;
mod layout;
mod lint;
mod refusal;
mod repository;
mod reviews;
mod revision;
mod signers;
mod tags;
mod tree;

pub use announced::Announced;
pub use break_glass::{AcceptedGrant, BREAK_GLASS_NAMESPACE, GrantDocument, GrantRefusal, GrantRules};
pub use cases::TestResult;
pub use check::{Report, Untested, check, coverage};
pub use directory::{DirectoryError, read_dir};
pub use layout::{Bounds, is_wanted as is_bundle_file};
pub use refusal::{Refusal, RepositoryError};
pub use repository::{CommitId, Repository};
pub use reviews::{ReviewRules, ReviewsError};
pub use revision::{RevisionError, Revisions};
pub use signers::{SignersError, TrustedSigners};
