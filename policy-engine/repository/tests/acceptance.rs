//! Which commits are accepted, and the cause of each refusal, in real Git repositories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use signet_policy_repository::{Bounds, Repository, ReviewRules};
use support::Git;

#[test]
fn accepts_a_signed_head_and_its_signed_descendants() {
    let git = Git::new();
    git.write("README.md", "not part of the bundle");
    git.write("policies/README.md", "nor is this");
    let first = git.commit("alice", Some("alice"));
    let source = git.accept(None).unwrap();
    assert_eq!((source.commit.as_str(), source.signer.as_str()), (first.as_str(), "alice@bank.example"));
    assert_eq!(source.files.keys().collect::<Vec<_>>(), ["policies/a.cedar", "signet.yaml"]);
    assert_eq!(git.open().head().unwrap().as_str(), first);

    git.write("docs/x.md", "x");
    git.commit("bob", Some("bob"));
    git.write("docs/y.md", "y");
    let third = git.commit("alice", Some("alice"));
    let later = git.accept(Some(&first)).unwrap();
    assert_eq!(later.commit, third);
    // The same files are the same bundle, and an accepted head stays acceptable.
    assert_eq!(later.digest(), source.digest());
    assert_eq!(git.accept(Some(&third)).unwrap(), later);
    // A packed repository reads the same.
    git.git(&["gc", "-q", "--aggressive"]);
    assert_eq!(git.accept(Some(&first)).unwrap(), later);
}

#[test]
fn refuses_what_is_not_signed_by_a_trusted_author() {
    let cases: [(&str, Option<&str>, &str); 4] = [
        ("alice", None, "unsigned"),
        ("mallory", Some("mallory"), "untrusted_signer"),
        ("alice", Some("mallory"), "untrusted_signer"),
        ("alice", Some("bob"), "signer_not_author"),
    ];
    for (author, signer, code) in cases {
        let git = Git::new();
        let commit = git.commit(author, signer);
        let (found, message) = git.refused(None);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(&commit), "{message}");
    }
}

#[test]
fn refuses_a_committer_who_is_not_the_signer() {
    let git = Git::new();
    git.commit("alice", Some("alice"));
    git.git(&[
        "-c",
        "user.name=bob",
        "-c",
        "user.email=bob@bank.example",
        "-c",
        &format!("user.signingkey={}", git.key("alice").display()),
        "commit",
        "-q",
        "--amend",
        "-S",
        "-m",
        "x",
    ]);
    assert_eq!(git.refused(None).0, "signer_not_committer");
}

#[test]
fn refuses_an_unsigned_commit_between_signed_ones() {
    let git = Git::new();
    let first = git.commit("alice", Some("alice"));
    let gap = git.commit("alice", None);
    git.commit("alice", Some("alice"));
    let (code, message) = git.refused(Some(&first));
    assert_eq!(code, "unsigned");
    assert!(message.contains(&gap), "{message}");
}

#[test]
fn refuses_a_rewritten_branch_and_accepts_a_replaced_refused_head() {
    let git = Git::new();
    let first = git.commit("alice", Some("alice"));
    let second = git.commit("alice", Some("alice"));
    git.git(&["reset", "-q", "--hard", &first]);
    assert_eq!(git.refused(Some(&second)).0, "rewritten");
    git.commit("bob", Some("bob"));
    assert_eq!(git.refused(Some(&second)).0, "rewritten");
    // `second` was never accepted: the branch goes on from `first`.
    assert!(git.accept(Some(&first)).is_ok());
    assert_eq!(git.refused(Some("no-id")).0, "unreadable");
}

#[test]
fn refuses_a_changed_commit_under_an_old_signature() {
    let git = Git::new();
    git.commit("alice", Some("alice"));
    let object = git.git(&["cat-file", "commit", "HEAD"]);
    let forged = git.root.join(".git/forged");
    std::fs::write(&forged, object.replace("\n\nchange", "\n\nCHANGE") + "\n").unwrap();
    let id = git.git(&["hash-object", "-t", "commit", "-w", forged.to_str().unwrap()]);
    git.git(&["update-ref", "refs/heads/main", &id]);
    assert_eq!(git.refused(None).0, "bad_signature");
}

