//! A policy repository on disk: its head, the branch's or the highest signed tag's, and the way from a head to an accepted bundle.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use gix::ObjectId;
use gix::objs::Kind;
use signet_policy::BundleSource;

use crate::announced::{Announced, in_message};
use crate::check::check;
use crate::history::{Commit, since};
use crate::layout::Bounds;
use crate::refusal::{Cause, Refusal, RepositoryError};
use crate::reviews::{Change, ReviewRules};
use crate::signers::TrustedSigners;
use crate::tags::{Tag, highest};
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

/// A policy repository and the branch, or the tags, that are enforced. Each call opens it afresh, so a repository that was replaced
/// or repacked is seen as it is. All calls block on files: run them off the async threads.
#[derive(Clone, Debug)]
pub struct Repository {
    path: PathBuf,
    branch: String,
    tags: Option<String>,
    bounds: Bounds,
}

/// What is to be enforced, and the tag that says so.
struct Head {
    commit: ObjectId,
    tag: Option<Tag>,
}

impl Repository {
    /// A repository at `path` (its work tree, its `.git` or a bare one), which has to exist; the branch need not yet.
    pub fn open(path: impl AsRef<Path>, branch: &str) -> Result<Self, RepositoryError> {
        let (path, branch) = (path.as_ref().to_owned(), branch.to_owned());
        let repository = Self { path, branch, tags: None, bounds: Bounds::default() };
        repository.git()?;
        Ok(repository)
    }

    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Follows the highest of the signed tags `<prefix><version>` instead of the branch; a version is numbers and dots.
    #[must_use]
    pub fn with_tags(mut self, prefix: &str) -> Self {
        self.tags = Some(prefix.to_owned());
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// The branch's, or the highest tag's, commit, whether acceptable or not.
    pub fn head(&self) -> Result<CommitId, RepositoryError> {
        let git = self.git()?;
        let id = self.position_in(&git)?;
        // What is no commit and no tag of one is refused by [`Repository::accept`].
        let commit = git.find_object(id).ok().and_then(|object| object.peel_to_kind(Kind::Commit).ok());
        Ok(CommitId(commit.map_or(id, |commit| commit.id).to_string()))
    }

    /// The object that the branch, or the highest tag, names: a tag that was made anew has another, also for the same commit.
    pub fn position(&self) -> Result<String, RepositoryError> {
        let git = self.git()?;
        self.position_in(&git).map(|id| id.to_string())
    }

    fn position_in(&self, git: &gix::Repository) -> Result<ObjectId, RepositoryError> {
        match &self.tags {
            Some(prefix) => highest(git, &self.path, prefix).map(|(_, id)| id),
            None => self.branch_id(git),
        }
    }

    /// The bundle of the branch's head, or of the highest tag's commit, if it may be enforced. A tag needs a trusted
    /// tagger's signature beside those of the commits.
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
        let now = now.unwrap_or(i64::MAX);
        let git = self.git().map_err(|error| unreadable(&error).refuse(""))?;
        let Head { commit: head, tag } = self.head_in(&git)?;
        if let Some(tag) = tag {
            // What was accepted stays so.
            let new = last_accepted != Some(head.to_string().as_str());
            tag.verify(signers, new.then_some(now)).map_err(|cause| cause.refuse(head))?;
        }
        let (files, signer) = self
            .read(&git, head, last_accepted, &Trust { signers, reviews, now })
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

    fn head_in(&self, git: &gix::Repository) -> Result<Head, Refusal> {
        let Some(prefix) = &self.tags else {
            let commit = self.branch_id(git).map_err(|error| unreadable(&error).refuse(""))?;
            return Ok(Head { commit, tag: None });
        };
        let (name, id) = highest(git, &self.path, prefix).map_err(|error| unreadable(&error).refuse(""))?;
        let tag = Tag::read(git, &name, id).map_err(|cause| cause.refuse(id))?;
        Ok(Head { commit: tag.commit(), tag: Some(tag) })
    }

    fn branch_id(&self, git: &gix::Repository) -> Result<ObjectId, RepositoryError> {
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

/// Not a judgement of a head: there is none, or it cannot be read now.
fn unreadable(error: &RepositoryError) -> Cause {
    let code = match error {
        RepositoryError::NoBranch { .. } => "no_branch",
        RepositoryError::NoTag { .. } => "no_tag",
        _ => "unreadable",
    };
    Cause::new(code, error.to_string())
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
