//! `signet`, called as a person calls it.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::demo::{Demo, program};

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `signet` against `demo` with these arguments.
///
/// # Errors
/// When it cannot be run.
pub fn signet(demo: &Demo, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program("signet")?);
    command.args(arguments).env("SIGNET_CONTEXT", demo.context_file());
    run(command)
}

/// Runs any command to its end.
///
/// # Errors
/// When it cannot be run or was ended by a signal.
pub fn run(mut command: Command) -> anyhow::Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    Ok(Output {
        code: output.status.code().with_context(|| format!("{command:?} was ended by a signal"))?,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
