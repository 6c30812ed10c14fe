//! The templates of `deploy/ci`, run as they are: their scripts, in a clean clone of the example repository with its example
//! change, with the built program on the path.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::place::Place;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn template(name: &str) -> Value {
    let text = std::fs::read_to_string(root("deploy/ci").join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// A clean clone of the example repository and of its pull request: the clone, and the commits of base and head.
struct Checkout {
    dir: tempfile::TempDir,
    base: String,
    head: String,
}

impl Checkout {
    fn new() -> Self {
        let place = Place::of(&root("deploy/example-policies"));
        let base = place.git(&["rev-parse", "HEAD"]);
        place.git(&["checkout", "-q", "-b", "change"]);
        place.git(&["apply", root("deploy/example-change/change.patch").to_str().unwrap()]);
        place.commit("Let tellers book entries");
        let head = place.git(&["rev-parse", "HEAD"]);
        // Base went on meanwhile.
        place.git(&["checkout", "-q", "main"]);
        place.commit("Something else");
        let dir = tempfile::tempdir().unwrap();
        place.git(&["clone", "-q", place.path("").to_str().unwrap(), dir.path().join("clone").to_str().unwrap()]);
        Self { dir, base, head }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("clone").join(name)
    }

    /// Runs a script as the runner does, with stand-ins for what lies outside of the repository.
    fn run(&self, shell: &[&str], script: &str, environment: &BTreeMap<String, String>) -> Output {
        let bin = self.dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        // Installing cvc5 and commenting are the runner's: what they are asked for is kept.
        for name in ["sudo", "gh"] {
            let program = bin.join(name);
            let log = self.dir.path().join(format!("{name}.log"));
            std::fs::write(&program, format!("#!/bin/sh\nprintf '%s\\n' \"$*\" >>{}\n", log.display())).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let signet = Path::new(env!("CARGO_BIN_EXE_signet")).parent().unwrap();
        let path = format!("{}:{}:{}", bin.display(), signet.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(script).current_dir(self.path("")).env("PATH", path);
        command.env_remove("SIGNET_CONTEXT").envs(environment).output().unwrap()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// What the example change is known to break.
    fn assert_reported(&self, output: &Output) {
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("broken invariant"), "{said}");
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap();
        assert!(read("report.md").contains("**broken**"));
        assert!(read("report.xml").contains("<testsuite"));
        let sarif: Value = serde_json::from_str(&read("report.sarif")).unwrap();
        assert!(!sarif["runs"][0]["results"].as_array().unwrap().is_empty());
    }
}

#[test]
fn the_github_workflow_reports_and_comments() {
    let checkout = Checkout::new();
    let workflow = template("github.yml");
    assert_eq!(workflow["on"], "pull_request", "a workflow of the target branch would run with its secrets");
    let known = |expression: &str| match expression {
        "github.event.pull_request.base.sha" => checkout.base.clone(),
        "github.event.pull_request.head.sha" => checkout.head.clone(),
        "github.event.pull_request.number" => "7".to_owned(),
        "github.token" => "a-token".to_owned(),
        other => panic!("the template asks for `{other}`: give it here"),
    };
    let steps = workflow["jobs"]["report"]["steps"].as_array().unwrap();
    let mut reported = None;
    for step in steps {
        let Some(script) = step["run"].as_str() else { continue };
        assert!(!script.contains("${{"), "an expression in a script runs what it holds: {script}");
        let environment = step["env"].as_object().into_iter().flatten().map(|(name, value)| {
            let value = value.as_str().unwrap();
            let inner = value.strip_prefix("${{ ").and_then(|rest| rest.strip_suffix(" }}"));
            (name.clone(), inner.map_or_else(|| value.to_owned(), known))
        });
        // As GitHub runs `run`: https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax
        let output = checkout.run(&["bash", "-e", "-c"], script, &environment.collect());
        match step["name"].as_str() {
            Some("report") => reported = Some(output),
            name => assert!(output.status.success(), "{name:?}: {output:?}"),
        }
    }
    checkout.assert_reported(&reported.expect("a step `report`"));
    assert!(checkout.log("sudo").contains("cvc5"));
    assert!(checkout.log("gh").contains("pr comment 7 --body-file report.md"), "{}", checkout.log("gh"));
    // What is uploaded is what the report wrote, also when it is broken.
    let upload = steps.iter().find(|step| step["with"]["sarif_file"].is_string()).unwrap();
    assert!(checkout.path(upload["with"]["sarif_file"].as_str().unwrap()).exists());
    assert!(upload["if"].as_str().unwrap().starts_with("always()"));
}

#[test]
fn the_gitlab_job_reports_and_keeps_its_artifacts() {
    let checkout = Checkout::new();
    let job = template("gitlab.yml")["policy-report"].clone();
    let environment = BTreeMap::from([
        ("CI_MERGE_REQUEST_DIFF_BASE_SHA".to_owned(), checkout.base.clone()),
        ("CI_COMMIT_SHA".to_owned(), checkout.head.clone()),
    ]);
    let script: Vec<&str> = job["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    // As a runner's shell executor does: the lines one after the other, ended by the first that fails.
    let output = checkout.run(&["bash", "-eo", "pipefail", "-c"], &script.join("\n"), &environment);
    checkout.assert_reported(&output);
    assert_eq!(job["artifacts"]["when"], "always", "a broken report is the one that people read");
    let mut kept: Vec<&Value> = job["artifacts"]["paths"].as_array().unwrap().iter().collect();
    kept.push(&job["artifacts"]["reports"]["junit"]);
    for path in kept {
        assert!(checkout.path(path.as_str().unwrap()).exists(), "{path}");
    }
}
