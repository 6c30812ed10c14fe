//! `signet identity`: what was issued, and by which authority.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use signet_api::identity::{IssuedSvid, ListSvidsRequest};

use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Row};
use crate::rpc::{Operator, failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    let Command::List { cluster } = arguments.command;
    let context = Context::load(global.context.as_deref())?;
    let mut svids = Vec::new();
    for (name, cluster, operator) in Operator::of_each(&context, cluster.as_deref()).await? {
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
