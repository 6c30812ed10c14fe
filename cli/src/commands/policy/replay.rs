//! `signet policy replay`: recorded traffic, decided again.

use std::process::ExitCode;
use std::time::Instant;

use signet_policy_analysis::{Replay, replay};

use super::recorded::Records;
use super::sides;
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output::{self, Format, printable};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    records: Records,
    /// Decide under this revision instead of the working tree.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
}

/// Exits 0 when all records were read, whatever flips.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { records, revision } = arguments;
    let bundle = sides::one(&records.repository, revision.as_deref())?;
    let source = records.source(global)?;
    let begin = Instant::now();
    let found = source.analyse(move |records| replay(records, &bundle)).await?;
    let seconds = begin.elapsed().as_secs_f64();
    match global.output {
        Format::Table => print(&found)?,
        format => output::value(format, &found)?,
    }
    eprintln!("{} decisions made again in {seconds:.2} s.", found.decided);
    Ok(ExitCode::SUCCESS)
}

fn print(found: &Replay) -> Result<(), Failure> {
    for flip in &found.flips {
        let path = flip.path.as_deref().map(|path| format!(" {}", printable(path))).unwrap_or_default();
        let by =
            if flip.now.policies.is_empty() { String::new() } else { format!(" by {}", flip.now.policies.join(", ")) };
        output::line(&format!(
            "{} -> {}  {} {} {}{path}\n    {} calls, last {}; {}{by}",
            flip.was,
            flip.now.effect,
            printable(&flip.source),
            printable(&flip.action),
            printable(&flip.destination),
            flip.count,
            printable(&flip.last_seen),
            flip.now.reason
        ))?;
    }
    let (lost, won) = found.flipped();
    output::line(&format!(
        "{} calls: {lost} would be denied that were allowed, {won} allowed that were denied.",
        found.calls
    ))?;
    if found.further_flips > 0 {
        output::line(&format!("{} more calls flip, of flows that are not listed.", found.further_flips))?;
    }
    for (why, count) in &found.not_replayed {
        output::line(&format!("{count} records not replayed: {}.", printable(why)))?;
    }
    output::line(&format!("{} records were decided by no policy.", found.not_by_policy))
}
