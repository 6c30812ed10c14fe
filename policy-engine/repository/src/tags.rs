//! Signed tags as what is enforced: the highest version among the tags of one prefix.
//!
//! INVARIANT: the highest tag counts or none does. Where it is refused, no lower one takes its place: what was enforced stays.

use std::path::Path;

use gix::ObjectId;
use gix::objs::{Kind, TagRef, TagRefIter};

use crate::refusal::{Cause, RepositoryError};
use crate::signers::{Claim, TrustedSigners};
use crate::tree::read_object;

/// Tags that do not fit into this are not policy tags.
const TAG_BYTES: u64 = 64 * 1024;
/// More tags than this are not looked through.
const MOST: usize = 10_000;

/// `1.12` of `policy-1.12`: numbers, compared one after the other.
type Version = Vec<u64>;

/// The name and the id of the highest of the tags `<prefix><n>[.<n>]...`; other tags are nobody's business here. Of two
/// names of one version (`1.02`, `1.2`) the later in order of text counts, so that it is one and the same everywhere.
pub(crate) fn highest(git: &gix::Repository, path: &Path, prefix: &str) -> Result<(String, ObjectId), RepositoryError> {
    let unreadable = |why: String| RepositoryError::Tags { path: path.to_owned(), prefix: prefix.to_owned(), why };
    let platform = git.references().map_err(|e| unreadable(e.to_string()))?;
    let tags = platform.tags().map_err(|e| unreadable(e.to_string()))?;
    let mut found: Option<(Version, String, ObjectId)> = None;
    for (count, tag) in tags.enumerate() {
        if count >= MOST {
            return Err(unreadable(format!("there are more than {MOST} tags")));
        }
        let tag = tag.map_err(|e| unreadable(e.to_string()))?;
        let name = tag.name().shorten().to_string();
        // A symbolic reference is no tag that anybody made.
        let (Some(version), Some(id)) = (version(&name, prefix), tag.try_id()) else { continue };
        if found.as_ref().is_none_or(|(best, of, _)| (best, of) < (&version, &name)) {
            found = Some((version, name, id.detach()));
        }
    }
    let none = || RepositoryError::NoTag { path: path.to_owned(), prefix: prefix.to_owned() };
    found.map(|(_, name, id)| (name, id)).ok_or_else(none)
}

fn version(name: &str, prefix: &str) -> Option<Version> {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
    name.strip_prefix(prefix)?.split('.').map(number).collect()
}

/// An annotated tag of a commit, decoded from bytes that hash to its id.
pub(crate) struct Tag {
    name: String,
    id: ObjectId,
    data: Vec<u8>,
    commit: ObjectId,
}

impl Tag {
    /// Reads the tag that the reference `name` names.
    pub(crate) fn read(git: &gix::Repository, name: &str, id: ObjectId) -> Result<Self, Cause> {
        let header =
            git.find_header(id).map_err(|e| Cause::new("unreadable", format!("cannot read tag {name}: {e}")))?;
        if header.kind() == Kind::Commit {
            let message = format!("the tag {name} is not signed; make it with `git tag -s`");
            return Err(Cause::new("unsigned", message));
        }
        let data = read_object(git, id, Kind::Tag, TAG_BYTES, "the tag")?;
        let commit = {
            let tag = decode(&data, name, id)?;
            // Or an old tag could come back under a higher name.
            if tag.name != name {
                let message = format!("the tag {name} was made and signed as `{}`; make a new tag", tag.name);
                return Err(Cause::new("tag_renamed", message));
            }
            if tag.target_kind != Kind::Commit {
                return Err(Cause::new(
                    "corrupt",
                    format!("the tag {name} is of a {} and not of a commit", tag.target_kind),
                ));
            }
            tag.target()
        };
        Ok(Self { name: name.to_owned(), id, data, commit })
    }

    pub(crate) fn commit(&self) -> ObjectId {
        self.commit
    }

    /// Checks the signature: a trusted key that is bound to the tagger. `now` (Unix seconds) is given for tags of commits
    /// that were never accepted before, as for commits.
    pub(crate) fn verify(&self, signers: &TrustedSigners, now: Option<i64>) -> Result<(), Cause> {
        let name = &self.name;
        let malformed = || Cause::new("corrupt", format!("the tagger of {name} is malformed"));
        let tag = decode(&self.data, name, self.id)?;
        let tagger = tag.tagger().map_err(|_| malformed())?.ok_or_else(malformed)?;
        let email = std::str::from_utf8(tagger.email).map_err(|_| malformed())?.trim();
        let tagged_at = tagger.time().map_err(|_| malformed())?.seconds;
        let Some((signature, signed)) = TagRefIter::signature(&self.data) else {
            let message = format!("the tag {name} by <{email}> is not signed; make it with `git tag -s`");
            return Err(Cause::new("unsigned", message));
        };
        let times: Vec<i64> = std::iter::once(tagged_at).chain(now).collect();
        let claim = Claim {
            signature: signature.data,
            signed: &signed.to_bstring(),
            author: email,
            committer: email,
            times: &times,
        };
        let verified = signers.verify(&claim);
        verified.map(drop).map_err(|cause| Cause { message: format!("tag {name}: {}", cause.message), ..cause })
    }
}

fn decode<'d>(data: &'d [u8], name: &str, id: ObjectId) -> Result<TagRef<'d>, Cause> {
    TagRef::from_bytes(data, id.kind()).map_err(|e| Cause::new("corrupt", format!("tag {name} is malformed: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_after_the_prefix() {
        for (name, expect) in [
            ("policy-1", Some(vec![1])),
            ("policy-1.12", Some(vec![1, 12])),
            ("policy-2026.12.01", Some(vec![2026, 12, 1])),
            ("policy-", None),
            ("policy-1.", None),
            ("policy-1.2-rc1", None),
            ("policy-+1", None),
            ("policy-99999999999999999999", None),
            ("other-1", None),
        ] {
            assert_eq!(version(name, "policy-"), expect, "{name}");
        }
        assert!(version("v1.12", "v") > version("v1.2.9", "v"));
    }
}
