//! `signet audit review`: records that a person looked through what happened, up to where.

use std::process::ExitCode;

use serde::Serialize;
use signet_audit::query;

use super::access::Accesses;
use super::failure;
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Row};

/// What fits into a record beside the rest.
const MAX_NOTE: usize = 1_000;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What you looked at, and what came of it.
    #[arg(long)]
    note: String,
    /// Only the log of this cluster.
    #[arg(long)]
    cluster: Option<String>,
}

/// A log as it is reviewed.
#[derive(Serialize)]
struct Reviewed {
    log: String,
    /// Leaves that there were.
    size: i64,
    /// What was open.
    alerts: usize,
    missing: i64,
    silent_epochs: i64,
}

impl Row for Reviewed {
    const COLUMNS: &'static [&'static str] = &["log", "reviewed up to", "alerts", "missing", "silent"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.log.clone(),
            self.size.to_string(),
            self.alerts.to_string(),
            self.missing.to_string(),
            self.silent_epochs.to_string(),
        ]
    }
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let note = arguments.note.trim();
    if note.is_empty() || note.len() > MAX_NOTE || note.chars().any(char::is_control) {
        return Err(Failure::usage("the note is empty, longer than 1000 bytes or has control characters").at("--note"));
    }
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let logs = query::logs(&pool).await.map_err(|error| failure(&error))?;
    let alerts = query::alerts(&pool).await.map_err(|error| failure(&error))?;
    let mut reviewed = Vec::new();
    for (name, cluster) in &context.clusters {
        let wanted = arguments.cluster.as_ref().is_none_or(|only| only == name);
        let Some(log) = logs.iter().find(|log| wanted && log.origin == cluster.log_origin) else { continue };
        let row = Reviewed {
            log: log.origin.clone(),
            size: log.size,
            alerts: alerts.iter().filter(|alert| alert.log == log.origin).count(),
            missing: log.missing,
            silent_epochs: log.silent_epochs,
        };
        // A record for each log, with what was open in it.
        let asked = serde_json::json!({ "note": note, "state": row });
        Accesses::begin(&context, Some(name), "review", &asked).await?;
        reviewed.push(row);
    }
    if reviewed.is_empty() {
        // A cluster that is not there, or not in the store.
        context.cluster(arguments.cluster.as_deref())?;
    }
    output::rows(global.output, &reviewed, "The audit store has no log of this context.")?;
    Ok(ExitCode::SUCCESS)
}
