//! What must hold in a running mesh.

use std::net::SocketAddr;

use http::StatusCode;
use signet_api::control::MeshRequest;
use signet_api::identity::ListFederationRequest;
use signet_audit::query;

use super::Check;
use crate::context::{Cluster, Context};
use crate::demo;
use crate::failure::Failure;
use crate::rpc::Operator;

/// A checkpoint follows growth within a second; one this far behind means that signing has stopped.
const CHECKPOINT_LATE_US: i64 = 10_000_000;

pub(super) async fn checks(context: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, cluster) in &context.clusters {
        for (component, address) in &cluster.admin {
            checks.push(ready("components", &format!("{name}/{component}"), address).await);
        }
    }
    for (name, workload) in &context.workloads {
        checks.push(ready("sidecars", name, &workload.admin).await);
    }
    checks.extend(explicit_listeners(context));
    for (name, cluster) in &context.clusters {
        match control(name, cluster).await {
            Ok(found) => checks.extend(found),
            Err(failure) => checks.push(unreachable("policy", format!("{name}: control plane"), &failure)),
        }
        match federation(name, cluster).await {
            Ok(found) => checks.extend(found),
            Err(failure) => checks.push(unreachable("federation", format!("{name}: identity server"), &failure)),
        }
    }
    checks.extend(audit(context).await);
    checks
}

fn unreachable(section: &'static str, check: String, failure: &Failure) -> Check {
    Check::failed(section, check, failure.to_string(), "see the component's log")
}

async fn ready(section: &'static str, name: &str, address: &str) -> Check {
    let Ok(address) = address.parse::<SocketAddr>() else {
        return Check::failed(section, name, format!("`{address}` is no address"), "restore the context file");
    };
    match demo::probe(address, "/readyz").await {
        Ok((StatusCode::OK, _)) => Check::ok(section, name, "ready"),
        Ok((_, body)) => {
            let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
            Check::failed(section, name, body, format!("see its log, and http://{address}/readyz"))
        }
        Err(error) => Check::failed(section, name, format!("{error:#}"), "see its log; is it running?"),
    }
}

/// An explicit listener has no way to tell who on this machine calls.
fn explicit_listeners(context: &Context) -> Option<Check> {
    if context.workloads.is_empty() {
        return None;
    }
    Some(Check::warning(
        "sidecars",
        "explicit outbound listeners",
        "any process on this machine can call with a workload's identity through its outbound listener",
        "fine for trying Signet; on a shared machine redirect each workload's traffic instead",
    ))
}

async fn control(name: &str, cluster: &Cluster) -> Result<Vec<Check>, Failure> {
    let state = Operator::connect(cluster)
        .await?
        .control()
        .mesh(MeshRequest {})
        .await
        .map_err(|status| crate::rpc::failure("cannot ask the control plane", &cluster.control, &status))?
        .into_inner();
    let mut checks = Vec::new();
    let policy = state.policy.unwrap_or_default();
    checks.push(if policy.commit.is_empty() {
        Check::failed(
            "policy",
            format!("{name}: active commit"),
            "there is none, so every call is denied",
            "commit a signed policy",
        )
    } else {
        Check::ok("policy", format!("{name}: active commit"), format!("{} by {}", policy.commit, policy.signer))
    });
    if !policy.refused_commit.is_empty() {
        checks.push(Check::warning(
            "policy",
            format!("{name}: newest commit"),
            format!("{} was refused: {}", policy.refused_commit, policy.refused_reason),
            "mend the commit and sign it; until then the active one stays",
        ));
    }
    let behind: Vec<&str> = state
        .proxies
        .iter()
        .filter(|proxy| proxy.connected && proxy.bundle_digest != policy.digest)
        .map(|proxy| proxy.spiffe_id.as_str())
        .collect();
    checks.push(if behind.is_empty() {
        Check::ok("policy", format!("{name}: enforced everywhere"), format!("{} proxies", state.proxies.len()))
    } else {
        Check::failed(
            "policy",
            format!("{name}: enforced everywhere"),
            behind.join(", "),
            "see the logs of these proxies",
        )
    });
    for error in state.manifest_errors {
        checks.push(Check::failed(
            "policy",
            format!("{name}: manifests"),
            error,
            "mend the manifest; until then its last good form stays",
        ));
    }
    for link in state.links {
        let check = format!("{name}: link to {}", link.trust_domain);
        checks.push(if link.connected {
            Check::ok("federation", check, format!("{} services", link.services))
        } else {
            Check::failed("federation", check, link.error, "check the other cluster's control plane and the way to it")
        });
    }
    Ok(checks)
}

async fn federation(name: &str, cluster: &Cluster) -> Result<Vec<Check>, Failure> {
    let state = Operator::connect(cluster)
        .await?
        .identity()
        .list_federation(ListFederationRequest {})
        .await
        .map_err(|status| crate::rpc::failure("cannot ask the identity server", &cluster.identity, &status))?
        .into_inner();
    let check = |relationship: signet_api::identity::Relationship| {
        let check = format!("{name}: trust bundle of {}", relationship.trust_domain);
        if relationship.last_error.is_empty() {
            Check::ok(
                "federation",
                check,
                format!("{} authorities, sequence {}", relationship.authorities, relationship.bundle_sequence),
            )
        } else {
            Check::failed(
                "federation",
                check,
                relationship.last_error,
                "check the other cluster's bundle endpoint and the way to it",
            )
        }
    };
    Ok(state.relationships.into_iter().map(check).collect())
}

async fn audit(context: &Context) -> Vec<Check> {
    let logs = match query::connect(&context.postgres) {
        Ok(pool) => query::logs(&pool).await,
        Err(error) => Err(error),
    };
    let logs = match logs {
        Ok(logs) => logs,
        Err(error) => {
            return vec![Check::failed(
                "audit",
                "audit store",
                signet_observe::error_chain(&error),
                "check that PostgreSQL runs",
            )];
        }
    };
    let mut checks = vec![Check::ok("audit", "audit store", format!("{} logs", logs.len()))];
    let now = jiff::Timestamp::now().as_microsecond();
    for log in logs {
        let behind = log.size - log.checkpoint_size.unwrap_or_default();
        let age = now - log.checkpoint_us.unwrap_or_default();
        checks.push(if behind > 0 && age > CHECKPOINT_LATE_US {
            Check::failed(
                "audit",
                format!("{}: checkpoint", log.origin),
                format!("{behind} records behind"),
                "see the audit service's log",
            )
        } else {
            Check::ok(
                "audit",
                format!("{}: checkpoint", log.origin),
                format!("covers {} of {} records", log.checkpoint_size.unwrap_or_default(), log.size),
            )
        });
        checks.push(if log.missing == 0 {
            Check::ok("audit", format!("{}: complete", log.origin), "no producer skipped a record")
        } else {
            Check::failed(
                "audit",
                format!("{}: complete", log.origin),
                format!("{} records are missing", log.missing),
                "see `events` in the audit store for the gap",
            )
        });
    }
    checks
}
