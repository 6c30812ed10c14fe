//! A throw-away policy repository made with the real `git` and `ssh-keygen`, and people who sign in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use signet_policy_repository::{Repository, ReviewRules, TrustedSigners};
use tempfile::TempDir;

pub const PERMIT: &str =
    "@id(\"p\")\n@owner(\"o\")\npermit(principal in Mesh::Namespace::\"a.b/bank\", action, resource);\n";

pub struct Git {
    _dir: TempDir,
    pub root: PathBuf,
    keys: PathBuf,
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program has to be installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Git {
    /// A repository with `signet.yaml` and one policy in the work tree and no commit, and keys of alice and bob.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, keys) = (dir.path().join("repo"), dir.path().join("keys"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&keys).unwrap();
        for who in ["alice", "bob", "mallory"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", who, "-f"])
                .arg(keys.join(who)));
        }
        let git = Self { _dir: dir, root, keys };
        git.git(&["init", "-q", "-b", "main"]);
        git.git(&["config", "gpg.format", "ssh"]);
        git.git(&["config", "user.name", "alice"]);
        git.git(&["config", "user.email", "alice@bank.example"]);
        git.write("signet.yaml", "version: 1\n");
        git.write("policies/a.cedar", PERMIT);
        git
    }

    pub fn git(&self, args: &[&str]) -> String {
        run(Command::new("git")
            .current_dir(&self.root)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(args))
    }

    /// As [`Git::git`], with standard input.
    pub fn git_with(&self, args: &[&str], input: &str) -> String {
        let file = self.root.join(".git/input");
        std::fs::write(&file, input).unwrap();
        run(Command::new("git")
            .current_dir(&self.root)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(args)
            .stdin(std::fs::File::open(file).unwrap()))
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn key(&self, who: &str) -> PathBuf {
        self.keys.join(who)
    }

    /// Commits everything as `author`, signed with the key of `signer` when there is one; gives the commit.
    pub fn commit(&self, author: &str, signer: Option<&str>) -> String {
        self.commit_dated(author, signer, "2026-06-01T12:00:00Z")
    }

    /// Commits what the index holds, whatever the work tree does, signed by its author.
    pub fn commit_index(&self, author: &str) -> String {
        self.commit_as(author, Some(author), "2026-06-01T12:00:00Z")
    }

    pub fn commit_dated(&self, author: &str, signer: Option<&str>, date: &str) -> String {
        self.git(&["add", "-A"]);
        self.commit_as(author, signer, date)
    }

    fn commit_as(&self, author: &str, signer: Option<&str>, date: &str) -> String {
        let email = format!("{author}@bank.example");
        let mut command = Command::new("git");
        command.current_dir(&self.root).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for (name, value) in [("NAME", author), ("EMAIL", email.as_str()), ("DATE", date)] {
            command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        if let Some(signer) = signer {
            command.args(["-c", &format!("user.signingkey={}", self.key(signer).display())]);
        }
        command.args(["commit", "-q", "--allow-empty", "-m", "change"]);
        command.arg(if signer.is_some() { "-S" } else { "--no-gpg-sign" });
        run(&mut command);
        self.head()
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// alice and bob, each with options of their own.
    pub fn signers(&self, options: &str) -> TrustedSigners {
        let line = |who: &str| {
            let key = std::fs::read_to_string(self.key(who).with_extension("pub")).unwrap();
            format!("{who}@bank.example {options} {key}")
        };
        TrustedSigners::parse(&(line("alice") + &line("bob"))).unwrap()
    }

    pub fn open(&self) -> Repository {
        Repository::open(&self.root, "main").unwrap()
    }

    pub fn accept(&self, last: Option<&str>) -> Result<signet_policy::BundleSource, (String, String)> {
        self.open().accept(last, &self.signers(""), &ReviewRules::default()).map_err(|r| (r.reason_code, r.message))
    }

    pub fn refused(&self, last: Option<&str>) -> (String, String) {
        self.accept(last).expect_err("the commit was accepted")
    }
}

pub fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/demo/policies"))
}
