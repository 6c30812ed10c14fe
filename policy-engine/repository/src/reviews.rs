//! Review rules: whose signatures a change of which files needs, several people's where it matters most.
//!
//! They come from the control plane's own configuration, as the trusted signers do, and never from the repository. A
//! person approves a tree by signing a commit that has it: the change itself, an empty commit on top of it
//! (`git commit -S --allow-empty`), or the head of a branch that was merged without a further change. Signatures over
//! different trees are never counted together, so nobody vouches for a state that they did not see.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gix::ObjectId;
use serde::Deserialize;
use serde_saphyr::Spanned;
use thiserror::Error;

use crate::history::Commit;
use crate::layout::{Bounds, is_wanted, is_wanted_folder};
use crate::refusal::Cause;
use crate::signers::TrustedSigners;

#[derive(Debug, Error)]
pub enum ReviewsError {
    #[error("cannot read the review rules in `{}`: {source}; check `reviews` in the configuration", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}{line}: {why}; see \"Several signatures\" in docs/policy-repository.md", .path.display())]
    Malformed {
        path: PathBuf,
        /// `:LINE`, or nothing.
        line: String,
        why: String,
    },
}

/// Whose signatures a change needs beyond the one that every commit needs. Without rules, none.
#[derive(Clone, Debug, Default)]
pub struct ReviewRules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    /// A file of a bundle, or a folder with `/` at its end.
    paths: Vec<String>,
    /// Empty: every trusted signer.
    owners: BTreeSet<String>,
    signatures: usize,
    line: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<Spanned<FileRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    paths: Vec<String>,
    #[serde(default)]
    owners: BTreeSet<String>,
    #[serde(default = "one")]
    signatures: usize,
}

fn one() -> usize {
    1
}

impl ReviewRules {
    /// Reads the file that `policy.reviews` of the control plane's configuration names.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ReviewsError> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| ReviewsError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, why)| {
            let line = line.map_or_else(String::new, |line| format!(":{line}"));
            ReviewsError::Malformed { path: path.to_owned(), line, why }
        })
    }

    /// Parses the file's text; an error gives its line, from 1, where it has one.
    pub fn parse(text: &str) -> Result<Self, (Option<u64>, String)> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map(|at| at.line());
            let text = error.without_snippet().to_string();
            (line, text.lines().next().unwrap_or("not valid YAML").trim().to_owned())
        })?;
        let rules = file.rules.into_iter().map(|rule| {
            let line = rule.referenced.line();
            let rule = rule.value;
            let fault = rule.fault();
            let FileRule { paths, owners, signatures } = rule;
            fault.map_or_else(|| Ok(Rule { paths, owners, signatures, line }), |why| Err((Some(line), why)))
        });
        rules.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is nothing to ask for.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a change of these paths when a rule wants more signatures than those of `approvals`.
    fn judge(&self, changed: &BTreeSet<&str>, approvals: &[String]) -> Result<(), Cause> {
        for rule in &self.0 {
            let Some(path) = changed.iter().find(|path| rule.covers(path)) else { continue };
            let has: Vec<&str> = approvals.iter().map(String::as_str).filter(|who| rule.counts(who)).collect();
            if has.len() >= rule.signatures {
                continue;
            }
            let whose = if rule.owners.is_empty() {
                "trusted signers".to_owned()
            } else {
                let owners: Vec<&str> = rule.owners.iter().map(String::as_str).collect();
                format!("<{}>", owners.join(">, <"))
            };
            let have = if has.is_empty() { "none".to_owned() } else { format!("<{}>", has.join(">, <")) };
            let message = format!(
                "`{path}` changed, and the rule in line {} of the review rules asks for {} of {whose} over the same tree; \
                 it has {have}. Let another of them approve it: `git commit -S --allow-empty -m \"Approve\"` on top",
                rule.line,
                if rule.signatures == 1 { "a signature".to_owned() } else { format!("{} signatures", rule.signatures) },
            );
            return Err(Cause::new("needs_signatures", message));
        }
        Ok(())
    }

    /// Judges what a head changes of the accepted bundle, and gives everybody who signed the head's tree, the head's own
    /// signer first.
    pub(crate) fn accept(
        &self,
        change: &Change<'_>,
        repo: &gix::Repository,
        signers: &TrustedSigners,
        bounds: &Bounds,
    ) -> Result<Vec<String>, Cause> {
        let approvals = approvals(change, repo, signers, bounds)?;
        self.judge(&change.paths(), &approvals)?;
        Ok(approvals)
    }
}

