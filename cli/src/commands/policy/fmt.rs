//! `signet policy fmt`: the one form of policy files.

use std::path::PathBuf;
use std::process::ExitCode;

use signet_policy_analysis::format;

use super::report::write;
use super::sides;
use crate::failure::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The repository's root.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Change nothing: name the files that are not in their form and exit with 1 when there are any.
    #[arg(long)]
    check: bool,
}

/// Names each file that it changed, or would change. No file is written unless every one can be read as Cedar.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let source = sides::working_tree(&arguments.path)?;
    let mut changed = Vec::new();
    for (path, text) in source.files.iter().filter(|(path, _)| path.ends_with(".cedar")) {
        let new = format(text).map_err(|why| {
            Failure::failed(format!("not Cedar: {why}"))
                .at(path)
                .next("`signet policy check` names the line; nothing was changed")
        })?;
        if new != *text {
            changed.push((path, new));
        }
    }
    for (path, new) in &changed {
        if !arguments.check {
            write(&arguments.path.join(path), new)?;
        }
        output::line(path)?;
    }
    Ok(if arguments.check && !changed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
