//! A signed tag as the source: the highest version, made by a trusted tagger, of a commit that may be enforced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use signet_policy_repository::{Repository, ReviewRules};
use support::Git;

struct Tagged(Git);

impl Tagged {
    fn commit(&self, text: &str) -> String {
        self.0.write("docs/x.md", text);
        self.0.commit("alice", Some("alice"))
    }

    /// `git tag` as `tagger`, signed with the key of `signer`.
    fn tag(&self, name: &str, tagger: &str, signer: &str) {
        let (user, email) = (format!("user.name={tagger}"), format!("user.email={tagger}@bank.example"));
        let key = format!("user.signingkey={}", self.0.key(signer).display());
        self.0.git(&["-c", &user, "-c", &email, "-c", &key, "tag", "-s", "-m", "release", name]);
    }

    fn accept(&self, last: Option<&str>) -> Result<String, String> {
        let repository = Repository::open(&self.0.root, "main").unwrap().with_tags("policy-");
        let accepted = repository.accept(last, &self.0.signers(""), &ReviewRules::default());
        accepted.map(|source| source.commit).map_err(|refusal| refusal.reason_code)
    }
}

fn refused<T>(code: &str) -> Result<T, String> {
    Err(code.to_owned())
}

#[test]
fn the_highest_signed_version_is_enforced_whatever_the_branch_says() {
    let git = Tagged(Git::new());
    let first = git.commit("one");
    assert_eq!(git.accept(None), refused("no_tag"));
    git.0.git(&["tag", "v7"]);
    git.0.git(&["tag", "policy-next"]);
    assert_eq!(git.accept(None), refused("no_tag"), "other names are no versions");
    git.tag("policy-1.9", "alice", "alice");
    let second = git.commit("two");
    assert_eq!(git.accept(None), Ok(first.clone()));
    git.tag("policy-1.10", "bob", "bob");
    assert_eq!(git.accept(Some(&first)), Ok(second.clone()));
    assert_eq!(git.accept(Some(&second)), Ok(second.clone()), "what was accepted stays so");
    git.0.git(&["pack-refs", "--all"]);
    assert_eq!(git.accept(Some(&first)), Ok(second.clone()));

    // Forward only: neither a tag that was taken away nor one of an older commit leads back.
    git.0.git(&["tag", "-d", "policy-1.10"]);
    assert_eq!(git.accept(Some(&second)), refused("rewritten"));
    git.0.git(&["checkout", "-q", &first]);
    git.tag("policy-2", "alice", "alice");
    assert_eq!(git.accept(Some(&second)), refused("rewritten"));
}

#[test]
fn a_tag_that_nobody_trusted_made_is_refused_and_no_lower_one_takes_its_place() {
    let git = Tagged(Git::new());
    git.commit("one");
    git.tag("policy-1", "alice", "alice");
    git.commit("two");
    let table: [(&str, &dyn Fn()); 7] = [
        ("unsigned", &|| drop(git.0.git(&["tag", "policy-2"]))),
        ("unsigned", &|| drop(git.0.git(&["tag", "-a", "-m", "release", "policy-3"]))),
        ("untrusted_signer", &|| git.tag("policy-4", "mallory", "mallory")),
        ("signer_not_author", &|| git.tag("policy-5", "alice", "bob")),
        // The good tag under a higher name.
        ("tag_renamed", &|| drop(git.0.git(&["update-ref", "refs/tags/policy-6", "refs/tags/policy-1"]))),
        ("corrupt", &|| drop(git.0.git(&["tag", "policy-7", "HEAD^{tree}"]))),
        ("bad_signature", &|| {
            let text = git.0.git(&["cat-file", "tag", "policy-1"]) + "\n";
            let forged =
                text.replace("policy-1", "policy-8").replace(&git.0.git(&["rev-parse", "policy-1^{}"]), &git.0.head());
            let id = git.0.git_with(&["hash-object", "-w", "-t", "tag", "--stdin"], &forged);
            git.0.git(&["update-ref", "refs/tags/policy-8", &id]);
        }),
    ];
    for (code, make) in table {
        make();
        assert_eq!(git.accept(None), refused(code));
    }
    // A good tag does not make up for a commit that is not signed.
    git.0.write("docs/x.md", "three");
    git.0.commit("alice", None);
    git.tag("policy-9", "alice", "alice");
    assert_eq!(git.accept(None), refused("unsigned"));
}
