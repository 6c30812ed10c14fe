//! `signet audit verify`: checks the logs of the mesh, an export or a package, and names what does not fit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::StatusCode;
use serde::Serialize;
use signet_audit::note::VerifierKey;
use signet_audit::proof::{self, Proof};
use signet_audit::query;
use signet_audit::verify::{Seen, verify};
use signet_audit_export::evidence;
use signet_audit_export::export::check;

use super::access::Accesses;
use super::failure;
use crate::arguments::Global;
use crate::context::{Cluster, Context};
use crate::demo;
use crate::failure::{Exit, Failure, ResultExt};
use crate::output::{self, Format};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// An export, whose manifest lies beside it, the directory of an evidence package, or a tlog-proof file. Without one,
    /// the logs of the mesh.
    #[arg(value_name = "FILE")]
    target: Option<PathBuf>,
    /// A verifier key that you trust, `<log>+<id>+<key>`; may be repeated. Without one, those of the context.
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// The manifest, when it does not lie beside FILE; its note lies beside it.
    #[arg(long, value_name = "FILE", requires = "target")]
    manifest: Option<PathBuf>,
    /// Only the log of this cluster.
    #[arg(long, conflicts_with = "target")]
    cluster: Option<String>,
    /// A checkpoint that someone kept, as a file; the log must still hold what it signs. May be repeated.
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    checkpoint: Vec<PathBuf>,
}

/// What is shown of a check: what was checked, how much, and what does not fit.
#[derive(Serialize)]
struct Report {
    checked: String,
    holds: bool,
    records: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_size: Option<u64>,
    problems: Vec<String>,
}

impl Report {
    /// Of a file or directory that was checked by itself.
    fn offline(target: &Path, records: u64, problems: &[impl ToString]) -> Self {
        Self {
            checked: target.display().to_string(),
            holds: problems.is_empty(),
            records,
            checkpoint_size: None,
            problems: problems.iter().map(ToString::to_string).collect(),
        }
    }
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let reports = match &arguments.target {
        Some(target) if target.is_dir() => vec![package(global, &arguments, target)?],
        Some(target) => vec![match proof_file(target)? {
            Some(text) => one_record(global, &arguments, target, &text)?,
            None => export(global, &arguments, target)?,
        }],
        None => logs(global, &arguments).await?,
    };
    let holds = reports.iter().all(|report| report.holds);
    match global.output {
        Format::Table => reports.iter().try_for_each(|report| output::line(&text(report)))?,
        Format::Jsonl => reports.iter().try_for_each(|report| output::value(Format::Jsonl, report))?,
        format => output::value(format, &reports)?,
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The keys that were given, or else those of the context.
fn keys(global: &Global, given: &[String]) -> Result<Vec<VerifierKey>, Failure> {
    let texts = if given.is_empty() {
        let context = Context::load(global.context.as_deref())
            .map_err(|failure| failure.next("name the keys that you trust with --key, or a mesh with --context"))?;
        context.clusters.into_values().map(|cluster| cluster.log_key).collect()
    } else {
        given.to_vec()
    };
    texts.iter().map(|text| text.parse().map_err(|error| Failure::usage(format!("{error}")).at("--key"))).collect()
}

/// Every log of the context, recomputed from its rows.
async fn logs(global: &Global, arguments: &Arguments) -> Result<Vec<Report>, Failure> {
    let keys = keys(global, &arguments.key)?;
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let mut kept = BTreeMap::<String, Vec<Seen>>::new();
    for path in &arguments.checkpoint {
        let note = std::fs::read_to_string(path).map_err(|error| {
            Failure::failed(format!("cannot read: {error}")).at(path.display()).next("check the path of --checkpoint")
        })?;
        let origin = note.lines().next().unwrap_or_default().to_owned();
        if !context.clusters.values().any(|cluster| cluster.log_origin == origin) {
            return Err(Failure::usage("it is no checkpoint of a log of this mesh").at(path.display()).next(
                "give a C2SP checkpoint, such as `curl <tlog>/checkpoint` writes; its first line names the log",
            ));
        }
        kept.entry(origin).or_default().push(Seen { place: path.display().to_string(), note });
    }
    let asked = serde_json::json!({ "cluster": arguments.cluster });
    let accesses = Accesses::begin(&context, arguments.cluster.as_deref(), "verify", &asked).await?;
    let mut reports = Vec::new();
    for access in accesses.named() {
        let Some(key) = keys.iter().find(|key| key.name() == access.log) else {
            return Err(Failure::usage(format!("no trusted key of log `{}` was given", access.log)).at("--key"));
        };
        let mut seen = kept.remove(&access.log).unwrap_or_default();
        for cluster in context.clusters.values().filter(|cluster| cluster.log_origin == access.log) {
            seen.push(served(cluster).await?);
        }
        let found = verify(&pool, &access.log, key, &seen).await.map_err(|error| failure(&error))?;
        reports.push(Report {
            checked: access.log,
            holds: found.holds(),
            records: found.records,
            checkpoint_size: found.checkpoint_size,
            problems: found.problems.iter().map(ToString::to_string).collect(),
        });
    }
    Ok(reports)
}

/// The checkpoint that a log shows to strangers now.
async fn served(cluster: &Cluster) -> Result<Seen, Failure> {
    let place = format!("{}/checkpoint", cluster.tlog.trim_end_matches('/'));
    let unreachable = |why: String| {
        Failure::new(Exit::Unreachable, format!("cannot get the log's checkpoint: {why}"))
            .at(&place)
            .next("check that the audit service runs: `signet check`")
    };
    let address = cluster.tlog.trim_start_matches("http://").trim_end_matches('/');
    let address: SocketAddr = address.parse().map_err(|_| {
        Failure::failed(format!("`{}` is not http:// with an address", cluster.tlog))
            .at("tlog, in the context file")
            .next("restore the context file")
    })?;
    match demo::probe(address, "/checkpoint").await {
        Ok((StatusCode::OK, note)) => Ok(Seen { place, note }),
        Ok((status, _)) => Err(unreachable(format!("it answered {status}"))),
        Err(error) => Err(unreachable(format!("{error:#}"))),
    }
}

/// An evidence package, offline.
fn package(global: &Global, arguments: &Arguments, target: &Path) -> Result<Report, Failure> {
    let keys = keys(global, &arguments.key)?;
    let checked =
        evidence::check(target, &keys).failed("cannot list the package", "copy it again from where it was made")?;
    Ok(Report::offline(target, checked.records, &checked.problems))
}

/// The text of a tlog-proof file; `None` when the file is something else.
fn proof_file(target: &Path) -> Result<Option<String>, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::failed(format!("cannot read: {error}")).at(target.display()).next("check the path")
    };
    let mut bytes = Vec::new();
    File::open(target).and_then(|file| file.take(proof::MAX_BYTES).read_to_end(&mut bytes)).map_err(cannot)?;
    let text = String::from_utf8(bytes).ok();
    Ok(text.filter(|text| text.lines().next() == Some(proof::HEADER)))
}

