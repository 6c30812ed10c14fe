//! `signet mesh`: what the control planes know, whom they lead, and what passes at this moment.

mod names;
mod sight;
mod tap;
mod top;

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
use signet_api::control::{MeshRequest, MeshState};

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
    /// List services, their own and those of linked clusters.
    Services {
        /// Of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// List the rules of HTTPRoutes and GRPCRoutes in force, in order of precedence.
    Routes {
        /// Of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
        /// Of this service only ("bank/ledger").
        service: Option<String>,
    },
    /// List sidecars and gateways with what each enforces.
    Proxies {
        /// Of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Show who calls what now: rates, success, denials, times, bytes.
    Top(top::Arguments),
    /// Show calls as they are answered. Nothing of bodies, queries or headers; that you watch is recorded.
    Tap(tap::Arguments),
}

#[derive(Serialize)]
struct Service {
    cluster: String,
    service: String,
    hosts: Vec<String>,
    port: u32,
    protocol: String,
    endpoints: u32,
    exported: bool,
    via: String,
}

impl Row for Service {
    const COLUMNS: &'static [&'static str] =
        &["cluster", "service", "port", "protocol", "endpoints", "exported", "via", "ask for it as"];

    fn cells(&self) -> Vec<String> {
        // The longest name is the one that works from everywhere.
        let host = self.hosts.iter().max_by_key(|host| host.len()).cloned().unwrap_or_default();
        vec![
            self.cluster.clone(),
            self.service.clone(),
            self.port.to_string(),
            self.protocol.clone(),
            self.endpoints.to_string(),
            if self.exported { "yes" } else { "" }.to_owned(),
            self.via.clone(),
            host,
        ]
    }
}

#[derive(Serialize)]
struct Route {
    cluster: String,
    service: String,
    port: u32,
    /// Whose callers it concerns; empty: all who have no route of their own.
    callers: String,
    r#match: String,
    action: String,
    rule: String,
}

impl Row for Route {
    const COLUMNS: &'static [&'static str] = &["cluster", "service", "port", "callers", "match", "action", "rule"];

    fn cells(&self) -> Vec<String> {
        let callers = if self.callers.is_empty() { "all" } else { &self.callers };
        vec![
            self.cluster.clone(),
            self.service.clone(),
            self.port.to_string(),
            callers.to_owned(),
            self.r#match.clone(),
            self.action.clone(),
            self.rule.clone(),
        ]
    }
}

#[derive(Serialize)]
struct Proxy {
    cluster: String,
    spiffe_id: String,
    kind: String,
    connected: bool,
    acked_version: u64,
    policy_commit: String,
    bundle_digest: String,
    last_error: String,
}

impl Row for Proxy {
    const COLUMNS: &'static [&'static str] = &["cluster", "spiffe id", "kind", "policy commit", "state"];

    fn cells(&self) -> Vec<String> {
        let state = match (self.connected, self.last_error.as_str()) {
            (false, _) => "not connected".to_owned(),
            (true, "") => "ok".to_owned(),
            (true, error) => error.to_owned(),
        };
        let commit = self.policy_commit.get(..12).unwrap_or(&self.policy_commit).to_owned();
        vec![self.cluster.clone(), self.spiffe_id.clone(), self.kind.clone(), commit, state]
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    match arguments.command {
        Command::Top(top) => return top::run(global, &context, top).await,
        Command::Tap(tap) => return tap::run(global, &context, tap).await,
        Command::Services { cluster } => {
            let states = states(&context, cluster.as_deref()).await?;
            let services: Vec<Service> = states.into_iter().flat_map(|(name, state)| services(&name, state)).collect();
            output::rows(global.output, &services, "The control planes know no service.")?;
        }
        Command::Routes { cluster, service } => {
            let states = states(&context, cluster.as_deref()).await?;
            let all = states.into_iter().flat_map(|(name, state)| routes(&name, state));
            let named =
                |route: &Route| service.as_deref().is_none_or(|name| route.service.ends_with(&format!("/{name}")));
            let routes: Vec<Route> = all.filter(named).collect();
            output::rows(global.output, &routes, "No route is attached to a service.")?;
        }
        Command::Proxies { cluster } => {
            let states = states(&context, cluster.as_deref()).await?;
            let proxies: Vec<Proxy> = states.into_iter().flat_map(|(name, state)| proxies(&name, state)).collect();
            output::rows(global.output, &proxies, "No sidecar or gateway has connected.")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the control plane of one cluster knows, for `signet diagnostics`.
pub(super) async fn everything(context: &Context, cluster: &str) -> Result<serde_json::Value, Failure> {
    let mut all = serde_json::Map::new();
    for (name, state) in states(context, Some(cluster)).await? {
        let policy = state.policy.clone().unwrap_or_default();
        all.insert("policy_commit".to_owned(), json!(policy.commit));
        all.insert("refused".to_owned(), json!([policy.refused_commit, policy.refused_reason]));
        all.insert("manifest_errors".to_owned(), json!(state.manifest_errors));
        all.insert("services".to_owned(), json!(services(&name, state.clone())));
        all.insert("routes".to_owned(), json!(routes(&name, state.clone())));
        all.insert("proxies".to_owned(), json!(proxies(&name, state)));
    }
    Ok(all.into())
}

async fn states(context: &Context, only: Option<&str>) -> Result<Vec<(String, MeshState)>, Failure> {
    let mut states = Vec::new();
    for (name, cluster, operator) in Operator::of_each(context, only).await? {
        let state = operator
            .control()
            .mesh(MeshRequest {})
            .await
            .map_err(|status| failure("cannot ask the control plane", &cluster.control, &status))?
            .into_inner();
        for error in &state.manifest_errors {
            eprintln!("warning: {name}: {}", output::printable(error));
        }
        states.push((name.to_owned(), state));
    }
    Ok(states)
}

fn services(cluster: &str, state: MeshState) -> Vec<Service> {
    let service = |service: signet_api::control::ServiceStatus| Service {
        cluster: cluster.to_owned(),
        service: service.service,
        hosts: service.hosts,
        port: service.port,
        protocol: service.protocol,
        endpoints: service.endpoints,
        exported: service.exported,
        via: service.via,
    };
    state.services.into_iter().map(service).collect()
}

fn routes(cluster: &str, state: MeshState) -> Vec<Route> {
    let of_service = |service: signet_api::control::ServiceStatus| {
        let (name, port) = (service.service, service.port);
        service.routes.into_iter().map(move |route| Route {
            cluster: cluster.to_owned(),
            service: name.clone(),
            port,
            callers: route.namespace,
            r#match: route.r#match,
            action: route.action,
            rule: route.rule,
        })
    };
    state.services.into_iter().flat_map(of_service).collect()
}

fn proxies(cluster: &str, state: MeshState) -> Vec<Proxy> {
    let proxy = |proxy: signet_api::control::ProxyStatus| Proxy {
        cluster: cluster.to_owned(),
        spiffe_id: proxy.spiffe_id,
        kind: proxy.kind,
        connected: proxy.connected,
        acked_version: proxy.acked_version,
        policy_commit: proxy.policy_commit,
        bundle_digest: proxy.bundle_digest,
        last_error: proxy.last_error,
    };
    state.proxies.into_iter().map(proxy).collect()
}
