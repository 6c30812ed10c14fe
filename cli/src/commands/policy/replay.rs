//! `signet policy replay`: recorded traffic, decided again.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use signet_policy_analysis::{Replay, replay};

use super::sides;
use crate::arguments::Global;
use crate::failure::{Failure, ResultExt};
use crate::output::{self, Format, printable};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Records as JSON Lines, as an export of the audit log has them; `-` is standard input.
    #[arg(value_name = "RECORDS")]
    records: PathBuf,
    /// Decide under this revision instead of the working tree.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// The policy repository's root.
    #[arg(long, default_value = ".", value_name = "DIR")]
    repository: PathBuf,
}

/// Exits 0 when all records were read, whatever flips.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let bundle = sides::one(&arguments.repository, arguments.revision.as_deref())?;
    let records = open(&arguments.records)?;
    let begin = Instant::now();
    let replayed = tokio::task::spawn_blocking(move || replay(BufReader::with_capacity(1 << 20, records), &bundle))
        .await
        .failed("the replay ended early", "report this as a bug")?;
    let found = replayed.map_err(|error| {
        Failure::failed(signet_observe::error_chain(&error))
            .at(arguments.records.display())
            .next("give an export in JSON Lines, unaltered")
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    match global.output {
        Format::Table => print(&found)?,
        format => output::value(format, &found)?,
    }
    eprintln!("{} decisions made again in {seconds:.2} s.", found.decided);
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).map_err(|error| {
        Failure::failed(format!("cannot open the records: {error}"))
            .at(path.display())
            .next("give a file that exists, or `-` for standard input")
    })?;
    Ok(Box::new(file))
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
