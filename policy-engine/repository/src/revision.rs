//! The bundle of any revision, for a person or a pipeline that compares two of them. Signatures play no part here: what
//! is read so is looked at and never enforced.

use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::ByteSlice;
use signet_policy::BundleSource;
use thiserror::Error;

use crate::history::Commit;
use crate::layout::Bounds;
use crate::tree::{read_files, subtree};

#[derive(Debug, Error)]
pub enum RevisionError {
    #[error("`{}` is in no Git repository: {why}", .path.display())]
    NoRepository { path: PathBuf, why: String },
    #[error("`{revision}` names no commit: {why}")]
    NoCommit { revision: String, why: String },
    #[error("`{revision}` has no folder `{folder}`")]
    NoFolder { revision: String, folder: String },
    #[error("cannot read the bundle of `{revision}` ({code}): {message}")]
    Unreadable { revision: String, code: &'static str, message: String },
}

/// A Git repository around a policy repository, which may be a folder of it.
pub struct Revisions {
    git: gix::Repository,
    /// From the work tree's root to the policy repository; empty where they are the same.
    folder: PathBuf,
}

impl Revisions {
    /// Finds the Git repository that `path`, the root of a policy repository, is in.
    pub fn discover(path: impl AsRef<Path>) -> Result<Self, RevisionError> {
        let path = path.as_ref();
        let fail = |why: String| RevisionError::NoRepository { path: path.to_owned(), why };
        let absolute = path.canonicalize().map_err(|e| fail(e.to_string()))?;
        let mut root = absolute.as_path();
        let git = loop {
            // Isolated, as for acceptance: no configuration of the user or the system has a say.
            let options = gix::open::Options::isolated().config_overrides(["core.useReplaceRefs=false"]);
            match gix::open_opts(root, options) {
                Ok(git) => break git,
                Err(error) => match root.parent() {
                    Some(parent) => root = parent,
                    None => return Err(fail(error.to_string())),
                },
            }
        };
        let top = git.workdir().map_or_else(|| root.to_owned(), Path::to_owned);
        let top = top.canonicalize().map_err(|e| fail(e.to_string()))?;
        let folder = absolute.strip_prefix(&top).map(Path::to_owned).unwrap_or_default();
        Ok(Self { git, folder })
    }

    /// The bundle of a revision such as `HEAD~1`, `main` or a commit's id, within [`Bounds`]; its `commit` is the full id.
    pub fn read(&self, revision: &str) -> Result<BundleSource, RevisionError> {
        let unreadable = |cause: crate::refusal::Cause| RevisionError::Unreadable {
            revision: revision.to_owned(),
            code: cause.code,
            message: cause.message,
        };
        let id = self.resolve(revision)?;
        let mut tree = Commit::read(&self.git, id).and_then(|commit| commit.tree()).map_err(unreadable)?;
        for part in &self.folder {
            let missing =
                || RevisionError::NoFolder { revision: revision.to_owned(), folder: self.folder.display().to_string() };
            let name = part.to_str().ok_or_else(missing)?;
            tree = subtree(&self.git, tree, name.as_bytes().as_bstr()).map_err(unreadable)?.ok_or_else(missing)?;
        }
        let files = read_files(&self.git, tree, &Bounds::default()).map_err(unreadable)?;
        Ok(BundleSource { commit: id.to_string(), files, ..BundleSource::default() })
    }

    /// The best common ancestor of two revisions, as an id.
    pub fn merge_base(&self, one: &str, other: &str) -> Result<String, RevisionError> {
        let (a, b) = (self.resolve(one)?, self.resolve(other)?);
        let fail = |why: String| RevisionError::NoCommit { revision: format!("{one}...{other}"), why };
        let base = self.git.merge_base(a, b).map_err(|e| fail(e.to_string()))?;
        base.map(|id| id.to_string()).ok_or_else(|| fail("the two have no common ancestor".to_owned()))
    }

    fn resolve(&self, revision: &str) -> Result<ObjectId, RevisionError> {
        let fail = |why: String| RevisionError::NoCommit { revision: revision.to_owned(), why };
        // A revision is a name here, never an option or a search through messages.
        if revision.is_empty() || revision.starts_with(['-', ':']) || revision.contains("{/") {
            return Err(fail("write a branch, a tag, a commit id or `HEAD~1`".to_owned()));
        }
        let id = self.git.rev_parse_single(revision.as_bytes().as_bstr()).map_err(|e| fail(e.to_string()))?;
        let object = id.object().map_err(|e| fail(e.to_string()))?;
        let commit = object.peel_to_kind(gix::object::Kind::Commit).map_err(|e| fail(e.to_string()))?;
        Ok(commit.id)
    }
}
