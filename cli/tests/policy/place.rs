//! A policy repository of a test's own, begun as the demo's, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// The demo's policies, committed.
    pub(crate) fn new() -> Self {
        Self::within("")
    }

    /// The same in a folder of a larger repository.
    pub(crate) fn within(folder: &str) -> Self {
        Self::copied(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/policies"), folder)
    }

    /// Another repository's policies, committed.
    pub(crate) fn of(model: &Path) -> Self {
        Self::copied(model, "")
    }

    fn copied(model: &Path, folder: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        copy(model, &place.path(folder));
        place.git(&["init", "-q", "-b", "main"]);
        place.commit("Begin");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{file} does not hold `{from}`");
        std::fs::write(self.path(file), text.replacen(from, to, 1)).unwrap();
    }

    pub(crate) fn append(&self, file: &str, text: &str) {
        let old = std::fs::read_to_string(self.path(file)).unwrap_or_default();
        std::fs::write(self.path(file), old + text).unwrap();
    }

    pub(crate) fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    /// Git without anyone's configuration.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            // The same commits have the same ids at any time.
            .env("GIT_AUTHOR_DATE", "2026-01-07T12:00:00Z")
            .env("GIT_COMMITTER_DATE", "2026-01-07T12:00:00Z")
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@bank.example", "-c", "commit.gpgSign=false"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// `signet policy ARGUMENTS` at the repository's root.
    pub(crate) fn policy(&self, arguments: &[&str]) -> Ran {
        self.policy_with(arguments, &[])
    }

    pub(crate) fn policy_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signet"));
        command
            .current_dir(self.dir.path())
            .arg("policy")
            .args(arguments)
            .env_remove("SIGNET_CONTEXT")
            .env_remove("CVC5");
        Ran::new(command.envs(environment.iter().copied()).output().unwrap())
    }
}

/// What a run wrote and how it ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
