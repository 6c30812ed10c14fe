//! Where a mesh is: the file that `--context` or `SIGNET_CONTEXT` names. `endpoints.json` of the demo is one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) dashboard: String,
    pub(crate) dashboard_token: String,
    pub(crate) postgres: String,
    pub(crate) policy_repo: PathBuf,
    pub(crate) policy_signing_key: PathBuf,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    pub(crate) workloads: BTreeMap<String, Workload>,
    pub(crate) pids: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) trust_domain: String,
    pub(crate) identity: String,
    pub(crate) bundle_endpoint: String,
    pub(crate) gateway: String,
    pub(crate) control: String,
    pub(crate) audit: String,
    pub(crate) tlog: String,
    pub(crate) log_origin: String,
    pub(crate) log_key: String,
    /// Verifier key with which this cluster cosigns other logs.
    #[serde(default)]
    pub(crate) witness_key: String,
    pub(crate) agent_socket: PathBuf,
    /// Admin listeners of the cluster's components, by name ("identity", "agent", "control", "audit", "gateway").
    #[serde(default)]
    pub(crate) admin: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) spiffe_id: String,
    pub(crate) outbound: String,
    pub(crate) inbound: String,
    pub(crate) app: String,
    pub(crate) admin: String,
    pub(crate) workload_api: String,
    pub(crate) pid: u32,
    /// The network namespace that it lives in, where it has one of its own: `ip netns exec NAME curl ..` calls from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<String>,
}

impl Context {
    /// Reads the context that the arguments or the environment name.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Err(Failure::usage("no mesh is named").next(
                "give --context FILE or set SIGNET_CONTEXT; `signet demo` writes such a file, DIR/endpoints.json",
            ));
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot read the context: {error}"))
                .at(path.display())
                .next("check the path; a running `signet demo` prints it")
        })?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::failed(format!("the context is not what `signet demo` writes: {error}"))
                .at(format!("{}:{}:{}", path.display(), error.line(), error.column()))
                .next("restore the file, or start the demo again")
        })
    }

    /// The SPIFFE ID of a workload that was named as in the context ("east/bank/web"); any other text as it is.
    pub(crate) fn spiffe_id(&self, name: String) -> String {
        self.workloads.get(&name).map_or(name, |workload| workload.spiffe_id.clone())
    }

    /// A service's id, where the cluster's name may stand for its trust domain.
    pub(crate) fn service_id(&self, name: String) -> String {
        match name.split_once('/') {
            Some((cluster, rest)) => match self.clusters.get(cluster) {
                Some(cluster) => format!("{}/{rest}", cluster.trust_domain),
                None => name,
            },
            None => name,
        }
    }

    /// The named cluster, or the only one.
    pub(crate) fn cluster(&self, name: Option<&str>) -> Result<(&str, &Cluster), Failure> {
        let names = || self.clusters.keys().cloned().collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => {
                self.clusters.get_key_value(name).map(|(name, cluster)| (name.as_str(), cluster)).ok_or_else(|| {
                    Failure::usage(format!("there is no cluster `{name}`")).next(format!("use one of: {}", names()))
                })
            }
            None => {
                let mut clusters = self.clusters.iter();
                match (clusters.next(), clusters.next()) {
                    (Some((name, cluster)), None) => Ok((name, cluster)),
                    _ => Err(Failure::usage("the context has several clusters")
                        .next(format!("name one with --cluster: {}", names()))),
                }
            }
        }
    }
}
