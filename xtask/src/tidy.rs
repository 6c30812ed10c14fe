//! Rules about files: length, opening comment, names, and that the documents speak of what is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

const FILE_LINES: usize = 500;
const MAIN_LINES: usize = 100;
const ARCHITECTURE_LINES: usize = 250;
const BAD_NAMES: [&str; 8] =
    ["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "misc.rs", "shared.rs", "stuff.rs"];
const UNFINISHED: [&str; 3] = ["todo!(", "unimplemented!(", "#[ignore"];

/// What is wrong, one line each.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let files = tracked(root)?;
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text =
            std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))?;
        problems.extend(rust_file(file, &text));
    }
    problems.extend(architecture(root)?);
    Ok(problems)
}

fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()?;
    ensure!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout)?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|name| root.join(name).exists())
        .collect())
}

fn is_test(file: &Path) -> bool {
    let text = file.to_string_lossy();
    text.contains("/tests/") || text.starts_with("tests/") || text.ends_with("tests.rs") || text.contains("testing")
}

fn rust_file(file: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut problem = |what: String| problems.push(format!("{}: {what}", file.display()));
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if BAD_NAMES.contains(&name.as_str()) {
        problem(format!("`{name}` says nothing of what it holds; name it after its one thing"));
    }
    if !text.lines().find(|line| !line.starts_with("#![")).is_some_and(|line| line.starts_with("//!")) {
        problem("does not open with `//!`: say what it is for".to_owned());
    }
    if is_test(file) {
        return problems;
    }
    // Tests stand last in a file.
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().count();
    if lines > FILE_LINES {
        problem(format!("{lines} lines without its tests, more than {FILE_LINES}: split it by meaning"));
    }
    if name == "main.rs" && lines > MAIN_LINES {
        problem(format!("{lines} lines, more than {MAIN_LINES}: `main` reads, builds, runs and drains"));
    }
    if !file.starts_with("xtask") {
        for word in UNFINISHED {
            if text.contains(word) {
                problem(format!("holds `{word}`"));
            }
        }
    }
    problems
}

/// ARCHITECTURE.md is short and names every crate's directory.
fn architecture(root: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > ARCHITECTURE_LINES {
        problems.push(format!("ARCHITECTURE.md: {lines} lines, more than {ARCHITECTURE_LINES}"));
    }
    for member in crate::graph::members(root)? {
        if !text.contains(&format!("`{member}/`")) {
            problems.push(format!("ARCHITECTURE.md: the code map does not name `{member}/`"));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> usize {
        rust_file(Path::new(name), text).len()
    }

    #[test]
    fn finds_each_breach_and_nothing_else() {
        let fine = "//! A thing.\n\nfn f() {}\n";
        assert_eq!(found("a/src/thing.rs", fine), 0);
        assert_eq!(found("a/src/utils.rs", fine), 1);
        assert_eq!(found("a/src/thing.rs", "fn f() {}\n"), 1);
        assert_eq!(found("a/src/thing.rs", &format!("{fine}{}", "// x\n".repeat(600))), 1);
        assert_eq!(found("a/src/main.rs", &format!("{fine}{}", "// x\n".repeat(100))), 1);
        assert_eq!(found("a/src/thing.rs", "//! A thing.\nfn f() { todo!() }\n"), 1);
    }

    #[test]
    fn tests_do_not_count_towards_a_files_length() {
        let text = format!("//! A thing.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(600));
        assert_eq!(found("a/src/thing.rs", &text), 0);
    }
}
