//! A policy repository on disk: its head, and the way from a head to an accepted bundle.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use gix::ObjectId;
use signet_policy::BundleSource;

use crate::announced::{Announced, in_message};
use crate::check::check;
use crate::history::{Commit, since};
use crate::layout::Bounds;
use crate::refusal::{Cause, Refusal, RepositoryError};
use crate::reviews::{Change, ReviewRules};
use crate::signers::TrustedSigners;
use crate::tree::read_files;

/// A commit's object id in hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(String);

impl CommitId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A policy repository and the branch that is enforced. Each call opens it afresh, so a repository that was replaced
/// or repacked is seen as it is. All calls block on files: run them off the async threads.
#[derive(Clone, Debug)]
pub struct Repository {
    path: PathBuf,
    branch: String,
    bounds: Bounds,
}

impl Repository {
    /// A repository at `path` (its work tree, its `.git` or a bare one), which has to exist; the branch need not yet.
    pub fn open(path: impl AsRef<Path>, branch: &str) -> Result<Self, RepositoryError> {
        let repository = Self { path: path.as_ref().to_owned(), branch: branch.to_owned(), bounds: Bounds::default() };
        repository.git()?;
        Ok(repository)
    }

    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// The branch's commit, whether acceptable or not.
    pub fn head(&self) -> Result<CommitId, RepositoryError> {
        let git = self.git()?;
        self.head_id(&git).map(|id| CommitId(id.to_string()))
    }

    /// The bundle of the branch's head, if it may be enforced.
    ///
    /// `last_accepted` is the commit that was accepted before; the head has to descend from it by first parents, and
    /// every commit between has to be signed. Without one the head's own signature is enough. What changed since needs
    /// the signatures that `reviews` ask for. Reads the clock: a key with `valid-before` signs nothing new after that
    /// time, whatever date the commit claims.
    ///
    /// The bundle's `signer` is the head's, followed by all others who signed the same tree, separated by `, `.
    pub fn accept(
        &self,
        last_accepted: Option<&str>,
        signers: &TrustedSigners,
        reviews: &ReviewRules,
    ) -> Result<BundleSource, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok());
        let fail = |e: RepositoryError| {
            let code = if matches!(e, RepositoryError::NoBranch { .. }) { "no_branch" } else { "unreadable" };
            Cause::new(code, e.to_string()).refuse("")
        };
        let git = self.git().map_err(fail)?;
        let head = self.head_id(&git).map_err(fail)?;
        let (files, signer) = self
            .read(&git, head, last_accepted, &Trust { signers, reviews, now: now.unwrap_or(i64::MAX) })
            .map_err(|cause| cause.refuse(head))?;
        let source = BundleSource { commit: head.to_string(), signer, files };
        judge(source)
    }

    /// What the commits after `last` up to `head` say that they deny on purpose. Both were accepted, so the messages are
    /// signed; a line that is not there or not readable any more announces nothing.
    pub fn announced(&self, last: &str, head: &str) -> Vec<Announced> {
        let (Ok(git), Ok(last), Ok(head)) =
            (self.git(), ObjectId::from_hex(last.as_bytes()), ObjectId::from_hex(head.as_bytes()))
        else {
            return Vec::new();
        };
        let line = since(&git, head, Some(last), &self.bounds).unwrap_or_default();
        line.iter().filter_map(|commit| commit.message().ok()).flat_map(|message| in_message(&message)).collect()
    }

    fn read(
        &self,
        git: &gix::Repository,
        head: ObjectId,
        last: Option<&str>,
        trust: &Trust<'_>,
    ) -> Result<(BTreeMap<String, String>, String), Cause> {
        let &Trust { signers, reviews, now } = trust;
        let last = last
            .map(|id| {
                let why = || Cause::new("unreadable", format!("the last accepted commit `{id}` is not an object id"));
                ObjectId::from_hex(id.as_bytes()).map_err(|_| why())
            })
            .transpose()?;
        // Oldest first, so that the message names the first commit that went wrong.
        let line = since(git, head, last, &self.bounds)?;
        for commit in line.iter().skip(1).rev() {
            commit.verify(signers, Some(now))?;
        }
        let Some(commit) = line.into_iter().next() else {
            // The head is the last accepted commit: what was accepted stays so.
            let commit = Commit::read(git, head)?;
            let signer = commit.verify(signers, None)?;
            return Ok((read_files(git, commit.tree()?, &self.bounds)?, signer));
        };
        commit.verify(signers, Some(now))?;
        let files = read_files(git, commit.tree()?, &self.bounds)?;
        // Without a rule nothing is compared.
        let compared = last.filter(|_| !reviews.is_empty());
        let before =
            compared.map(|last| read_files(git, Commit::read(git, last)?.tree()?, &self.bounds)).transpose()?;
        let change = Change { head, last, before: before.as_ref(), after: &files, now };
        let approvals = reviews.accept(&change, git, signers, &self.bounds)?;
        Ok((files, approvals.join(", ")))
    }

    fn git(&self) -> Result<gix::Repository, RepositoryError> {
        // Isolated: neither the environment nor the user's or the system's configuration has a say.
        let options = gix::open::Options::isolated().config_overrides(["core.useReplaceRefs=false"]);
        gix::open_opts(&self.path, options)
            .map_err(|e| RepositoryError::Open { path: self.path.clone(), why: e.to_string() })
    }

    fn head_id(&self, git: &gix::Repository) -> Result<ObjectId, RepositoryError> {
        let (path, branch) = (self.path.clone(), self.branch.clone());
        let name = format!("refs/heads/{branch}");
        let found = git.try_find_reference(name.as_str()).map(|r| r.map(|mut r| r.peel_to_id().map(|id| id.detach())));
        match found {
            Ok(Some(Ok(id))) => Ok(id),
            Ok(None) => Err(RepositoryError::NoBranch { path, branch }),
            Ok(Some(Err(e))) => Err(RepositoryError::Branch { path, branch, why: e.to_string() }),
            Err(e) => Err(RepositoryError::Branch { path, branch, why: e.to_string() }),
        }
    }
}

/// Who may change the policies, and what of them together.
struct Trust<'a> {
    signers: &'a TrustedSigners,
    reviews: &'a ReviewRules,
    /// Unix seconds.
    now: i64,
}

/// Compiles the bundle and runs its tests.
fn judge(source: BundleSource) -> Result<BundleSource, Refusal> {
    let report = check(&source);
    let refusal = |code: &str, message: String| Refusal {
        commit: source.commit.clone(),
        reason_code: code.to_owned(),
        message,
        problems: report.problems.clone(),
    };
    let errors: Vec<_> = report.problems.iter().filter(|p| p.is_error()).collect();
    if let Some(first) = errors.first() {
        let more = if errors.len() > 1 { format!(" (and {} more)", errors.len() - 1) } else { String::new() };
        return Err(refusal(&first.code, format!("{first}{more}")));
    }
    let failed: Vec<_> = report.tests.iter().filter(|t| !t.passed).collect();
    if let Some(first) = failed.first() {
        let total = report.tests.len();
        return Err(refusal("tests_failed", format!("{first} ({} of {total} cases failed)", failed.len())));
    }
    Ok(source)
}
