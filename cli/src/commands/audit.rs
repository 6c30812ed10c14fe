//! `signet audit`: reads the audit log. A subcommand is a file.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use signet_audit::query::{Filter, QueryError};

use crate::arguments::Global;
use crate::context::Context;
use crate::failure::{Exit, Failure};

pub(super) mod access;
mod controls;
mod evidence;
mod export;
mod proof;
mod query;
mod review;
mod status;
mod tail;
mod verify;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List decisions, newest first.
    Query(query::Arguments),
    /// Follow decisions as they are recorded.
    Tail(tail::Arguments),
    /// Write records to a file or to standard output, with a signed manifest beside it.
    Export(export::Arguments),
    /// List controls of standards and laws: what the mesh can show for each, and what it cannot.
    Controls(controls::Arguments),
    /// Write the records that a control asks for, with proofs, policy text and a report, to be checked offline.
    Evidence(evidence::Arguments),
    /// Say whether the logs are whole and every part works; exits 1 on a gap or a failing part.
    Status(status::Arguments),
    /// Write one record with what proves that it is in its log, as a C2SP tlog-proof file.
    Proof(proof::Arguments),
    /// Record that you reviewed the logs; shows what is open first.
    Review(review::Arguments),
    /// Check the logs of the mesh, or an export or evidence package with public keys alone; names what was changed.
    Verify(verify::Arguments),
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
    /// For this reason, such as no_permit.
    #[arg(long)]
    reason: Option<String>,
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

/// A filter that may be narrowed to one log.
#[derive(clap::Args)]
struct LogFilterArguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Only the log of this cluster.
    #[arg(long)]
    cluster: Option<String>,
}

impl LogFilterArguments {
    /// The filter, and the cluster that it is narrowed to.
    fn into_filter(self, context: &Context) -> Result<(Filter, Option<String>), Failure> {
        let log = match &self.cluster {
            Some(name) => Some(context.cluster(Some(name))?.1.log_origin.clone()),
            None => None,
        };
        Ok((Filter { log, ..self.filter.into_filter(context) }, self.cluster))
    }
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
            reason: self.reason,
            trace_id: self.trace_id,
            from_us: self.from.map(|time| time.as_microsecond()),
            to_us: self.to.map(|time| time.as_microsecond()),
            ..Filter::default()
        }
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Query(query) => query::run(global, query).await,
        Command::Tail(tail) => tail::run(global, tail).await,
        Command::Export(export) => export::run(global, export).await,
        Command::Controls(controls) => controls::run(global, &controls),
        Command::Evidence(evidence) => evidence::run(global, evidence).await,
        Command::Status(status) => status::run(global, status).await,
        Command::Proof(proof) => proof::run(global, proof).await,
        Command::Review(review) => review::run(global, review).await,
        Command::Verify(verify) => verify::run(global, verify).await,
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
