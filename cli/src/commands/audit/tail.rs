//! `signet audit tail`: follows decisions as they are recorded.

use std::process::ExitCode;
use std::time::Duration;

use signet_audit::query::{self, DecisionRow, Filter, TailCursor};

use super::{FilterArguments, failure};
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, Row as _};

const TAIL_POLL: Duration = Duration::from_millis(250);
const TAIL_BATCH: u32 = 500;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    tail(&pool, &arguments.filter.into_filter(&context), global.output).await
}

/// Until the reader goes away or the user ends it.
async fn tail(pool: &sqlx::PgPool, filter: &Filter, format: Format) -> Result<ExitCode, Failure> {
    let mut cursor = TailCursor::now(pool).await.map_err(|error| failure(&error))?;
    if format == Format::Table {
        eprintln!("Following decisions; Ctrl-C ends.");
    }
    // A stream of documents is read line by line.
    let format = if format == Format::Json { Format::Jsonl } else { format };
    loop {
        let rows = query::tail(pool, filter, &mut cursor, TAIL_BATCH).await.map_err(|error| failure(&error))?;
        for row in &rows {
            match format {
                Format::Table => output::line(&line(row))?,
                Format::Yaml => {
                    output::line("---")?;
                    output::value(format, row)?;
                }
                Format::Json | Format::Jsonl => output::value(Format::Jsonl, row)?,
            }
        }
        if rows.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(TAIL_POLL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            }
        }
    }
}

fn line(row: &DecisionRow) -> String {
    row.cells().iter().map(|cell| output::printable(cell)).collect::<Vec<_>>().join("  ")
}
