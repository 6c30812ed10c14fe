//! `signet check`: one line for each thing that must hold, and the next step where one does not.
//!
//! Without a context it looks at the machine, before a mesh is started; with one at the running mesh too.

mod machine;
mod running;

use std::process::ExitCode;

use serde::Serialize;

use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, printable};

const SECTIONS: [&str; 6] = ["this machine", "components", "sidecars", "policy", "federation", "audit"];

#[derive(clap::Args)]
pub(crate) struct Arguments {}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Failed,
}

#[derive(Serialize)]
pub(super) struct Check {
    section: &'static str,
    check: String,
    status: Status,
    detail: String,
    next: String,
}

impl Check {
    fn ok(section: &'static str, check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { section, check: check.into(), status: Status::Ok, detail: detail.into(), next: String::new() }
    }

    fn failed(
        section: &'static str,
        check: impl Into<String>,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { section, check: check.into(), status: Status::Failed, detail: detail.into(), next: next.into() }
    }

    fn warning(
        section: &'static str,
        check: impl Into<String>,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { section, check: check.into(), status: Status::Warning, detail: detail.into(), next: next.into() }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Check],
}

/// All that can be checked of a running mesh and this machine, section by section.
pub(super) async fn all(context: &Context) -> Vec<Check> {
    let mut checks = machine::checks();
    checks.extend(running::checks(context).await);
    // Cluster by cluster they come; a person reads section by section.
    checks.sort_by_key(|check| SECTIONS.iter().position(|section| *section == check.section));
    checks
}

/// Exits 1 when a check failed; warnings do not count.
pub(crate) async fn run(global: &Global, _arguments: Arguments) -> Result<ExitCode, Failure> {
    let checks = match &global.context {
        Some(path) => all(&Context::load(Some(path))?).await,
        None => machine::checks(),
    };
    let ok = checks.iter().all(|check| check.status != Status::Failed);
    match global.output {
        Format::Table => print(&checks)?,
        Format::Jsonl => checks.iter().try_for_each(|check| output::value(Format::Jsonl, check))?,
        format => output::value(format, &Report { ok, checks: &checks })?,
    }
    if global.context.is_none() {
        eprintln!("To check a running mesh too, give --context FILE or set SIGNET_CONTEXT.");
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(checks: &[Check]) -> Result<(), Failure> {
    let mut section = "";
    for check in checks {
        if check.section != section {
            section = check.section;
            output::line(section)?;
        }
        let mark = match check.status {
            Status::Ok => "√",
            Status::Warning => "‼",
            Status::Failed => "×",
        };
        let detail = if check.detail.is_empty() { String::new() } else { format!(": {}", printable(&check.detail)) };
        output::line(&format!("  {mark} {}{detail}", check.check))?;
        if check.status != Status::Ok {
            output::line(&format!("      next: {}", check.next))?;
        }
    }
    Ok(())
}
