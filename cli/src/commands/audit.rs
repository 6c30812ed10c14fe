//! `signet audit`: reads the audit log.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use signet_audit::query::{self, DecisionRow, Filter, QueryError, TailCursor};

use crate::arguments::Global;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Row};

const TAIL_POLL: Duration = Duration::from_millis(250);
const TAIL_BATCH: u32 = 500;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List decisions, newest first.
    Query {
        #[command(flatten)]
        filter: FilterArguments,
        /// At most this many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Where the page before ended, as it said.
        #[arg(long)]
        after: Option<String>,
    },
    /// Follow decisions as they are recorded.
    Tail {
        #[command(flatten)]
        filter: FilterArguments,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Decision {
    Allow,
    Deny,
}

#[derive(clap::Args)]
struct FilterArguments {
    /// Allowed or denied ones only.
    #[arg(long, value_enum)]
    decision: Option<Decision>,
    /// Of this caller: a SPIFFE ID, or a workload of the context such as east/bank/web.
    #[arg(long)]
    source: Option<String>,
    /// To this workload: a SPIFFE ID, or a workload of the context.
    #[arg(long)]
    destination: Option<String>,
    /// To this service: <trust domain>/<namespace>/<name>.
    #[arg(long)]
    service: Option<String>,
    /// Of this action, such as http:GET.
    #[arg(long)]
    action: Option<String>,
    /// Determined by the policy with this id.
    #[arg(long)]
    policy: Option<String>,
    /// Under the policies of this commit, whole.
    #[arg(long)]
    commit: Option<String>,
    /// With this trace id.
    #[arg(long)]
    trace_id: Option<String>,
    /// At or after this time, RFC 3339.
    #[arg(long)]
    from: Option<jiff::Timestamp>,
    /// Before this time, RFC 3339.
    #[arg(long)]
    to: Option<jiff::Timestamp>,
}

impl FilterArguments {
    fn into_filter(self, context: &Context) -> Filter {
        Filter {
            allow: self.decision.map(|decision| matches!(decision, Decision::Allow)),
            source: self.source.map(|name| context.spiffe_id(name)),
            destination: self.destination.map(|name| context.spiffe_id(name)),
            service: self.service,
            action: self.action,
            policy: self.policy,
            commit: self.commit,
            trace_id: self.trace_id,
            from_us: self.from.map(|time| time.as_microsecond()),
            to_us: self.to.map(|time| time.as_microsecond()),
            ..Filter::default()
        }
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    match arguments.command {
        Command::Query { filter, limit, after } => {
            let filter = filter.into_filter(&context);
            let page =
                query::decisions(&pool, &filter, after.as_deref(), limit).await.map_err(|error| failure(&error))?;
            output::rows(global.output, &page.rows, "No decision matches.")?;
            if let Some(next) = page.next {
                eprintln!("There are more: --after {next}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Tail { filter } => {
            let filter = filter.into_filter(&context);
            tail(&pool, &filter, global.output).await
        }
    }
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

/// What a person reads when the audit store could not answer.
pub(super) fn failure(error: &QueryError) -> Failure {
    let text = signet_observe::error_chain(error);
    match error {
        QueryError::Store(_) => {
            Failure::new(Exit::Unreachable, text).next("check that PostgreSQL runs: `signet check`")
        }
        QueryError::Dsn { .. } => {
            Failure::failed(text).at("postgres, in the context file").next("restore the context file")
        }
        QueryError::Cursor(_) => Failure::usage(text).next("give what the last page named after --after"),
        QueryError::Undecodable { .. } => {
            Failure::failed(text).next("restore the store from a backup, then compare it with its log")
        }
    }
}
