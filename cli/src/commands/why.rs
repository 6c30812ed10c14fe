//! `signet why ID`: explains one decision.

use std::process::ExitCode;

use signet_audit::query;
use signet_audit::why::{self, Verdict, Why};
use uuid::Uuid;

use super::audit::access::{Accesses, counts};
use super::audit::failure;
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, printable};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The decision's id, as `x-signet-decision` and `signet audit query` name it.
    id: Uuid,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let pool = query::connect(&context.postgres).map_err(|error| failure(&error))?;
    let why = why::explain(&pool, arguments.id).await.map_err(|error| failure(&error))?;
    // The log of the record; where there is no record, every log was searched.
    let log = why.as_ref().map(|why| why.row.log.as_str());
    let cluster = context.clusters.iter().find(|(_, cluster)| Some(cluster.log_origin.as_str()) == log);
    let asked = serde_json::json!({ "id": arguments.id });
    let cluster = cluster.map(|(name, _)| name.as_str());
    Accesses::answered(&context, cluster, "why", &asked, &counts(log.into_iter())).await?;
    let why = why.ok_or_else(|| {
        Failure::failed(format!("there is no record of a decision `{}`", arguments.id))
            .at("the audit store")
            .next("records arrive within a second of the call; check the id, or list them with `signet audit query`")
    })?;
    match global.output {
        Format::Table => output::line(&text(&why))?,
        format => output::value(format, &why)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(why: &Why) -> String {
    use std::fmt::Write;

    let row = &why.row;
    let mut text = String::new();
    let source = row.source_spiffe_id.as_deref().unwrap_or("a caller without an identity");
    let target = row.path.as_deref().map(|path| format!(" {path}")).unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} {}: {} ({})",
        row.time(),
        row.decision.to_uppercase(),
        printable(&row.reason),
        row.decision_id
    );
    let _ = writeln!(text, "  from     {}", printable(source));
    let _ = writeln!(text, "  to       {}", printable(&row.destination_service));
    if let Some(destination) = &row.destination_spiffe_id {
        let _ = writeln!(text, "  served   {}", printable(destination));
    }
    let _ = writeln!(text, "  action   {}{}", printable(&row.action), printable(&target));
    let _ = writeln!(text, "  tls      {}", printable(&row.tls));
    let _ = writeln!(
        text,
        "  commit   {}{}",
        row.policy_commit,
        why.signer.as_deref().map(|signer| format!(", signed by {}", printable(signer))).unwrap_or_default()
    );
    if let Some(detail) = &why.detail {
        let _ = writeln!(text, "  note     {}", printable(detail));
    }
    for policy in &why.determining {
        let _ = writeln!(text, "\nDecided by {} ({}:{})", policy.id, policy.path, policy.line);
        for line in policy.text.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    for (n, nearest) in why.nearest.iter().enumerate() {
        let lead = if n == 0 { "No policy permits it. The nearest is" } else { "Next is" };
        let _ = writeln!(
            text,
            "\n{lead} {} ({}:{}); what failed:",
            nearest.policy.id, nearest.policy.path, nearest.policy.line
        );
        for clause in &nearest.failed {
            let _ = writeln!(text, "    line {}: {}", clause.line, clause.text);
            let _ = writeln!(text, "      here it was {}", printable(&clause.actual));
        }
    }
    if why.determining.is_empty() && why.nearest.is_empty() && !why.explanation.is_empty() {
        let _ = writeln!(text, "\n{}", why.explanation.lines().map(printable).collect::<Vec<_>>().join("\n"));
    }
    let _ = match &why.verdict {
        Verdict::Agrees => writeln!(text, "\nComputed again from the recorded commit and context: the same."),
        Verdict::Disagrees { now } => writeln!(text, "\nComputed again, it comes out otherwise: {}", printable(now)),
        Verdict::NotRecomputable { because } => writeln!(text, "\nCannot be computed again: {}", printable(because)),
    };
    text.trim_end().to_owned()
}
