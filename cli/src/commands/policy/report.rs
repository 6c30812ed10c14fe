//! `signet policy report`: all that is to be said about a change before it is merged.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use signet_policy::Bundle;
use signet_policy_analysis::{Report, replay};

use super::diff::Solver;
use super::recorded::{Source, Stored};
use super::sides::{self, Range};
use crate::arguments::Global;
use crate::failure::{Failure, ResultExt};
use crate::output::{self, Format};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    solver: Solver,
    /// Recorded traffic to decide again under HEAD: an export of the audit log as JSON Lines; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "days")]
    records: Option<PathBuf>,
    #[command(flatten)]
    stored: Stored,
    /// Also write the report as Markdown, for a comment; it is what `-o table` prints.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write it as SARIF 2.1.0.
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Also write it as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// Exits 0 unless something is broken; a change that permits more is shown and is not broken by that.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let (base, head) = sides::sources(&arguments.range)?;
    let settings = arguments.solver.settings();
    let records = match &arguments.records {
        Some(path) => Some(Source::file(path)?),
        None => arguments.stored.source(global)?,
    };
    let judged =
        tokio::task::spawn_blocking(move || (Report::new(&base, &head, &settings), Bundle::compile(&head).ok()));
    let (mut report, mut head) = judged.await.failed("the report ended early", "report this as a bug")?;
    if let Some(records) = records
        && let Some(bundle) = head.take()
    {
        let (replayed, bundle) = records.analyse(move |records| Ok((replay(records, &bundle)?, bundle))).await?;
        (report.replay, head) = (Some(replayed), Some(bundle));
    }
    let markdown = report.markdown();
    if let Some(file) = &arguments.markdown {
        write(file, &markdown)?;
    }
    if let Some(file) = &arguments.sarif {
        let sarif = report.sarif(head.as_ref());
        let text = serde_json::to_string_pretty(&sarif).failed("cannot write JSON", "report this as a bug")?;
        write(file, &(text + "\n"))?;
    }
    if let Some(file) = &arguments.junit {
        write(file, &report.junit())?;
    }
    match global.output {
        Format::Table => output::line(markdown.trim_end())?,
        format => output::value(format, &report)?,
    }
    let broken = report.broken();
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("broken: {}", broken.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Writes a file that a pipeline picks up.
pub(super) fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| {
        Failure::failed(format!("cannot write: {error}")).at(file.display()).next("name a file in a folder that exists")
    })
}
