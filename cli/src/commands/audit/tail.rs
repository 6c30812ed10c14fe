//! `signet audit tail`: follows decisions as they are recorded.

use std::process::ExitCode;
use std::time::Duration;

use signet_audit::query::{self, DecisionRow, Filter, TailCursor};

use super::access::{Accesses, Counts};
use super::{LogFilterArguments, failure};
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, Reader, Row as _};

const TAIL_POLL: Duration = Duration::from_millis(250);
const TAIL_BATCH: u32 = 500;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: LogFilterArguments,
}

/// Until the reader goes away or the user ends it.
pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let (filter, cluster) = arguments.filter.into_filter(&context)?;
    let asked = serde_json::json!({ "filter": filter });
    let accesses = Accesses::begin(&context, cluster.as_deref(), "tail", &asked).await?;
    let mut read = Counts::new();
    let followed = tokio::select! {
        followed = follow(&pool, &filter, global.output, &mut read) => followed,
        () = signet_observe::shutdown_signal() => Ok(()),
    };
    let ended = accesses.end(&read).await;
    followed.and(ended).map(|()| ExitCode::SUCCESS)
}

/// Writes what is recorded until the reader goes away; counts it in `read`.
async fn follow(pool: &sqlx::PgPool, filter: &Filter, format: Format, read: &mut Counts) -> Result<(), Failure> {
    let mut cursor = TailCursor::now(pool).await.map_err(|error| failure(&error))?;
    if format == Format::Table {
        eprintln!("Following decisions; Ctrl-C ends.");
    }
    loop {
        let rows = query::tail(pool, filter, &mut cursor, TAIL_BATCH).await.map_err(|error| failure(&error))?;
        for row in &rows {
            *read.entry(row.log.clone()).or_default() += 1;
            if output::put_line(&text(format, row)?)? == Reader::Gone {
                return Ok(());
            }
        }
        if rows.is_empty() {
            tokio::time::sleep(TAIL_POLL).await;
        }
    }
}

/// A row as a line or, in YAML, a document; a stream of JSON documents is read line by line.
fn text(format: Format, row: &DecisionRow) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(row.cells().iter().map(|cell| output::printable(cell)).collect::<Vec<_>>().join("  ")),
        Format::Yaml => Ok(format!("---\n{}", output::text(format, row)?)),
        Format::Json | Format::Jsonl => output::text(Format::Jsonl, row),
    }
}
