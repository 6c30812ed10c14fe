//! `signet policy status`: which commit is in force in each cluster, and which sidecar enforces what.

use std::process::ExitCode;

use serde::Serialize;
use signet_api::control::{MeshRequest, MeshState, ProxyStatus};

use super::break_glass::Grant;
use crate::arguments::Global;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, Row, printable};
use crate::rpc::{Operator, failure};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Of this cluster only.
    #[arg(long)]
    cluster: Option<String>,
}

/// One cluster's policy and who enforces it.
#[derive(Serialize)]
struct Cluster {
    cluster: String,
    /// The commit in force; empty before the first was accepted.
    commit: String,
    bundle_digest: String,
    signer: String,
    /// RFC 3339.
    activated_at: String,
    /// The branch's head, where it was refused.
    refused_commit: String,
    refused_reason: String,
    /// Grants for an emergency that are in force.
    break_glass: Vec<Grant>,
    proxies: Vec<Proxy>,
}

#[derive(Serialize)]
struct Proxy {
    cluster: String,
    spiffe_id: String,
    kind: String,
    state: State,
    /// The commit that it enforces.
    policy_commit: String,
    bundle_digest: String,
    /// Of the part of the bundle that it holds; empty: the whole.
    slice_digest: String,
    /// Why it refused what it was sent last.
    error: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Enforces the commit in force.
    Current,
    /// Enforces another, or none yet.
    Behind,
    /// Refused what it was sent, and keeps what it had.
    Refuses,
    /// Not connected: it keeps what it had, and what that is was known when it left.
    Away,
}

impl Row for Proxy {
    const COLUMNS: &'static [&'static str] = &["cluster", "spiffe id", "kind", "enforces", "state"];

    fn cells(&self) -> Vec<String> {
        let state = match self.state {
            State::Current => "current".to_owned(),
            State::Behind => "behind".to_owned(),
            State::Refuses => format!("refuses: {}", self.error),
            State::Away => "not connected".to_owned(),
        };
        vec![self.cluster.clone(), self.spiffe_id.clone(), self.kind.clone(), short(&self.policy_commit), state]
    }
}

/// Exits 0 when every connected proxy enforces its cluster's commit, else 1. A head that was refused is shown and fails
/// nothing: what is in force is what was accepted.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode, Failure> {
    let context = Context::load(global.context.as_deref())?;
    let mut clusters = Vec::new();
    for (name, cluster, operator) in Operator::of_each(&context, arguments.cluster.as_deref()).await? {
        let asked = operator.control().mesh(MeshRequest {}).await;
        let state = asked.map_err(|status| failure("cannot ask the control plane", &cluster.control, &status))?;
        clusters.push(summary(name, state.into_inner()));
    }
    let enforced = clusters.iter().all(Cluster::is_enforced);
    match global.output {
        Format::Table => {
            for cluster in &clusters {
                output::line(&cluster.text())?;
            }
            let proxies: Vec<Proxy> = clusters.into_iter().flat_map(|cluster| cluster.proxies).collect();
            output::rows(Format::Table, &proxies, "No sidecar or gateway has connected.")?;
        }
        Format::Jsonl => clusters.iter().try_for_each(|cluster| output::value(Format::Jsonl, cluster))?,
        format => output::value(format, &clusters)?,
    }
    Ok(if enforced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(name: &str, mesh: MeshState) -> Cluster {
    let policy = mesh.policy.unwrap_or_default();
    let state = |proxy: &ProxyStatus| match proxy {
        ProxyStatus { connected: false, .. } => State::Away,
        ProxyStatus { last_error, .. } if !last_error.is_empty() => State::Refuses,
        // Equal files of another commit are one bundle, but records name the commit.
        ProxyStatus { policy_commit, bundle_digest, .. }
            if !policy_commit.is_empty() && *policy_commit == policy.commit && *bundle_digest == policy.digest =>
        {
            State::Current
        }
        _ => State::Behind,
    };
    let break_glass = mesh.break_glass.into_iter().map(|status| Grant::of(name, status)).collect();
    let proxies = mesh.proxies.into_iter().map(|proxy| Proxy {
        cluster: name.to_owned(),
        state: state(&proxy),
        spiffe_id: proxy.spiffe_id,
        kind: proxy.kind,
        policy_commit: proxy.policy_commit,
        bundle_digest: proxy.bundle_digest,
        slice_digest: proxy.slice_digest,
        error: proxy.last_error,
    });
    Cluster {
        cluster: name.to_owned(),
        proxies: proxies.collect(),
        break_glass,
        commit: policy.commit,
        bundle_digest: policy.digest,
        signer: policy.signer,
        activated_at: output::time(policy.activated_at),
        refused_commit: policy.refused_commit,
        refused_reason: policy.refused_reason,
    }
}

impl Cluster {
    fn is_enforced(&self) -> bool {
        !self.commit.is_empty() && self.proxies.iter().all(|proxy| matches!(proxy.state, State::Current | State::Away))
    }

    fn text(&self) -> String {
        let name = &self.cluster;
        let mut text = match self.commit.as_str() {
            "" => format!("{name}: no policy is in force, so everything is denied"),
            commit => {
                let (signer, since) = (printable(&self.signer), &self.activated_at);
                format!("{name}: {commit}, signed by {signer}, in force since {since}")
            }
        };
        if !self.refused_commit.is_empty() {
            let (refused, reason) = (short(&self.refused_commit), printable(&self.refused_reason));
            text.push_str(&format!("\n{name}: the head {refused} was refused: {reason}"));
        }
        for grant in &self.break_glass {
            text.push_str(&format!("\n{name}: {}", grant.line()));
        }
        text
    }
}

fn short(commit: &str) -> String {
    commit.get(..12).unwrap_or(commit).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use signet_api::control::PolicyStatus;

    use super::*;

    fn mesh(proxy: ProxyStatus) -> Cluster {
        let policy = PolicyStatus { commit: "c2".into(), digest: "d2".into(), ..PolicyStatus::default() };
        summary("east", MeshState { policy: Some(policy), proxies: vec![proxy], ..MeshState::default() })
    }

    #[test]
    fn a_proxy_is_current_only_with_commit_and_digest_and_without_an_error() {
        let proxy = |commit: &str, digest: &str, error: &str, connected| ProxyStatus {
            policy_commit: commit.into(),
            bundle_digest: digest.into(),
            last_error: error.into(),
            connected,
            ..ProxyStatus::default()
        };
        for (proxy, state, enforced) in [
            (proxy("c2", "d2", "", true), State::Current, true),
            (proxy("c1", "d2", "", true), State::Behind, false),
            (proxy("c2", "d1", "", true), State::Behind, false),
            (proxy("", "", "", true), State::Behind, false),
            (proxy("c2", "d2", "does not compile", true), State::Refuses, false),
            (proxy("c1", "d1", "", false), State::Away, true),
        ] {
            let cluster = mesh(proxy.clone());
            let states: Vec<State> = cluster.proxies.iter().map(|proxy| proxy.state).collect();
            assert_eq!((states.as_slice(), cluster.is_enforced()), ([state].as_slice(), enforced), "{proxy:?}");
        }
    }

    #[test]
    fn without_a_policy_nothing_counts_as_enforced() {
        let proxy = ProxyStatus { connected: true, ..ProxyStatus::default() };
        let cluster = summary("east", MeshState { proxies: vec![proxy], ..MeshState::default() });
        assert!(!cluster.is_enforced());
        assert!(cluster.text().contains("no policy is in force"));
    }
}
