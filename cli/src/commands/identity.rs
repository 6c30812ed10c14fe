//! `signet identity`: what was issued, and by which authority.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use signet_api::identity::{IssuedSvid, ListSvidsRequest};
use signet_mtls::SpiffeId;

use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, Row};
use crate::rpc::{Operator, failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the newest SVID of one SPIFFE ID and the authorities behind it.
    Show {
        /// The SPIFFE ID, as `signet identity list` writes it.
        spiffe_id: SpiffeId,
    },
    /// List the newest SVID of each SPIFFE ID.
    List {
        /// Of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
    },
}

#[derive(Serialize)]
struct Svid {
    cluster: String,
    spiffe_id: String,
    serial: String,
    not_before: String,
    not_after: String,
    expires_in_seconds: i64,
    agent: String,
    issued_total: u64,
}

impl Row for Svid {
    const COLUMNS: &'static [&'static str] = &["spiffe id", "expires in", "not after", "issued", "serial"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.spiffe_id.clone(),
            format!("{} s", self.expires_in_seconds),
            self.not_after.clone(),
            self.issued_total.to_string(),
            self.serial.clone(),
        ]
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    match arguments.command {
        Command::List { cluster } => list(global, &context, cluster.as_deref()).await,
        Command::Show { spiffe_id } => show(global, &context, &spiffe_id).await,
    }
}

async fn list(global: &Global, context: &Context, cluster: Option<&str>) -> Result<ExitCode, Failure> {
    let mut svids = Vec::new();
    for (name, cluster, operator) in Operator::of_each(context, cluster).await? {
        let answer = operator
            .identity()
            .list_svids(ListSvidsRequest {})
            .await
            .map_err(|status| failure("cannot list the identities", &cluster.identity, &status))?;
        svids.extend(answer.into_inner().svids.into_iter().map(|issued| svid(name, issued)));
    }
    svids.sort_by(|left, right| left.spiffe_id.cmp(&right.spiffe_id));
    output::rows(global.output, &svids, "No identity was issued yet.")?;
    Ok(ExitCode::SUCCESS)
}

/// An SVID with what signs it, the intermediate before the root.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    svid: Svid,
    authorities: Vec<Signer>,
}

#[derive(Serialize)]
struct Signer {
    kind: String,
    subject: String,
    not_before: String,
    not_after: String,
    sha256: String,
}

/// Asks the identity server of the trust domain that the SPIFFE ID names: no other can have issued it.
async fn show(global: &Global, context: &Context, spiffe_id: &SpiffeId) -> Result<ExitCode, Failure> {
    let trust_domain = spiffe_id.trust_domain().to_string();
    let (name, cluster) =
        context.clusters.iter().find(|(_, cluster)| cluster.trust_domain == trust_domain).ok_or_else(|| {
            Failure::failed(format!("no cluster of this context is trust domain `{trust_domain}`"))
                .at(spiffe_id)
                .next("`signet identity list` lists what can be shown")
        })?;
    let answer = Operator::connect(cluster)
        .await?
        .identity()
        .list_svids(ListSvidsRequest {})
        .await
        .map_err(|status| failure("cannot read the identities", &cluster.identity, &status))?
        .into_inner();
    let issued =
        answer.svids.into_iter().find(|issued| issued.spiffe_id == spiffe_id.to_string()).ok_or_else(|| {
            Failure::failed(format!("no SVID was issued to `{spiffe_id}`")).at(&cluster.identity).next(
                "`signet identity list` lists what was issued; an SVID is issued when a workload first asks its agent",
            )
        })?;
    let authorities = answer.authorities.into_iter().map(|authority| Signer {
        kind: authority.kind,
        subject: authority.subject,
        not_before: output::time(authority.not_before),
        not_after: output::time(authority.not_after),
        sha256: authority.sha256,
    });
    let shown = Shown { svid: svid(name, issued), authorities: authorities.collect() };
    match global.output {
        Format::Table => output::line(&text(&shown))?,
        format => output::value(format, &shown)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(shown: &Shown) -> String {
    let svid = &shown.svid;
    let mut lines = vec![
        svid.spiffe_id.clone(),
        format!("  serial     {}", svid.serial),
        format!("  valid      {} to {} ({} s left)", svid.not_before, svid.not_after, svid.expires_in_seconds),
        format!("  served by  {}", svid.agent),
        format!("  issued     {} times", svid.issued_total),
    ];
    lines.extend(shown.authorities.iter().map(|signer| {
        format!(
            "{}\n  subject    {}\n  valid      {} to {}\n  sha256     {}",
            signer.kind, signer.subject, signer.not_before, signer.not_after, signer.sha256
        )
    }));
    lines.join("\n")
}

fn svid(cluster: &str, issued: IssuedSvid) -> Svid {
    Svid {
        cluster: cluster.to_owned(),
        spiffe_id: issued.spiffe_id,
        serial: issued.serial,
        not_before: output::time(issued.not_before),
        not_after: output::time(issued.not_after),
        expires_in_seconds: issued.not_after - jiff::Timestamp::now().as_second(),
        agent: issued.agent,
        issued_total: issued.issued_total,
    }
}
