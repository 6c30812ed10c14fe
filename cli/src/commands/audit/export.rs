//! `signet audit export`: everything that matches, once, with a signed manifest beside it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use signet_audit::query::{self, TailCursor};
use signet_audit_export::Format;
use signet_audit_export::export::{self, ExportError, Manifest, Progress, Request};

use super::access::Accesses;
use super::{FilterArguments, failure};
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::{Failure, ResultExt};

/// Standard output.
const STDOUT: &str = "-";

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// How to write the records.
    #[arg(long, value_enum)]
    format: ExportFormat,
    /// Where to, `-` for standard output. The manifest lies beside FILE: FILE.manifest.json, signed for in
    /// FILE.manifest.note.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where to write the manifest instead; the note lies beside it.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Only these kinds of records.
    #[arg(long, value_enum, value_delimiter = ',')]
    kind: Vec<RecordKind>,
    /// Only the log of this cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// Begin where an earlier export ended: `next` of its manifest.
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ExportFormat {
    /// JSON Lines.
    Jsonl,
    /// RFC 4180, safe for spreadsheets.
    Csv,
    /// Apache Parquet with zstd.
    Parquet,
    /// OCSF 1.8 events, one a line.
    Ocsf,
    /// Common Event Format.
    Cef,
}

impl From<ExportFormat> for Format {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Jsonl => Self::Jsonl,
            ExportFormat::Csv => Self::Csv,
            ExportFormat::Parquet => Self::Parquet,
            ExportFormat::Ocsf => Self::Ocsf,
            ExportFormat::Cef => Self::Cef,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum RecordKind {
    Decision,
    Refusal,
    Event,
    Gap,
}

impl RecordKind {
    fn name(self) -> String {
        match self {
            Self::Decision => "decision",
            Self::Refusal => "refusal",
            Self::Event => "event",
            Self::Gap => "gap",
        }
        .to_owned()
    }
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let after: TailCursor = arguments.after.as_deref().unwrap_or_default().parse().map_err(|error| {
        Failure::usage(format!("{error}")).at("--after").next("give `next` of the earlier export's manifest")
    })?;
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let filter = arguments.filter.into_filter(&context);
    let format = Format::from(arguments.format);
    let kinds: Vec<String> = arguments.kind.iter().map(|kind| kind.name()).collect();
    let asked = serde_json::json!({ "format": format, "filter": filter, "kinds": kinds, "after": after.to_string() });
    let accesses = Accesses::begin(&context, arguments.cluster.as_deref(), "export", &asked).await?;
    let stretches = accesses.stretches(&pool, &after).await?;
    let request = Request {
        filter,
        kinds,
        format,
        file: arguments.out.file_name().map_or_else(|| STDOUT.to_owned(), |name| name.to_string_lossy().into_owned()),
        by: accesses.by(),
        accesses: accesses.named(),
    };
    let bar = progress_bar();
    let show = |progress: Progress| {
        bar.set_length(progress.of);
        bar.set_position(progress.read);
    };
    let to_stdout = arguments.out == Path::new(STDOUT);
    let manifest = if to_stdout {
        let out = BufWriter::new(std::io::stdout());
        export::run(&pool, &request, &stretches, out, show).await.map_err(|error| why(&error, &arguments.out))?
    } else {
        let partial = beside(&arguments.out, ".partial");
        let file = create(&partial)?;
        let written = BufWriter::new(file.try_clone().map_err(|error| why(&error.into(), &partial))?);
        let manifest =
            export::run(&pool, &request, &stretches, written, show).await.map_err(|error| why(&error, &partial))?;
        file.sync_all().map_err(|error| why(&error.into(), &partial))?;
        manifest
    };
    bar.finish_and_clear();
    let json = manifest.to_json().failed("cannot write the manifest", "report this as a bug")?;
    let note = accesses.seal("export", json.as_bytes(), manifest.records).await?;
    let place = match (arguments.manifest, to_stdout) {
        (Some(place), _) => Some(place),
        (None, true) => None,
        (None, false) => Some(beside(&arguments.out, ".manifest.json")),
    };
    if let Some(place) = &place {
        whole(place, json.as_bytes())?;
        whole(&place.with_extension("note"), note.as_bytes())?;
    }
    if !to_stdout {
        // Last: whoever sees the file finds its manifest beside it.
        std::fs::rename(beside(&arguments.out, ".partial"), &arguments.out)
            .map_err(|error| why(&error.into(), &arguments.out))?;
    }
    Ok(conclude(&manifest, place.as_deref()))
}

/// Says what was written, and fails when the store had holes.
fn conclude(manifest: &Manifest, place: Option<&Path>) -> ExitCode {
    eprintln!("{} records, {} bytes, sha256 {}", manifest.records, manifest.bytes, manifest.sha256);
    match place {
        Some(place) => eprintln!("manifest: {}; the next export: --after {}", place.display(), manifest.next),
        None => {
            eprintln!("no manifest was kept (--manifest FILE keeps it); the next export: --after {}", manifest.next)
        }
    }
    match manifest.missing() {
        0 => ExitCode::SUCCESS,
        missing => {
            eprintln!("warning: {missing} records of the logs are not in the store; the manifest names them");
            eprintln!(" next: `signet audit verify` says whether they were purged or removed");
            ExitCode::FAILURE
        }
    }
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A file that its owner alone reads: records are not for everyone.
fn create(path: &Path) -> Result<File, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(|error| why(&error.into(), path))
}

/// Writes a file whole: beside it, synced, then renamed.
pub(super) fn whole(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let partial = beside(path, ".partial");
    let mut file = create(&partial)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| why(&error.into(), path))
}

fn why(error: &ExportError, place: &Path) -> Failure {
    match error {
        ExportError::Query(error) => failure(error),
        ExportError::Write(error) => Failure::failed(format!("cannot write the export: {error}"))
            .at(place.display())
            .next("check the path, its permissions and the free space, then export again"),
    }
}

/// On a terminal only.
pub(super) fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} leaves, {eta} left") {
        bar.set_style(style);
    }
    bar
}