impl FileRule {
    fn fault(&self) -> Option<String> {
        let known = |path: &&String| {
            let folder = path.strip_suffix('/');
            folder.map_or_else(|| is_wanted(path), is_wanted_folder)
        };
        if self.paths.is_empty() {
            return Some("a rule needs `paths`".to_owned());
        }
        if let Some(path) = self.paths.iter().find(|path| !known(path)) {
            return Some(format!("`{path}` is no file of a bundle and no folder of one (a folder ends in `/`)"));
        }
        if self.signatures == 0 {
            return Some("`signatures` is 0".to_owned());
        }
        (!self.owners.is_empty() && self.owners.len() < self.signatures)
            .then(|| format!("{} owners can never give {} signatures", self.owners.len(), self.signatures))
    }
}

impl Rule {
    fn covers(&self, path: &str) -> bool {
        self.paths.iter().any(|rule| if rule.ends_with('/') { path.starts_with(rule.as_str()) } else { path == rule })
    }

    fn counts(&self, who: &str) -> bool {
        self.owners.is_empty() || self.owners.contains(who)
    }
}

/// From the accepted bundle to a head's.
pub(crate) struct Change<'a> {
    pub(crate) head: ObjectId,
    /// Where the walk over approvals ends: the last accepted commit.
    pub(crate) last: Option<ObjectId>,
    /// The accepted bundle; `None`: nothing was accepted yet, so all of it is new.
    pub(crate) before: Option<&'a BTreeMap<String, String>>,
    pub(crate) after: &'a BTreeMap<String, String>,
    /// Unix seconds: keys have to be valid now.
    pub(crate) now: i64,
}

impl Change<'_> {
    /// Files added, changed and removed.
    fn paths(&self) -> BTreeSet<&str> {
        let Some(before) = self.before else { return self.after.keys().map(String::as_str).collect() };
        let differs = |path: &&String| before.get(*path) != self.after.get(*path);
        before.keys().chain(self.after.keys()).filter(differs).map(String::as_str).collect()
    }
}

/// Everybody who signed a commit with the head's tree: on the first-parent line down from the head as long as the tree
/// stays the same, and among the other parents of those commits.
fn approvals(
    change: &Change<'_>,
    repo: &gix::Repository,
    signers: &TrustedSigners,
    bounds: &Bounds,
) -> Result<Vec<String>, Cause> {
    let mut found = Vec::new();
    let mut add = |who: String| {
        if !found.contains(&who) {
            found.push(who);
        }
    };
    let head = Commit::read(repo, change.head)?;
    let tree = head.tree()?;
    let mut next = Some(head);
    for _ in 0..bounds.commits {
        let Some(commit) = next.take().filter(|commit| Some(commit.id) != change.last) else { break };
        if commit.tree()? != tree {
            break;
        }
        // Commits on the line were verified before; a commit below the first that was ever accepted may be anything.
        let Ok(signer) = commit.verify(signers, Some(change.now)) else { break };
        add(signer);
        let mut parents = commit.parents()?.into_iter();
        let first = parents.next();
        for other in parents {
            let other = Commit::read(repo, other)?;
            // What does not verify does not count, and is no fault of the merge.
            if other.tree()? == tree
                && let Ok(signer) = other.verify(signers, Some(change.now))
            {
                add(signer);
            }
        }
        // A shallow clone ends somewhere; what is not there approves nothing.
        next = first.and_then(|id| Commit::read(repo, id).ok());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn rules_that_could_never_hold_or_match_are_refused_with_their_line() {
        let table = [
            ("rules:\n  - paths: []\n", Some(2), "needs `paths`"),
            ("rules:\n  - paths: [\"policies/\"]\n    signatures: 0\n", Some(2), "`signatures` is 0"),
            ("rules:\n  - paths: [docs/]\n", Some(2), "`docs/` is no file"),
            ("rules:\n  - paths: [policies/x.yaml]\n", Some(2), "`policies/x.yaml` is no file"),
            ("rules:\n  - paths: [policies/]\n    owners: [a@b.c]\n    signatures: 2\n", Some(2), "can never give 2"),
            ("rules:\n  - paths: [policies/]\n    owner: [a@b.c]\n", Some(3), "owner"),
        ];
        for (text, line, word) in table {
            let (found, why) = ReviewRules::parse(text).unwrap_err();
            assert_eq!(found, line, "{text}: {why}");
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn a_rule_covers_its_files_and_what_lies_below_its_folders() {
        let rules = ReviewRules::parse("rules:\n  - paths: [signet.yaml, policies/pay/]\n").unwrap();
        let rule = rules.0.first().unwrap();
        for (path, covered) in [
            ("signet.yaml", true),
            ("policies/pay/a.cedar", true),
            ("policies/pays.cedar", false),
            ("tests/a.yaml", false),
        ] {
            assert_eq!(rule.covers(path), covered, "{path}");
        }
    }
}