#[test]
fn refuses_replacement_objects_under_a_signature() {
    let git = Git::new();
    git.commit("alice", Some("alice"));
    let honest = git.git(&["rev-parse", "HEAD:policies/a.cedar"]);
    git.write("policies/a.cedar", "@id(\"all\") permit(principal, action, resource);");
    let forged = git.git(&["hash-object", "-w", "policies/a.cedar"]);
    git.git(&["replace", &honest, &forged]);
    match git.accept(None) {
        Ok(source) => assert_eq!(source.files["policies/a.cedar"], support::PERMIT),
        Err((code, message)) => assert_eq!(code, "corrupt", "{message}"),
    }
}

#[test]
fn honours_validity_and_namespaces_of_signers() {
    let git = Git::new();
    let head = git.commit_dated("alice", Some("alice"), "2026-06-01T12:00:00Z");
    let code = |options: &str, last: Option<&str>| {
        git.open().accept(last, &git.signers(options), &ReviewRules::default()).err().map(|refusal| refusal.reason_code)
    };
    assert_eq!(code("namespaces=\"git\"", None), None);
    assert_eq!(code("namespaces=\"file\"", None).as_deref(), Some("untrusted_signer"));
    assert_eq!(code("valid-after=\"20260101\"", None), None);
    assert_eq!(code("valid-after=\"20260701\"", None).as_deref(), Some("signer_not_yet_valid"));
    assert_eq!(code("valid-before=\"20260501\"", None).as_deref(), Some("signer_expired"));
    // Valid on the commit's own date is not enough for a new commit: anybody can write an old date.
    assert_eq!(code("valid-before=\"20260602\"", None).as_deref(), Some("signer_expired"));
    assert_eq!(code("valid-before=\"20260602\"", Some(&head)), None);
    assert_eq!(code("valid-before=\"29990101\"", None), None);
}

#[test]
fn refuses_bundles_that_are_broken_and_names_the_place() {
    let cases = [
        ("policies/a.cedar", "@id(\"a\")\npermit(principal, action resource);", "parse", "policies/a.cedar:2:"),
        ("policies/a.cedar", "permit(principal, action, resource);", "missing_id", "policies/a.cedar:1:1"),
        ("policies/b.cedar", support::PERMIT, "duplicate_id", "policies/b.cedar:1:1"),
        (
            "policies/a.cedar",
            "@id(\"a\")\npermit(principal, action, resource)\nwhen { principal.x == 1 };",
            "validation",
            "policies/a.cedar:3:",
        ),
        ("signet.yaml", "version: 1\ncolour: red\n", "settings", "signet.yaml:2:"),
        ("tests/t.yaml", "cases:\n  - name: x\n    nonsense: 1\n", "tests", "tests/t.yaml:3:"),
        ("invariants/i.cedar", "forbid(", "parse", "invariants/i.cedar:1:"),
    ];
    for (path, text, code, place) in cases {
        let git = Git::new();
        git.write(path, text);
        git.commit("alice", Some("alice"));
        let refusal = git.open().accept(None, &git.signers(""), &ReviewRules::default()).unwrap_err();
        assert_eq!(refusal.reason_code, code, "{refusal}");
        assert!(refusal.message.starts_with(place), "{refusal}");
        assert_eq!(refusal.commit, git.head());
        assert!(!refusal.problems.is_empty());
    }
}

#[test]
fn refuses_bundles_that_fail_their_own_tests() {
    let git = Git::new();
    git.write(
        "tests/t.yaml",
        "cases:\n  - {name: in, principal: a.b/bank/web, action: GET, resource: a.b/bank/s, expect: allow, policy: p}\n  \
         - {name: out, principal: a.b/other/web, action: GET, resource: a.b/bank/s, expect: allow}\n",
    );
    git.commit("alice", Some("alice"));
    let (code, message) = git.refused(None);
    assert_eq!(code, "tests_failed");
    assert_eq!(message, "tests/t.yaml:3: test `out`: expected allow, got deny (no_permit) (1 of 2 cases failed)");
}

