//! The configuration files of the demo's components, their registration entries and the manifests of both clusters.

use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;
use serde_json::{Value, json};
use signet_audit::note::{CosignerKey, LogKey};

use super::directory::{make, write_private};
use super::netns::{self, Network};
use super::plan::{ClusterPlan, NAMESPACE, Plan, WorkloadPlan};
use super::policy_repository::PolicyRepository;
use crate::failure::{Failure, ResultExt};

/// `deploy/demo/manifests`: what Kubernetes would hold, one folder for each cluster.
#[derive(RustEmbed)]
#[folder = "../deploy/demo/manifests"]
struct Manifests;

/// SVIDs' lifetime in the demo, seconds: short enough that a visitor sees them rotate.
pub(crate) const SVID_TTL: u32 = 600;
/// Sidecars and gateways finish what is under way within this, seconds.
const DRAIN: u32 = 2;

/// How the demo was asked to differ from its defaults.
#[derive(Clone, Copy)]
pub(crate) struct Tuning {
    pub(crate) svid_ttl: u32,
}

/// Writes everything that components read at their start.
pub(crate) fn write_all(
    plan: &Plan,
    network: Option<&Network>,
    policy: &PolicyRepository,
    dsn: &str,
    tuning: Tuning,
) -> Result<(), Failure> {
    for cluster in plan.clusters.values() {
        let workloads: Vec<&WorkloadPlan> =
            plan.workloads.iter().filter(|workload| workload.bank.cluster == cluster.name).collect();
        write_manifests(cluster, &workloads)?;
        if let Some(network) = network {
            write_imports(cluster, plan, network)?;
        }
        make(&cluster.run.join("w"))?;
        config(cluster, "entries", &entries(cluster, &workloads))?;
        config(cluster, "identity", &identity(cluster, tuning))?;
        config(cluster, "agent", &agent(cluster))?;
        config(cluster, "audit", &audit(cluster, plan, dsn)?)?;
        config(cluster, "control", &control(cluster, policy))?;
        config(cluster, "gateway", &gateway(cluster))?;
        for workload in workloads {
            let component = format!("proxy-{}", workload.bank.name);
            config(cluster, &component, &proxy(cluster, workload))?;
            if workload.space.is_some() {
                let uid = Some(netns::SIDECAR_UID);
                std::os::unix::fs::chown(cluster.component_dir(&component), uid, uid)
                    .failed("cannot hand a sidecar's directory over", "check the rights there")?;
            }
        }
    }
    write_json(&plan.dir.join("ui.yaml"), &dashboard(plan, dsn))
}

/// A component's configuration file.
pub(crate) fn config_path(cluster: &ClusterPlan, component: &str) -> PathBuf {
    cluster.dir.join(format!("{component}.yaml"))
}

fn config(cluster: &ClusterPlan, component: &str, value: &Value) -> Result<(), Failure> {
    make(&cluster.component_dir(component))?;
    write_json(&config_path(cluster, component), value)
}

/// JSON is YAML; the components read both.
fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).failed("cannot write a configuration", "report this as a bug")?;
    write_private(path, text.as_bytes())
}

