//! `signet policy replay`: recorded traffic, decided again.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use signet_policy::Bundle;
use signet_policy_analysis::{Replay, ReplayError, replay};

use super::sides;
use crate::arguments::Global;
use crate::failure::{Failure, ResultExt};
use crate::output::{self, Format, printable};

/// Records and the repository that they are held against.
#[derive(clap::Args)]
pub(crate) struct Records {
    /// Records as JSON Lines, as an export of the audit log has them; `-` is standard input.
    #[arg(value_name = "RECORDS")]
    pub(super) records: PathBuf,
    /// The policy repository's root.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(super) repository: PathBuf,
}

impl Records {
    pub(super) fn open(&self) -> Result<Box<dyn BufRead + Send>, Failure> {
        open(&self.records)
    }
}

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
    let (path, reader) = (records.records.clone(), records.open()?);
    let begin = Instant::now();
    let replayed = tokio::task::spawn_blocking(move || again(&path, reader, &bundle));
    let found = replayed.await.failed("the replay ended early", "report this as a bug")??;
    let seconds = begin.elapsed().as_secs_f64();
    match global.output {
        Format::Table => print(&found)?,
        format => output::value(format, &found)?,
    }
    eprintln!("{} decisions made again in {seconds:.2} s.", found.decided);
    Ok(ExitCode::SUCCESS)
}

/// Decides all records again.
pub(super) fn again(path: &Path, records: impl BufRead, bundle: &Bundle) -> Result<Replay, Failure> {
    replay(records, bundle).map_err(unreadable(path))
}

/// What a person does about records that cannot be read.
pub(super) fn unreadable(path: &Path) -> impl Fn(ReplayError) -> Failure {
    let path = path.display().to_string();
    move |error| {
        Failure::failed(signet_observe::error_chain(&error)).at(&path).next("give an export in JSON Lines, unaltered")
    }
}

pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    const BUFFER: usize = 1 << 20;
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, io::stdin())));
    }
    let file = File::open(path).map_err(|error| {
        Failure::failed(format!("cannot open the records: {error}"))
            .at(path.display())
            .next("give a file that exists, or `-` for standard input")
    })?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, file)))
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
