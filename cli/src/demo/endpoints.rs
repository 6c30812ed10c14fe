//! `DIR/endpoints.json`: where everything is, for people, scripts and the command line; whole, by rename.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::directory::write_private;
use super::files;
use super::plan::Plan;
use super::policy_repository::PolicyRepository;
use crate::context::{Cluster, Context, Workload};
use crate::failure::{Failure, ResultExt};

/// What does not change while the demo runs.
pub(crate) struct Endpoints {
    context: Context,
    path: PathBuf,
}

impl Endpoints {
    pub(crate) fn new(plan: &Plan, policy: &PolicyRepository, dsn: String, token: String) -> Result<Self, Failure> {
        let mut clusters = BTreeMap::new();
        for cluster in plan.clusters.values() {
            clusters.insert(
                cluster.name.to_owned(),
                Cluster {
                    trust_domain: cluster.trust_domain.clone(),
                    identity: cluster.identity.to_string(),
                    bundle_endpoint: format!("https://{}", cluster.bundle_endpoint),
                    gateway: cluster.gateway.to_string(),
                    control: cluster.control.to_string(),
                    audit: cluster.audit.to_string(),
                    tlog: format!("http://{}", cluster.tlog),
                    log_origin: format!("{}/signet-log", cluster.trust_domain),
                    log_key: verifier_key(&files::log_key(cluster))?,
                    witness_key: verifier_key(&files::witness_key(cluster))?,
                    agent_socket: cluster.agent_socket(),
                    admin: cluster
                        .admin
                        .iter()
                        .map(|(name, address)| ((*name).to_owned(), address.to_string()))
                        .collect(),
                },
            );
        }
        let workloads = plan.workloads.iter().map(|workload| {
            let socket =
                plan.clusters.get(workload.bank.cluster).map(|cluster| cluster.socket(&workload.socket_name()));
            (
                workload.key(),
                Workload {
                    spiffe_id: workload.spiffe_id(),
                    outbound: workload.outbound.to_string(),
                    inbound: workload.inbound.to_string(),
                    app: workload.app.to_string(),
                    admin: workload.admin.to_string(),
                    workload_api: format!("unix:{}", socket.unwrap_or_default().display()),
                    pid: 0,
                    netns: workload.space.as_ref().map(|space| space.name.clone()),
                },
            )
        });
        let context = Context {
            dashboard: format!("http://{}", plan.dashboard),
            dashboard_token: token,
            postgres: dsn,
            policy_repo: policy.path.clone(),
            policy_signing_key: policy.signing_key.clone(),
            clusters,
            workloads: workloads.collect(),
            pids: BTreeMap::new(),
        };
        Ok(Self { context, path: plan.dir.join("endpoints.json") })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Writes the file with the children's pids as they are now. Apps and the ledger's database are the bank's own affair:
    /// the file names the mesh's components only.
    pub(crate) fn write(&mut self, pids: &BTreeMap<String, u32>) -> Result<(), Failure> {
        self.context.pids.clear();
        for (name, pid) in pids {
            if let Some(key) = name.strip_prefix("proxy/") {
                if let Some(workload) = self.context.workloads.get_mut(key) {
                    workload.pid = *pid;
                }
            } else if !name.starts_with("app/") {
                self.context.pids.insert(name.clone(), *pid);
            }
        }
        let text = serde_json::to_string_pretty(&self.context)
            .failed("cannot write endpoints.json", "report this as a bug")?;
        write_private(&self.path, text.as_bytes())
    }
}

/// The verifier key of a log or witness lies beside its signing key.
fn verifier_key(log_key: &Path) -> Result<String, Failure> {
    let path = log_key.with_extension("key.pub");
    let key = std::fs::read_to_string(&path).map_err(|error| {
        Failure::failed(format!("the log's verifier key cannot be read: {error}"))
            .at(path.display())
            .next("see the audit service's log")
    })?;
    Ok(key.trim().to_owned())
}