fn socket(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn spool(cluster: &ClusterPlan, component: &str) -> Value {
    json!({ "dir": cluster.component_dir(component).join("spool"), "durability": "disk", "on_full": "deny", "max_bytes": 268_435_456 })
}

fn entries(cluster: &ClusterPlan, workloads: &[&WorkloadPlan]) -> Value {
    let trust_domain = &cluster.trust_domain;
    let entry = |id: String, spiffe_id: String, selector: String, hint: &str| json!({ "id": id, "spiffe_id": spiffe_id, "selectors": [selector], "hint": hint });
    let mut entries: Vec<Value> = ["gateway", "control", "audit", "ui"]
        .into_iter()
        .map(|name| {
            entry(
                name.to_owned(),
                format!("spiffe://{trust_domain}/signet/{name}"),
                format!("unix:socket:{name}"),
                "component",
            )
        })
        .collect();
    // Whoever runs the demo operates it.
    let uid = rustix::process::geteuid().as_raw();
    entries.push(entry(
        "operator".to_owned(),
        format!("spiffe://{trust_domain}/signet/operator"),
        format!("unix:uid:{uid}"),
        "operator",
    ));
    for workload in workloads {
        let name = workload.bank.name;
        let proxy = format!("spiffe://{trust_domain}/ns/{NAMESPACE}/proxy/{name}");
        let (own, sidecar) = (workload.socket_name(), workload.proxy_socket_name());
        entries.push(entry(own.clone(), workload.spiffe_id(), format!("unix:socket:{own}"), "workload"));
        let mut selectors = vec![format!("unix:socket:{sidecar}")];
        if workload.space.is_some() {
            selectors.push(format!("unix:uid:{}", netns::SIDECAR_UID));
        }
        for (id, spiffe_id, hint) in
            [(format!("{sidecar}-workload"), workload.spiffe_id(), "workload"), (sidecar, proxy, "proxy")]
        {
            entries.push(json!({ "id": id, "spiffe_id": spiffe_id, "selectors": selectors, "hint": hint }));
        }
    }
    json!({ "entries": entries })
}

fn identity(cluster: &ClusterPlan, tuning: Tuning) -> Value {
    json!({
        "trust_domain": cluster.trust_domain,
        "data_dir": cluster.component_dir("identity"),
        "listen": cluster.identity,
        "bundle_endpoint": { "listen": cluster.bundle_endpoint },
        "admin": cluster.admin.get("identity"),
        "operator_socket": cluster.operator_socket(),
        "entries": config_path(cluster, "entries"),
        "svid_ttl_seconds": tuning.svid_ttl,
        "federation": {
            "advertise_bundle_endpoint": format!("https://{}", cluster.bundle_endpoint),
            "advertise_gateway": cluster.gateway,
            "advertise_control": cluster.control,
        },
        "audit": cluster.audit,
        "spool": spool(cluster, "identity"),
    })
}

fn agent(cluster: &ClusterPlan) -> Value {
    json!({
        "trust_domain": cluster.trust_domain,
        "server": cluster.identity,
        "bootstrap_bundle": cluster.component_dir("identity").join("bundle.pem"),
        "join_token_file": join_token(cluster),
        "data_dir": cluster.component_dir("agent"),
        "socket": cluster.agent_socket(),
        "workload_socket_dir": cluster.run.join("w"),
        "admin": cluster.admin.get("agent"),
    })
}

pub(crate) fn join_token(cluster: &ClusterPlan) -> PathBuf {
    cluster.dir.join("join-token")
}

/// The clusters cosign each other's logs: the keys for that are made before any service starts.
fn audit(cluster: &ClusterPlan, plan: &Plan, dsn: &str) -> Result<Value, Failure> {
    let (mut logs, mut witnesses) = (Vec::new(), Vec::new());
    for other in plan.clusters.values().filter(|other| other.name != cluster.name) {
        make(&other.component_dir("audit"))?;
        let next = "check the rights in the demo's directory";
        let log = LogKey::load_or_create(&log_key(other), &signet_audit::config::origin(&other.trust_domain))
            .failed("cannot make the key of a log", next)?;
        let name = signet_audit::config::witness_name(&other.trust_domain);
        let cosigner =
            CosignerKey::load_or_create(&witness_key(other), &name).failed("cannot make the key of a witness", next)?;
        logs.push(log.verifier_key());
        witnesses.push(json!({ "url": format!("http://{}", other.tlog), "key": cosigner.verifier_key() }));
    }
    Ok(json!({
        "trust_domain": cluster.trust_domain,
        "workload_api": socket(&cluster.socket("audit")),
        "listen": cluster.audit,
        "tlog": { "listen": cluster.tlog },
        "admin": cluster.admin.get("audit"),
        "database_url": dsn,
        "log_key_file": log_key(cluster),
        "state_dir": cluster.component_dir("audit"),
        "witness": { "key_file": witness_key(cluster), "logs": logs },
        "witnesses": witnesses,
    }))
}

/// The key with which a cluster's audit service cosigns other logs.
pub(crate) fn witness_key(cluster: &ClusterPlan) -> PathBuf {
    cluster.component_dir("audit").join("witness.key")
}

/// The log's signing key; its verifier key lies beside it.
pub(crate) fn log_key(cluster: &ClusterPlan) -> PathBuf {
    cluster.component_dir("audit").join("log.key")
}

fn control(cluster: &ClusterPlan, policy: &PolicyRepository) -> Value {
    let dir = cluster.component_dir("control");
    json!({
        "trust_domain": cluster.trust_domain,
        "workload_api": socket(&cluster.socket("control")),
        "listen": cluster.control,
        "identity": cluster.identity,
        "audit": cluster.audit,
        "manifests": manifests(cluster),
        "policy": {
            "repository": policy.path,
            "branch": "main",
            "trusted_signers": policy.trusted_signers,
            "state": dir.join("policy.state"),
            // One person runs the demo.
            "break_glass": { "trusted_signers": policy.trusted_signers, "signatures": 1 },
        },
        "admin": cluster.admin.get("control"),
        "state_dir": dir,
        "spool": spool(cluster, "control"),
    })
}

fn gateway(cluster: &ClusterPlan) -> Value {
    json!({
        "workload_api": socket(&cluster.socket("gateway")),
        "control": cluster.control,
        "audit": cluster.audit,
        "admin": cluster.admin.get("gateway"),
        "listen": cluster.gateway,
        "state_dir": cluster.component_dir("gateway"),
        "spool": spool(cluster, "gateway"),
        "drain_seconds": DRAIN,
    })
}

fn proxy(cluster: &ClusterPlan, workload: &WorkloadPlan) -> Value {
    let component = format!("proxy-{}", workload.bank.name);
    let mut config = json!({
        "workload_api": socket(&cluster.socket(&workload.proxy_socket_name())),
        "control": cluster.control,
        "audit": cluster.audit,
        "admin": workload.admin,
        "outbound": workload.outbound,
        "state_dir": cluster.component_dir(&component),
        "spool": spool(cluster, &component),
        "drain_seconds": DRAIN,
        "workers": 1,
    });
    let (key, value) = match workload.space {
        Some(_) => ("transparent", json!({})),
        None => ("inbound", json!([{ "listen": workload.inbound, "app": workload.app }])),
    };
    if let Some(config) = config.as_object_mut() {
        config.insert(key.to_owned(), value);
    }
    config
}

fn dashboard(plan: &Plan, dsn: &str) -> Value {
    let clusters: Vec<Value> = plan
        .clusters
        .values()
        .map(|cluster| {
            json!({
                "name": cluster.name,
                "trust_domain": cluster.trust_domain,
                "workload_api": socket(&cluster.socket("ui")),
                "identity": cluster.identity,
                "control": cluster.control,
                "audit": cluster.audit,
            })
        })
        .collect();
    json!({
        "listen": plan.dashboard,
        "admin": plan.dashboard_admin,
        "database_url": dsn,
        "token_file": token_file(plan),
        "clusters": clusters,
    })
}

pub(crate) fn token_file(plan: &Plan) -> PathBuf {
    plan.dir.join("dashboard-token")
}

/// The folder of manifests that a cluster's control plane watches.
pub(crate) fn manifests(cluster: &ClusterPlan) -> PathBuf {
    cluster.dir.join("manifests")
}

/// The cluster's own manifests as they are, and an EndpointSlice for each workload, which on one machine differ by port.
fn write_manifests(cluster: &ClusterPlan, workloads: &[&WorkloadPlan]) -> Result<(), Failure> {
    let target = manifests(cluster);
    make(&target)?;
    let prefix = format!("{}/", cluster.name);
    for name in Manifests::iter() {
        let (Some(own), Some(file)) = (name.strip_prefix(&prefix), Manifests::get(&name)) else { continue };
        let text = with_cluster_ips(&String::from_utf8_lossy(&file.data), workloads);
        std::fs::write(target.join(own), text).failed("cannot write a manifest", "check the space and rights there")?;
    }
    let slices: Vec<String> = workloads.iter().map(|workload| endpoint_slice(workload)).collect();
    std::fs::write(target.join("endpoints.yaml"), slices.join("---\n"))
        .failed("cannot write a manifest", "check the space and rights there")
}

/// In Kubernetes the API server gives each Service its address.
fn with_cluster_ips(text: &str, workloads: &[&WorkloadPlan]) -> String {
    let documents = text.split("---\n").map(|document| {
        let own = workloads.iter().find(|workload| {
            document.contains("kind: Service\n") && document.contains(&format!("\n  name: {}\n", workload.bank.name))
        });
        match own.and_then(|workload| workload.cluster_ip) {
            Some(ip) => document.replacen("\nspec:\n", &format!("\nspec:\n  clusterIP: {ip}\n"), 1),
            None => document.to_owned(),
        }
    });
    documents.collect::<Vec<_>>().join("---\n")
}

/// What stands here for services of the other cluster. One that it does not export has an address all the same, that no
/// service has: whoever calls it shall be told by their sidecar, not by the name's absence.
fn write_imports(cluster: &ClusterPlan, plan: &Plan, network: &Network) -> Result<(), Failure> {
    let exported = |workload: &WorkloadPlan| matches!(workload.bank.name, "ledger" | "fraud");
    let others = (0..).zip(&plan.workloads).filter(|(_, other)| other.bank.cluster != cluster.name && exported(other));
    let imports = others.map(|(number, other)| {
        format!(
            "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceImport\nmetadata:\n  name: {}\n  namespace: \
             {NAMESPACE}\nspec:\n  type: ClusterSetIP\n  ips: [\"{}\"]\n  ports:\n    - name: {}\n      port: {}\n",
            other.bank.name,
            network.service(cluster.name, number),
            other.bank.port_name,
            other.bank.port,
        )
    });
    std::fs::write(manifests(cluster).join("imports.yaml"), imports.collect::<Vec<_>>().join("---\n"))
        .failed("cannot write a manifest", "check the space and rights there")
}

fn endpoint_slice(workload: &WorkloadPlan) -> String {
    let (name, port) = (workload.bank.name, workload.bank.port_name);
    let inbound = workload.inbound;
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: {NAMESPACE}\n  \
         labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n  - name: {port}\n    port: {}\n\
         endpoints:\n  - addresses: [\"{}\"]\n    conditions:\n      ready: true\n",
        inbound.port(),
        inbound.ip()
    )
}
