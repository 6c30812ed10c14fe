//! `signet audit query`: lists decisions by pages.

use std::process::ExitCode;

use signet_audit::query::{self, DecisionRow};

use super::access::{Accesses, counts};
use super::{LogFilterArguments, failure};
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Row};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: LogFilterArguments,
    /// At most this many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Where the page before ended, as it said.
    #[arg(long)]
    after: Option<String>,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { filter, limit, after } = arguments;
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let (filter, cluster) = filter.into_filter(&context)?;
    let page = query::decisions(&pool, &filter, after.as_deref(), limit).await.map_err(|error| failure(&error))?;
    let asked = serde_json::json!({ "filter": filter, "limit": limit, "after": after });
    let read = counts(page.rows.iter().map(|row| row.log.as_str()));
    Accesses::answered(&context, cluster.as_deref(), "query", &asked, &read).await?;
    output::rows(global.output, &page.rows, "No decision matches.")?;
    if let Some(next) = page.next {
        eprintln!("There are more: --after {next}");
    }
    Ok(ExitCode::SUCCESS)
}

impl Row for DecisionRow {
    const COLUMNS: &'static [&'static str] =
        &["time", "decision", "source", "action", "service", "path", "reason", "policies", "decision id"];

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{:.3}", self.time()),
            self.decision.clone(),
            self.source_spiffe_id.clone().unwrap_or_else(|| "-".to_owned()),
            self.action.clone(),
            self.destination_service.clone(),
            self.path.clone().unwrap_or_default(),
            self.reason.clone(),
            self.policy_ids.join(","),
            self.decision_id.to_string(),
        ]
    }
}