#[test]
fn refuses_hostile_trees_within_bounds() {
    let big = "// x\n".repeat(300_000);
    let deep = format!("policies/{}a.cedar", "d/".repeat(20));
    let cases: [(&str, &[u8], &str); 3] = [
        ("policies/big.cedar", big.as_bytes(), "too_large"),
        (&deep, b"", "too_large"),
        ("policies/latin.cedar", b"// caf\xe9", "not_utf8"),
    ];
    for (path, content, code) in cases {
        let git = Git::new();
        git.write(path, content);
        git.commit("alice", Some("alice"));
        assert_eq!(git.refused(None).0, code, "{path}");
    }

    let git = Git::new();
    std::os::unix::fs::symlink("/etc/passwd", git.root.join("policies/link.cedar")).unwrap();
    git.commit("alice", Some("alice"));
    assert_eq!(git.refused(None).0, "symlink");

    let git = Git::new();
    let head = git.commit("alice", Some("alice"));
    std::fs::create_dir_all(git.root.join("policies/sub")).unwrap();
    git.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},policies/sub")]);
    git.commit("alice", Some("alice"));
    assert_eq!(git.refused(None).0, "submodule");

    let git = Git::new();
    for n in 0..60 {
        git.write(&format!("policies/{n}.txt"), "");
    }
    git.commit("alice", Some("alice"));
    let bounds = Bounds { entries: 50, ..Bounds::default() };
    let refusal = git.open().with_bounds(bounds).accept(None, &git.signers(""), &ReviewRules::default()).unwrap_err();
    assert_eq!(refusal.reason_code, "too_large");
}

#[test]
fn refuses_a_hundred_thousand_files_after_reading_a_tenth_of_them() {
    let git = Git::new();
    git.git(&["add", "-A"]);
    // One blob under 100,000 names: the work tree stays small, the tree does not.
    let blob = git.git(&["hash-object", "-w", "policies/a.cedar"]);
    let entries: String = (0..100_000).map(|n| format!("100644 blob {blob}\t{n}.cedar\n")).collect();
    let policies = git.git_with(&["mktree"], &entries);
    let settings = git.git(&["hash-object", "-w", "signet.yaml"]);
    let root =
        git.git_with(&["mktree"], &format!("040000 tree {policies}\tpolicies\n100644 blob {settings}\tsignet.yaml\n"));
    git.git(&["read-tree", &root]);
    git.commit_index("alice");
    let (code, message) = git.refused(None);
    assert_eq!(code, "too_large", "{message}");
}

#[test]
fn runs_nothing_that_a_repository_brings_along() {
    let git = Git::new();
    let trace = git.root.join("ran");
    let program = git.root.join("program");
    git.write("program", format!("#!/bin/sh\ntouch {}\n", trace.display()));
    git.write(".gitattributes", "* filter=evil diff=evil\n*.cedar filter=evil\n");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let commit = git.commit("alice", Some("alice"));
    // From here on the repository's own configuration is the attacker's.
    for hook in ["post-checkout", "reference-transaction", "pre-commit", "fsmonitor-watchman", "post-index-change"] {
        std::fs::copy(&program, git.root.join(".git/hooks").join(hook)).unwrap();
    }
    let runs = program.display().to_string();
    let config = format!(
        "[core]\n\tfsmonitor = {runs}\n\tsshCommand = {runs}\n\tpager = {runs}\n\teditor = {runs}\n\
         [filter \"evil\"]\n\tsmudge = {runs}\n\tclean = {runs}\n\tprocess = {runs}\n\trequired = true\n\
         [diff \"evil\"]\n\tcommand = {runs}\n\ttextconv = {runs}\n\
         [gpg]\n\tprogram = {runs}\n[gpg \"ssh\"]\n\tprogram = {runs}\n[credential]\n\thelper = {runs}\n"
    );
    let path = git.root.join(".git/config");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + &config).unwrap();
    assert_eq!(git.accept(None).unwrap().commit, commit);
    assert_eq!(git.accept(Some(&commit)).unwrap().commit, commit);
    assert!(!trace.exists(), "something of the repository's own was run");
}

#[test]
fn a_missing_repository_or_branch_says_what_to_do() {
    let git = Git::new();
    assert!(Repository::open(git.root.join("nowhere"), "main").unwrap_err().to_string().contains("give the path"));
    assert!(git.open().head().unwrap_err().to_string().contains("no branch `main`"));
    assert_eq!(git.refused(None).0, "no_branch");
}
