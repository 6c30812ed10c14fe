//! `signet mesh top`: who calls what now, how often, how well and how fast.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use futures::future::try_join_all;
use serde::Serialize;
use signet_api::control::{TopRequest, TopUpdate};
use tonic::Streaming;

use super::names::Names;
use super::sight::{Key, Sight};
use crate::arguments::Global;
use crate::context::{Cluster, Context};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Row};
use crate::rpc::{Operator, failure};

const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Only flows from or to this ("east/bank/ledger", "bank/ledger", or a SPIFFE ID).
    name: Option<String>,
    /// Ask this cluster only.
    #[arg(long)]
    cluster: Option<String>,
    /// Only flows from this workload.
    #[arg(long)]
    source: Option<String>,
    /// Only flows to this service.
    #[arg(long)]
    destination: Option<String>,
    /// One row for each route.
    #[arg(long)]
    routes: bool,
    /// What these proxies saw, in place of both sides' view as one.
    #[arg(long, value_enum)]
    seen_by: Option<SeenBy>,
    /// Seconds between two updates.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    interval: u32,
    /// One update, then end.
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SeenBy {
    /// The destinations' sidecars.
    Inbound,
    /// The sources' sidecars.
    Outbound,
    /// East-west gateways.
    Gateway,
}

impl SeenBy {
    fn direction(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "forward",
        }
    }
}

/// One update.
#[derive(Serialize)]
struct Update {
    time: String,
    window_seconds: f64,
    /// That reported in the window.
    proxies: u32,
    /// Reports that could not be summed in time.
    missed: u64,
    flows: Vec<Flow>,
}

#[derive(Serialize)]
struct Flow {
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(flatten)]
    sight: Sight,
    success_percent: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    #[serde(skip)]
    shown: [String; 2],
}

impl Row for Flow {
    const COLUMNS: &'static [&'static str] = &[
        "source",
        "destination",
        "route",
        "calls/s",
        "conns/s",
        "success",
        "denied/s",
        "failed/s",
        "p50",
        "p99",
        "in/s",
        "out/s",
    ];

    fn cells(&self) -> Vec<String> {
        let [source, destination] = self.shown.clone();
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let sight = &self.sight;
        vec![
            source,
            destination,
            self.route.clone().unwrap_or_default(),
            rate(sight.requests_per_second),
            rate(sight.connections_per_second),
            self.success_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %")),
            rate(sight.denied_per_second),
            rate(sight.failed_per_second),
            ms(self.p50_ms),
            ms(self.p99_ms),
            bytes(sight.received_bytes_per_second),
            bytes(sight.sent_bytes_per_second),
        ]
    }
}

fn rate(per_second: f64) -> String {
    if per_second == 0.0 { "-".to_owned() } else { format!("{per_second:.1}") }
}

fn bytes(per_second: f64) -> String {
    match per_second {
        0.0 => "-".to_owned(),
        few if few < 1_000.0 => format!("{few:.0} B"),
        some if some < 1_000_000.0 => format!("{:.1} kB", some / 1_000.0),
        many => format!("{:.1} MB", many / 1_000_000.0),
    }
}

pub(super) async fn run(global: &Global, context: &Context, arguments: Arguments) -> Result<ExitCode, Failure> {
    let names = Names::of(context);
    let mut clusters = Vec::new();
    for (_, cluster, operator) in Operator::of_each(context, arguments.cluster.as_deref()).await? {
        let request = TopRequest { interval_ms: arguments.interval * 1_000 };
        let asked = operator.control().top(request).await;
        let updates = asked.map_err(|status| failure("cannot watch flows", &cluster.control, &status))?.into_inner();
        // The operator's identity has to live as long as the stream.
        clusters.push((cluster, operator, updates));
    }
    // A stream of documents is read line by line.
    let format = match global.output {
        Format::Json if !arguments.once => Format::Jsonl,
        format => format,
    };
    loop {
        let asked = clusters.iter_mut().map(|(cluster, _, updates)| next(cluster, updates));
        let updates = tokio::select! {
            updates = try_join_all(asked) => updates?,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        };
        show(format, &arguments, update(updates, &arguments, &names))?;
        if arguments.once {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

async fn next(cluster: &Cluster, updates: &mut Streaming<TopUpdate>) -> Result<TopUpdate, Failure> {
    match updates.message().await {
        Ok(Some(update)) => Ok(update),
        Ok(None) => Err(Failure::new(Exit::Unreachable, "the control plane ended the stream")
            .at(&cluster.control)
            .next("try again; `signet check` says how it is")),
        Err(status) => Err(failure("cannot watch flows", &cluster.control, &status)),
    }
}

/// Each cluster's control plane sums what its own proxies see; a call between clusters is in two of them.
fn update(updates: Vec<TopUpdate>, arguments: &Arguments, names: &Names) -> Update {
    let (proxies, missed) = updates.iter().fold((0, 0), |(p, m), update| (p + update.proxies, m + update.missed));
    let window_us = updates.iter().map(|update| update.window_us).max().unwrap_or_default();
    let mut sights: BTreeMap<Key, Vec<Sight>> = BTreeMap::new();
    for update in &updates {
        for (key, sight) in Sight::of_each(update, arguments.routes) {
            sights.entry(key).or_default().push(sight);
        }
    }
    let mut flows: Vec<Flow> = sights
        .into_iter()
        .filter(|(key, _)| wanted(key, arguments, names))
        .filter_map(|(key, sights)| {
            let sight = match arguments.seen_by {
                Some(by) => sights.into_iter().find(|sight| sight.direction == by.direction()),
                None => Sight::join(sights),
            };
            sight.map(|sight| flow(key, sight, names))
        })
        .collect();
    let busy = |flow: &Flow| flow.sight.requests_per_second + flow.sight.connections_per_second;
    flows.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    Update {
        time: jiff::Timestamp::now().to_string(),
        window_seconds: super::sight::seconds(window_us),
        proxies,
        missed,
        flows,
    }
}

fn wanted(key: &Key, arguments: &Arguments, names: &Names) -> bool {
    let fits = |asked: &Option<String>, is: &str| asked.as_ref().is_none_or(|asked| names.means(asked, is));
    fits(&arguments.source, &key.source)
        && fits(&arguments.destination, &key.destination)
        && (fits(&arguments.name, &key.source) || fits(&arguments.name, &key.destination))
}

fn flow(key: Key, sight: Sight, names: &Names) -> Flow {
    Flow {
        shown: [names.short(&key.source), names.short(&key.destination)],
        source: key.source,
        destination: key.destination,
        route: key.route,
        success_percent: sight.success_percent(),
        p50_ms: sight.quantile_ms(0.5),
        p99_ms: sight.quantile_ms(0.99),
        sight,
    }
}

fn show(format: Format, arguments: &Arguments, update: Update) -> Result<(), Failure> {
    match format {
        Format::Table => {
            if !arguments.once && std::io::stdout().is_terminal() {
                let _ = std::io::stdout().write_all(CLEAR.as_bytes());
            }
            let head = format!("{}  {:.1} s, {} proxies", update.time, update.window_seconds, update.proxies);
            eprintln!(
                "{head}{}",
                if update.missed > 0 { format!(", {} reports missed", update.missed) } else { String::new() }
            );
            output::rows(Format::Table, &update.flows, "Nothing called anything in this time.")
        }
        Format::Yaml if !arguments.once => {
            output::line("---")?;
            output::value(format, &update)
        }
        format => output::value(format, &update),
    }
}
