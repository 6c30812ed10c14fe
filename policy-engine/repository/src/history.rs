//! The first-parent line between the last accepted commit and the head, and the signature of each commit on it.

use gix::ObjectId;
use gix::objs::{CommitRef, Kind};

use crate::layout::Bounds;
use crate::refusal::Cause;
use crate::signers::{Claim, TrustedSigners};
use crate::tree::read_object;

/// A commit, decoded from bytes that hash to its id.
pub(crate) struct Commit {
    pub(crate) id: ObjectId,
    data: Vec<u8>,
}

/// Commits that do not fit into this are not policy commits.
const COMMIT_BYTES: u64 = 1 << 20;

impl Commit {
    pub(crate) fn read(repo: &gix::Repository, id: ObjectId) -> Result<Self, Cause> {
        let data = read_object(repo, id, Kind::Commit, COMMIT_BYTES, "the commit")?;
        let commit = Self { id, data };
        commit.decode()?;
        Ok(commit)
    }

    fn decode(&self) -> Result<CommitRef<'_>, Cause> {
        CommitRef::from_bytes(&self.data, self.id.kind())
            .map_err(|e| Cause::new("corrupt", format!("commit {} is malformed: {e}", self.id)))
    }

    pub(crate) fn tree(&self) -> Result<ObjectId, Cause> {
        Ok(self.decode()?.tree())
    }

    pub(crate) fn message(&self) -> Result<Vec<u8>, Cause> {
        Ok(self.decode()?.message.to_vec())
    }

    pub(crate) fn parents(&self) -> Result<Vec<ObjectId>, Cause> {
        Ok(self.decode()?.parents().collect())
    }

    /// Checks the signature; `now` (Unix seconds) is given for commits that were never accepted before, whose key has
    /// to be valid today as well as on the date that the commit claims, because anybody can write an old date.
    pub(crate) fn verify(&self, signers: &TrustedSigners, now: Option<i64>) -> Result<String, Cause> {
        let id = self.id;
        let malformed = |what: &str| Cause::new("corrupt", format!("the {what} of commit {id} is malformed"));
        let decoded = self.decode()?;
        let author = decoded.author().map_err(|_| malformed("author"))?;
        let committer = decoded.committer().map_err(|_| malformed("committer"))?;
        let email = |bytes: &gix::bstr::BStr, what: &str| {
            std::str::from_utf8(bytes).map(|s| s.trim().to_owned()).map_err(|_| malformed(what))
        };
        let (author, committer_email) = (email(author.email, "author")?, email(committer.email, "committer")?);
        let signed_at = committer.time().map_err(|_| malformed("committer"))?.seconds;
        let signature =
            gix::objs::CommitRefIter::signature(&self.data, id.kind()).map_err(|_| malformed("signature"))?;
        let Some((signature, signed)) = signature else {
            let message = format!("commit {id} by <{author}> is not signed; sign it with `git commit -S`");
            return Err(Cause::new("unsigned", message));
        };
        let times: Vec<i64> = std::iter::once(signed_at).chain(now).collect();
        let claim = Claim {
            signature: &signature,
            signed: &signed.to_bstring(),
            author: &author,
            committer: &committer_email,
            times: &times,
        };
        signers.verify(&claim).map_err(|cause| Cause { message: format!("commit {id}: {}", cause.message), ..cause })
    }
}

/// Commits after `last` up to `head`, newest first; without `last` the head alone, whose signature vouches for its tree.
pub(crate) fn since(
    repo: &gix::Repository,
    head: ObjectId,
    last: Option<ObjectId>,
    bounds: &Bounds,
) -> Result<Vec<Commit>, Cause> {
    let mut line = Vec::new();
    let mut next = head;
    let Some(last) = last else { return Ok(vec![Commit::read(repo, head)?]) };
    while next != last {
        if line.len() >= bounds.commits {
            let message =
                format!("the last accepted commit {last} is not among the {} commits before {head}", bounds.commits);
            return Err(Cause::new("rewritten", message));
        }
        let commit = Commit::read(repo, next)?;
        let parent = commit.parents()?.first().copied();
        line.push(commit);
        next = parent.ok_or_else(|| {
            let message = format!(
                "{head} does not descend from the last accepted commit {last} by first parents; history may only move \
                 forward, so make the change as a new commit on top of {last}"
            );
            Cause::new("rewritten", message)
        })?;
    }
    Ok(line)
}
