//! Why a repository cannot be read or a commit is not accepted.

use std::path::PathBuf;

use signet_policy::Problem;
use thiserror::Error;

/// A repository that cannot be asked at all.
#[derive(Debug, Error)]
pub enum RepositoryError {
    #[error("cannot open the policy repository `{}`: {why}; give the path of a Git repository", .path.display())]
    Open { path: PathBuf, why: String },
    #[error("the policy repository `{}` has no branch `{branch}`; make a commit on it or configure another", .path.display())]
    NoBranch { path: PathBuf, branch: String },
    #[error("the policy repository `{}` has no tag `{prefix}<version>`, such as `{prefix}1.0`; make one with `git tag -s`", .path.display())]
    NoTag { path: PathBuf, prefix: String },
    #[error("cannot read the tags `{prefix}*` of the policy repository `{}`: {why}", .path.display())]
    Tags { path: PathBuf, prefix: String, why: String },
    #[error("cannot read branch `{branch}` of the policy repository `{}`: {why}", .path.display())]
    Branch { path: PathBuf, branch: String, why: String },
}

/// A commit that is not accepted. The last good bundle stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("commit {commit} is refused ({reason_code}): {message}")]
pub struct Refusal {
    /// The head that was to be accepted; `message` names the commit at fault where it is another.
    pub commit: String,
    /// Stable: `unsigned`, `unsupported_signature`, `bad_signature`, `untrusted_signer`, `signer_expired`,
    /// `signer_not_yet_valid`, `signer_not_author`, `signer_not_committer`, `needs_signatures`, `rewritten`, `too_large`, `symlink`,
    /// `submodule`, `not_utf8`, `corrupt`, `unreadable`, `no_branch`, `no_tag`, `tag_renamed`, `tests_failed`, or the code of the first problem
    /// (`parse`, `validation`, `unguarded_attribute`, `settings`, `missing_id`, `duplicate_id`, ...).
    pub reason_code: String,
    /// What was wrong and where: commits by id, files with line and column.
    pub message: String,
    /// All problems of the bundle, when it was read and judged.
    pub problems: Vec<Problem>,
}

/// A refusal before it is known which head it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Cause {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn refuse(self, commit: impl ToString) -> Refusal {
        Refusal {
            commit: commit.to_string(),
            reason_code: self.code.to_owned(),
            message: self.message,
            problems: Vec::new(),
        }
    }
}