/// One record, offline.
fn one_record(global: &Global, arguments: &Arguments, target: &Path, text: &str) -> Result<Report, Failure> {
    let keys = keys(global, &arguments.key)?;
    let checked = text.parse::<Proof>().and_then(|proof| proof.check(&keys));
    Ok(match checked {
        Ok((record, checkpoint)) => {
            eprintln!("{} of {}, by {}", record.action, record.id, record.producer);
            Report { checkpoint_size: Some(checkpoint.size), ..Report::offline(target, 1, &[""; 0]) }
        }
        Err(error) => Report::offline(target, 0, &[signet_observe::error_chain(&error)]),
    })
}

/// An export, offline.
fn export(global: &Global, arguments: &Arguments, target: &Path) -> Result<Report, Failure> {
    let keys = keys(global, &arguments.key)?;
    let manifest = arguments.manifest.clone().unwrap_or_else(|| {
        let mut name = target.as_os_str().to_owned();
        name.push(".manifest.json");
        PathBuf::from(name)
    });
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::failed(format!("cannot read: {error}"))
                .at(path.display())
                .next("an export is checked with FILE.manifest.json and FILE.manifest.note beside it")
        })
    };
    let (json, note) = (read(&manifest)?, read(&manifest.with_extension("note"))?);
    let file = File::open(target).map_err(|error| {
        Failure::failed(format!("cannot read: {error}")).at(target.display()).next("check the path")
    })?;
    let checked = check(&json, &note, BufReader::new(file), &keys)
        .failed("cannot read the export", "copy it again from where it was made")?;
    Ok(Report::offline(target, checked.records, &checked.problems))
}

fn text(report: &Report) -> String {
    let mut lines = vec![match (report.holds, report.checkpoint_size) {
        (true, Some(size)) => {
            format!("ok    {}: {} records, all in the tree; signed up to {size}", report.checked, report.records)
        }
        (true, None) => format!("ok    {}: {} records, as they were signed for", report.checked, report.records),
        (false, _) => {
            format!("FAIL  {}: {} problems in {} records", report.checked, report.problems.len(), report.records)
        }
    }];
    lines.extend(report.problems.iter().map(|problem| format!("      {}", output::printable(problem))));
    lines.join("\n")
}
