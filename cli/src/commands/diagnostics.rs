//! `signet diagnostics`: what somebody who helps needs to see, in one directory, and no secret in it.
//!
//! INVARIANT: components redact what they show (`/config`); what the context itself holds as a secret is left out here, and
//! nothing that contains one is written, whoever let it through.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::{check, mesh};
use crate::arguments::Global;
use crate::context::Context;
use crate::demo;
use crate::failure::{Failure, ResultExt};
use crate::output::{self, Format, Row};

/// Of one answer.
const ANSWER_LIMIT: usize = 8 << 20;
/// What each component is asked for, and the file that the answer becomes.
const PAGES: [(&str, &str); 5] = [
    ("/livez", "livez.txt"),
    ("/readyz", "readyz.txt"),
    ("/config", "config.json"),
    ("/connections", "connections.json"),
    ("/metrics", "metrics.txt"),
];
const REDACTED: &str = "(redacted)";
/// Shorter values could be part of anything.
const SECRET_BYTES: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The directory to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// One thing that was asked for.
#[derive(Serialize)]
struct Item {
    file: String,
    ok: bool,
    detail: String,
}

impl Row for Item {
    const COLUMNS: &'static [&'static str] = &["file", "state", "detail"];

    fn cells(&self) -> Vec<String> {
        vec![self.file.clone(), if self.ok { "ok" } else { "MISSING" }.to_owned(), self.detail.clone()]
    }
}

/// Exits 0 when the directory is written, whatever could not be had: that is in it.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let mut bundle = Bundle::new(&arguments.out, &context)?;
    bundle.add_json("context.json", Ok(redacted(&context)))?;
    bundle
        .add_json("check.json", serde_json::to_value(check::all(&context).await).map_err(|error| error.to_string()))?;
    for cluster in context.clusters.keys() {
        let shown = mesh::everything(&context, cluster).await.map_err(|failure| failure.to_string());
        bundle.add_json(&format!("{cluster}/mesh.json"), shown)?;
    }
    for (name, address) in listeners(&context) {
        for (page, file) in PAGES {
            let file = format!("{name}/{file}");
            match fetch(&address, page).await {
                // Not every component has every page.
                Ok((StatusCode::NOT_FOUND, _)) => {}
                Ok((_, text)) => bundle.add(&file, Ok(text))?,
                Err(error) => bundle.add(&file, Err(error))?,
            }
        }
    }
    let items = bundle.finish()?;
    match global.output {
        Format::Table => output::rows(Format::Table, &items, "")?,
        Format::Jsonl => items.iter().try_for_each(|item| output::value(Format::Jsonl, item))?,
        format => output::value(format, &json!({ "directory": arguments.out, "items": items }))?,
    }
    eprintln!(
        "Written to {}. Read it before you pass it on: it names services, identities and addresses.",
        arguments.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Admin listeners by the directory of their component: `east/control`, `east/bank/web`.
fn listeners(context: &Context) -> Vec<(String, String)> {
    let components = context.clusters.iter().flat_map(|(cluster, of)| {
        of.admin.iter().map(move |(component, address)| (format!("{cluster}/{component}"), address.clone()))
    });
    let sidecars = context.workloads.iter().map(|(name, workload)| (name.clone(), workload.admin.clone()));
    components.chain(sidecars).collect()
}

async fn fetch(address: &str, page: &str) -> Result<(StatusCode, String), String> {
    let address: SocketAddr = address.parse().map_err(|_| format!("`{address}` is no address"))?;
    demo::fetch(address, page, ANSWER_LIMIT).await.map_err(|error| format!("{error:#}"))
}

fn redacted(context: &Context) -> Value {
    let mut shown = serde_json::to_value(context).unwrap_or_default();
    for secret in ["dashboard_token", "postgres"] {
        if let Some(field) = shown.get_mut(secret) {
            *field = json!(REDACTED);
        }
    }
    shown
}

/// What of the context must be in no file.
fn secrets(context: &Context) -> Vec<String> {
    let key = std::fs::read_to_string(&context.policy_signing_key).unwrap_or_default();
    // The lines of a PEM body; any of them is enough to know it by.
    let key = key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned);
    let password = context
        .postgres
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'))
        .and_then(|(user, _)| user.split_once(':').map(|(_, password)| password.to_owned()));
    let all = key.chain(password).chain([context.dashboard_token.clone()]);
    all.filter(|secret| secret.len() >= SECRET_BYTES).collect()
}

/// A directory that is being written.
struct Bundle {
    directory: PathBuf,
    secrets: Vec<String>,
    items: Vec<Item>,
}

impl Bundle {
    fn new(directory: &Path, context: &Context) -> Result<Self, Failure> {
        std::fs::DirBuilder::new().mode(0o700).create(directory).map_err(|error| {
            Failure::failed(format!("cannot make the directory: {error}"))
                .at(directory.display())
                .next("name one that does not exist yet, in a directory that does")
        })?;
        Ok(Self { directory: directory.to_owned(), secrets: secrets(context), items: Vec::new() })
    }

    fn add_json(&mut self, file: &str, value: Result<Value, String>) -> Result<(), Failure> {
        self.add(file, value.and_then(|value| serde_json::to_string_pretty(&value).map_err(|error| error.to_string())))
    }

    /// Writes `text`, or notes why there is none.
    fn add(&mut self, file: &str, text: Result<String, String>) -> Result<(), Failure> {
        let text = match text {
            Ok(text) if self.secrets.iter().any(|secret| text.contains(secret.as_str())) => {
                Err("left out: it contains a secret; report this as a bug".to_owned())
            }
            other => other,
        };
        let (ok, detail) = match text {
            Ok(text) => {
                self.write(file, &text)?;
                (true, format!("{} bytes", text.len()))
            }
            Err(why) => (false, why),
        };
        self.items.push(Item { file: file.to_owned(), ok, detail });
        Ok(())
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Failure> {
        let next = "check the space and rights there";
        let path = self.directory.join(file);
        if let Some(parent) = path.parent() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.failed(format!("cannot make `{}`", parent.display()), next)?;
        }
        let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut opened = open.failed(format!("cannot make `{}`", path.display()), next)?;
        std::io::Write::write_all(&mut opened, text.as_bytes())
            .failed(format!("cannot write `{}`", path.display()), next)
    }

    fn finish(self) -> Result<Vec<Item>, Failure> {
        let summary = json!({
            "made_at": jiff::Timestamp::now().to_string(),
            "signet": env!("CARGO_PKG_VERSION"),
            "items": self.items,
        });
        self.write("summary.json", &format!("{summary:#}"))?;
        Ok(self.items)
    }
}
