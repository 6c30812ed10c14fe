//! `signet can SRC ACTION DST`: would the mesh allow it now?
//!
//! Answers from the bundle that the destination's control plane has active, as the audit store keeps it: the same files
//! that sidecars decide with.

use std::process::ExitCode;

use serde::Serialize;
use signet_api::control::MeshRequest;
use signet_audit::query;
use signet_policy::{Bundle, Effect, Explanation, Nearest};

use super::audit;
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, printable};
use crate::rpc::{Operator, failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Who calls: a SPIFFE ID, <trust domain>/<namespace>/<service account>, a workload of the context such as
    /// east/bank/web, or `unauthenticated`.
    source: String,
    /// What it asks for: http:GET, grpc:call, bank.v1.Payments/Pay, tcp:connect, gateway:forward.
    action: String,
    /// The service: <trust domain>/<namespace>/<name>, or east/bank/ledger by the names of the context.
    destination: String,
    /// The request's path, or gRPC's package.Service/Method. Without it every route that the service declares is asked.
    #[arg(long)]
    path: Option<String>,
}

/// One question and its answer.
#[derive(Serialize)]
struct Answer {
    source: String,
    action: String,
    destination: String,
    path: Option<String>,
    decision: &'static str,
    reason: &'static str,
    policies: Vec<String>,
    commit: String,
    /// For a default deny: the permits that came nearest, each with the clauses that failed and what the request had.
    nearest: Vec<Nearest>,
    explanation: String,
}

#[derive(Serialize)]
struct Answers {
    allowed: bool,
    answers: Vec<Answer>,
}

/// Exits 0 when the call would be allowed (with no path given, on some route), else 3.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let source = context.spiffe_id(arguments.source);
    let destination = context.service_id(arguments.destination);
    let bundle = active_bundle(&context, &destination).await?;
    let now = jiff::Timestamp::now().as_microsecond();
    let mut answers = Vec::new();
    for path in paths(&bundle, &destination, &arguments.action, arguments.path) {
        let explanation = bundle
            .can(&source, &arguments.action, &destination, path.as_deref(), now)
            .map_err(|error| Failure::usage(error).next("see `signet can --help`"))?;
        answers.push(answer(&source, &arguments.action, &destination, path, &explanation));
    }
    let allowed = answers.iter().any(|answer| answer.decision == Effect::Allow.as_str());
    match global.output {
        Format::Table => {
            for answer in &answers {
                let path = answer.path.as_deref().map(|path| format!(" {path}")).unwrap_or_default();
                output::line(&format!("{}: {}{path} on {destination}", answer.decision.to_uppercase(), answer.action))?;
                for line in answer.explanation.lines() {
                    output::line(&format!("  {}", printable(line)))?;
                }
            }
        }
        format => output::value(format, &Answers { allowed, answers })?,
    }
    Ok(if allowed { ExitCode::SUCCESS } else { Exit::Denied.into() })
}

fn answer(source: &str, action: &str, destination: &str, path: Option<String>, explanation: &Explanation) -> Answer {
    Answer {
        source: source.to_owned(),
        action: action.to_owned(),
        destination: destination.to_owned(),
        path,
        decision: explanation.decision.effect.as_str(),
        reason: explanation.decision.reason.as_str(),
        policies: explanation.determining.iter().map(|policy| policy.id.to_string()).collect(),
        commit: explanation.commit.clone(),
        nearest: explanation.nearest.clone(),
        explanation: explanation.to_string(),
    }
}

/// What to ask about: the given path, or an example of each route of the service that the action could mean.
fn paths(bundle: &Bundle, destination: &str, action: &str, given: Option<String>) -> Vec<Option<String>> {
    if given.is_some() {
        return vec![given];
    }
    let routes = bundle.settings().services.get(destination).map(|facts| facts.routes.as_slice()).unwrap_or_default();
    let method = action.strip_prefix("http:").unwrap_or(action);
    let mut paths: Vec<Option<String>> = routes
        .iter()
        .filter_map(|route| match route.split_once(' ') {
            Some((verb, template)) => (verb == method).then(|| Some(example(template))),
            None => (action == "grpc:call").then(|| Some(route.clone())),
        })
        .collect();
    if paths.is_empty() {
        paths.push(None);
    }
    paths
}

/// A path that the template matches: each variable becomes `1`.
fn example(template: &str) -> String {
    template
        .split('/')
        .map(|segment| if segment.starts_with('{') { "1" } else { segment })
        .collect::<Vec<_>>()
        .join("/")
}

async fn active_bundle(context: &Context, destination: &str) -> Result<Bundle, Failure> {
    let trust_domain = destination.split('/').next().unwrap_or_default();
    let cluster = context.clusters.values().find(|cluster| cluster.trust_domain == trust_domain).ok_or_else(|| {
        Failure::usage(format!("no cluster of the context has the trust domain `{trust_domain}`"))
            .next("write the destination as <trust domain>/<namespace>/<name>, or <cluster>/<namespace>/<name>")
    })?;
    let state = Operator::connect(cluster)
        .await?
        .control()
        .mesh(MeshRequest {})
        .await
        .map_err(|status| failure("cannot ask which policies are active", &cluster.control, &status))?
        .into_inner();
    let policy = state.policy.unwrap_or_default();
    let pool = query::connect(&context.postgres).map_err(|error| audit::failure(&error))?;
    let stored =
        query::bundle(&pool, &policy.digest).await.map_err(|error| audit::failure(&error))?.ok_or_else(|| {
            Failure::failed(format!("the audit store does not hold the active policy bundle `{}`", policy.digest))
                .next("wait a moment and ask again; the control plane stores each bundle that it activates")
        })?;
    Bundle::compile(&stored.source(&policy.commit)).map_err(|problems| {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        Failure::failed(format!("the active bundle does not compile here: {first}"))
            .next("use the same version of `signet` as the mesh")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_fills_each_variable() {
        assert_eq!(example("/accounts/{id}/entries"), "/accounts/1/entries");
    }
}
