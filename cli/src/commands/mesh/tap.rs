//! `signet mesh tap`: calls as they are answered, from the proxies that decide them.

use std::process::ExitCode;

use futures::stream::{StreamExt as _, select_all};
use serde::Serialize;
use signet_api::control::{TapFilter, TapRequest, TappedCall};

use super::names::Names;
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::rpc::{Operator, failure};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Only calls from this workload ("east/bank/web", or a SPIFFE ID; "unauthenticated").
    #[arg(long)]
    source: Option<String>,
    /// Only calls to this service ("east/bank/ledger").
    #[arg(long)]
    destination: Option<String>,
    /// Only calls by this route, as signet.yaml declares it ("GET /accounts/{id}").
    #[arg(long)]
    route: Option<String>,
    /// Only calls whose path begins so.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only calls that were decided so.
    #[arg(long, value_enum)]
    decision: Option<Decision>,
    /// Watch what this cluster's proxies decide only.
    #[arg(long)]
    cluster: Option<String>,
    /// Calls a second that each proxy shows at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// End after so many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// End after so many calls.
    #[arg(long, value_name = "CALLS")]
    max: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Decision {
    Allow,
    Deny,
}

#[derive(Serialize)]
struct Call {
    time: String,
    cluster: String,
    source: String,
    destination: String,
    action: String,
    path: String,
    route: String,
    decision: &'static str,
    /// Of HTTP.
    status: Option<u32>,
    latency_us: u64,
    decision_id: String,
    trace_id: String,
    /// The proxy that decided.
    proxy: String,
}

pub(super) async fn run(global: &Global, context: &Context, arguments: Arguments) -> Result<ExitCode, Failure> {
    let names = Names::of(context);
    let request = request(context, &arguments);
    let mut clusters = Vec::new();
    // The operators' identities have to live as long as the streams.
    let mut operators = Vec::new();
    for (name, cluster, operator) in Operator::of_each(context, arguments.cluster.as_deref()).await? {
        let refused = move |status| failure("cannot watch calls", &cluster.control, &status);
        let updates = operator.control().tap(request.clone()).await.map_err(refused)?.into_inner();
        clusters.push(updates.map(move |update| update.map(|update| (name, update)).map_err(refused)).boxed());
        operators.push(operator);
    }
    if global.output == Format::Table {
        eprintln!("Watching calls for {} s; Ctrl-C ends. That you watch is recorded.", arguments.seconds);
    }
    let mut updates = select_all(clusters);
    let (mut shown, mut dropped) = (0, 0);
    loop {
        let update = tokio::select! {
            update = updates.next() => update,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(update) = update else { break };
        let (cluster, update) = update?;
        for tapped in update.calls {
            show(global.output, &call(cluster, tapped), &names)?;
            shown += 1;
            if arguments.max.is_some_and(|max| shown >= max) {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if update.dropped > 0 {
            dropped += update.dropped;
            eprintln!(
                "warning: {} more calls were not shown: they came faster than --rate, or than this is read",
                update.dropped
            );
        }
    }
    eprintln!("{shown} calls shown, {dropped} not shown.");
    Ok(ExitCode::SUCCESS)
}

fn request(context: &Context, arguments: &Arguments) -> TapRequest {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let decision = match arguments.decision {
        Some(Decision::Allow) => "allow",
        Some(Decision::Deny) => "deny",
        None => "",
    };
    let filter = TapFilter {
        source: context.spiffe_id(text(&arguments.source)),
        destination: context.service_id(text(&arguments.destination)),
        route: text(&arguments.route),
        path_prefix: text(&arguments.path),
        decision: decision.to_owned(),
    };
    TapRequest { filter: Some(filter), per_second: arguments.rate, seconds: arguments.seconds }
}

fn call(cluster: &str, tapped: TappedCall) -> Call {
    Call {
        time: jiff::Timestamp::from_microsecond(tapped.time_us)
            .map_or_else(|_| "unknown".to_owned(), |at| at.to_string()),
        cluster: cluster.to_owned(),
        source: tapped.source,
        destination: tapped.destination,
        action: tapped.action,
        path: tapped.path,
        route: tapped.route,
        decision: if tapped.allow { "allow" } else { "deny" },
        status: Some(tapped.status).filter(|status| *status > 0),
        latency_us: tapped.latency_us,
        decision_id: tapped.decision_id,
        trace_id: tapped.trace_id,
        proxy: tapped.proxy,
    }
}

fn show(format: Format, call: &Call, names: &Names) -> Result<(), Failure> {
    match format {
        Format::Table => output::line(&output::printable(&line(call, names))),
        Format::Yaml => {
            output::line("---")?;
            output::value(Format::Yaml, call)
        }
        // A stream of documents is read line by line.
        Format::Json | Format::Jsonl => output::value(Format::Jsonl, call),
    }
}

fn line(call: &Call, names: &Names) -> String {
    let (source, destination) = (names.short(&call.source), names.short(&call.destination));
    let status = call.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let us = call.latency_us;
    format!(
        "{}  {source} -> {destination}  {} {}  {} {status}  {}.{:03} ms  {}",
        call.time,
        call.action,
        call.path,
        call.decision,
        us / 1_000,
        us % 1_000,
        call.decision_id
    )
}
