//! `signet audit evidence`: records for a control, with what proves them, as a directory that is checked offline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use signet_audit::query::{self, TailCursor};
use signet_audit_export::controls::{Control, catalogue};
use signet_audit_export::evidence::{self, EvidenceError, NOTE, PACKAGE, Package, Request};

use super::access::Accesses;
use super::export::{progress_bar, whole};
use super::failure;
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::{Failure, ResultExt};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What it is for, such as PCI-DSS-4.0.1:10.2.2; `signet audit controls` lists them.
    #[arg(long)]
    control: String,
    /// Records at or after this time, RFC 3339.
    #[arg(long)]
    from: Option<jiff::Timestamp>,
    /// Records before this time, RFC 3339.
    #[arg(long)]
    to: Option<jiff::Timestamp>,
    /// Of calls to this service only: <trust domain>/<namespace>/<name>.
    #[arg(long)]
    service: Option<String>,
    /// Only the log of this cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// An earlier package: the logs are proved to continue it.
    #[arg(long, value_name = "DIRECTORY")]
    previous: Option<PathBuf>,
    /// Where to; must not exist yet.
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let control = control(&arguments.control)?;
    let previous = arguments.previous.as_deref().map(checkpoints).transpose()?.unwrap_or_default();
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let mut filter = control.records.filter();
    filter.from_us = arguments.from.map(|time| time.as_microsecond());
    filter.to_us = arguments.to.map(|time| time.as_microsecond());
    filter.service = arguments.service.map(|name| context.service_id(name));
    let asked = serde_json::json!({ "control": control.id, "filter": filter });
    let accesses = Accesses::begin(&context, arguments.cluster.as_deref(), "evidence", &asked).await?;
    let stretches = accesses.stretches(&pool, &TailCursor::start()).await?;
    let request = Request {
        kinds: control.records.kinds.clone(),
        control: Some(control),
        filter,
        by: accesses.by(),
        accesses: accesses.named(),
        previous,
    };
    let out = &arguments.out;
    let partial = super::export::beside(out, ".partial");
    create(out, &partial)?;
    let bar = progress_bar();
    let package = evidence::build(&pool, &request, &stretches, &partial, |progress| {
        bar.set_length(progress.of);
        bar.set_position(progress.read);
    })
    .await
    .map_err(|error| why(&error, &partial))?;
    bar.finish_and_clear();
    let json = package.to_json().failed("cannot write the package", "report this as a bug")?;
    let note = accesses.seal("evidence", json.as_bytes(), package.records()).await?;
    whole(&partial.join(NOTE), note.as_bytes())?;
    // Last: whoever sees the directory sees a whole package.
    std::fs::rename(&partial, out).map_err(|error| why(&error.into(), out))?;
    eprintln!(
        "{} records in {}; check it with `signet audit verify {}`",
        package.records(),
        out.display(),
        out.display()
    );
    for bundle in &package.unknown_bundles {
        eprintln!("warning: the text of policy bundle {bundle} is not in the store");
    }
    let missing: usize = package.logs.iter().map(|log| log.covered.missing.len()).sum();
    if missing > 0 {
        eprintln!("warning: the store lacks records of the logs; the report names them");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn control(id: &str) -> Result<Control, Failure> {
    let controls = catalogue().failed("the controls catalogue is broken", "report this as a bug")?;
    controls.into_iter().find(|control| control.id == id).ok_or_else(|| {
        Failure::usage(format!("the catalogue has no control `{id}`"))
            .at("--control")
            .next("`signet audit controls` lists them")
    })
}

/// The checkpoints of an earlier package, by log.
fn checkpoints(directory: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let path = directory.join(PACKAGE);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::failed(format!("cannot read: {error}")).at(path.display()).next("check --previous")
    })?;
    let package: Package = serde_json::from_str(&text).map_err(|error| {
        Failure::failed(format!("it is no evidence package: {error}")).at(path.display()).next("check --previous")
    })?;
    let stretches = package.logs.into_iter().map(|log| log.covered.stretch);
    Ok(stretches.map(|stretch| (stretch.log, stretch.checkpoint)).collect())
}

/// A directory that its owner alone reads: records are not for everyone.
fn create(out: &Path, partial: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    if out.exists() {
        return Err(Failure::failed("it exists already")
            .at(out.display())
            .next("name a directory that does not, with --out"));
    }
    std::fs::DirBuilder::new().mode(0o700).create(partial).map_err(|error| {
        Failure::failed(format!("cannot make the directory: {error}"))
            .at(partial.display())
            .next("check the path and its permissions; remove what an earlier try left")
    })
}

fn why(error: &EvidenceError, place: &Path) -> Failure {
    match error {
        EvidenceError::Query(error) => failure(error),
        EvidenceError::Write(_) => Failure::failed(signet_observe::error_chain(error))
            .at(place.display())
            .next("check the path, its permissions and the free space"),
        EvidenceError::Tiles { .. } | EvidenceError::Previous { .. } => {
            Failure::failed(signet_observe::error_chain(error))
                .next("`signet audit verify` says what is wrong with the log")
        }
    }
}
