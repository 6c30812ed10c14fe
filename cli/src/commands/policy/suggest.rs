//! `signet policy suggest`: policies for the traffic that was recorded.

use std::process::ExitCode;

use serde::Serialize;
use signet_policy_analysis::{Suggestion, suggest};

use super::recorded::Records;
use super::report::write;
use super::sides;
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Where suggestions go.
const FILE: &str = "policies/suggested.cedar";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    records: Records,
    /// Whose name stands in `@owner`.
    #[arg(long, default_value = "unassigned", value_name = "TEAM")]
    owner: String,
    /// Write the suggestion to policies/suggested.cedar of the repository, ready to be committed.
    #[arg(long)]
    write: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    suggestion: &'a Suggestion,
    /// Where it was written.
    file: Option<&'a str>,
}

/// Exits 0 also when there is nothing to suggest, which is said.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { records, owner, write: to_file, .. } = arguments;
    let bundle = sides::one(&records.repository, None)?;
    let found = records.source(global)?.analyse(move |records| suggest(records, &bundle, &owner)).await?;
    let file = (to_file && found.count > 0).then_some(FILE);
    if let Some(file) = file {
        write(&records.repository.join(file), &found.policies)?;
    }
    match global.output {
        Format::Table if file.is_none() => output::line(found.policies.trim_end())?,
        Format::Table => {}
        format => output::value(format, &Shown { suggestion: &found, file })?,
    }
    eprintln!("{} policies from {} allowed calls.", found.count, found.calls);
    for (why, calls) in &found.left_out {
        eprintln!("{calls} calls left out: {why}.");
    }
    if let Some(file) = file {
        eprintln!("next: review {file}, take away what it replaces, run `signet policy report`, then `git commit -S`.");
    }
    Ok(ExitCode::SUCCESS)
}
