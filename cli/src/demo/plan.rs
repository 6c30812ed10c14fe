//! What the demo consists of: two clusters, the bank's workloads in them, and an address for each listener. Pure but for
//! asking which ports are free.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::netns::{Network, Space, in_cluster};
use super::ports::Ports;
use crate::failure::Failure;

pub(crate) const NAMESPACE: &str = "bank";
/// Listeners of the demo in all, with room for a few more.
const PORTS: u16 = 64;

/// A workload of the bank and the Service it serves.
#[derive(Clone, Copy)]
pub(crate) struct Bank {
    pub(crate) cluster: &'static str,
    pub(crate) name: &'static str,
    /// The subcommand of `signet-bank`; none for the ledger's database, which is a PostgreSQL.
    pub(crate) app: Option<&'static str>,
    /// The Service port's name, which the EndpointSlice repeats.
    pub(crate) port_name: &'static str,
    /// The Service's port, where the app listens too when it has an address to itself.
    pub(crate) port: u16,
}

pub(crate) const BANK: [Bank; 6] = [
    Bank { cluster: "east", name: "web", app: Some("web"), port_name: "http", port: 80 },
    Bank { cluster: "east", name: "ledger", app: Some("ledger"), port_name: "http", port: 80 },
    Bank { cluster: "east", name: "payments", app: Some("payments"), port_name: "grpc", port: 50051 },
    Bank { cluster: "east", name: "ledger-db", app: None, port_name: "postgresql", port: 5432 },
    Bank { cluster: "west", name: "fraud", app: Some("fraud"), port_name: "http", port: 80 },
    Bank { cluster: "west", name: "reporting", app: Some("reporting"), port_name: "http", port: 80 },
];

pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) clusters: BTreeMap<&'static str, ClusterPlan>,
    pub(crate) workloads: Vec<WorkloadPlan>,
    pub(crate) postgres: SocketAddr,
    pub(crate) dashboard: SocketAddr,
    pub(crate) dashboard_admin: SocketAddr,
}

pub(crate) struct ClusterPlan {
    pub(crate) name: &'static str,
    pub(crate) trust_domain: String,
    pub(crate) identity: SocketAddr,
    pub(crate) bundle_endpoint: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) audit: SocketAddr,
    pub(crate) tlog: SocketAddr,
    pub(crate) gateway: SocketAddr,
    /// Admin listeners, by component.
    pub(crate) admin: BTreeMap<&'static str, SocketAddr>,
    pub(crate) dir: PathBuf,
    /// Where Unix sockets lie; apart from `dir` when that path is too long for one.
    pub(crate) run: PathBuf,
}

pub(crate) struct WorkloadPlan {
    pub(crate) bank: Bank,
    pub(crate) trust_domain: String,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) app: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// With `--netns`; `outbound`, `app` and `admin` are then relayed into it.
    pub(crate) space: Option<Space>,
    /// With `--netns`: what stands for its Service in its own cluster.
    pub(crate) cluster_ip: Option<Ipv4Addr>,
}

pub(crate) const COMPONENTS: [&str; 5] = ["identity", "agent", "control", "audit", "gateway"];

impl Plan {
    pub(crate) fn new(dir: &Path, run: &Path, network: Option<&Network>) -> Result<Self, Failure> {
        let mut ports = Ports::find(PORTS)?;
        // What workloads reach listens where their namespaces find it.
        let reached = |cluster: &str, address: SocketAddr| match network {
            Some(network) => SocketAddr::from((network.components(cluster), address.port())),
            None => address,
        };
        let mut clusters = BTreeMap::new();
        for name in ["east", "west"] {
            let mut admin = BTreeMap::new();
            for component in COMPONENTS {
                admin.insert(component, ports.take()?);
            }
            clusters.insert(
                name,
                ClusterPlan {
                    name,
                    trust_domain: format!("{name}.bank.example"),
                    identity: ports.take()?,
                    bundle_endpoint: ports.take()?,
                    control: reached(name, ports.take()?),
                    audit: reached(name, ports.take()?),
                    tlog: ports.take()?,
                    gateway: reached(name, ports.take()?),
                    admin,
                    dir: dir.join(name),
                    run: run.join(name),
                },
            );
        }
        let mut workloads = Vec::new();
        for (number, bank) in (0..).zip(BANK) {
            let space = network.map(|network| network.space(bank.cluster, bank.name, number));
            let inbound = ports.take()?;
            workloads.push(WorkloadPlan {
                bank,
                trust_domain: format!("{}.bank.example", bank.cluster),
                outbound: ports.take()?,
                inbound: space.as_ref().map_or(inbound, |space| in_cluster(space, bank.port)),
                app: ports.take()?,
                admin: ports.take()?,
                space,
                cluster_ip: network.map(|network| network.service(bank.cluster, number)),
            });
        }
        Ok(Self {
            dir: dir.to_owned(),
            clusters,
            workloads,
            postgres: ports.take()?,
            dashboard: ports.take()?,
            dashboard_admin: ports.take()?,
        })
    }
}

impl ClusterPlan {
    /// The agent's socket for everyone on the machine, where operators get their identity.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// The agent's socket for one component or workload.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.run.join("w").join(format!("{name}.sock"))
    }

    pub(crate) fn operator_socket(&self) -> PathBuf {
        self.run.join("operator.sock")
    }

    pub(crate) fn component_dir(&self, component: &str) -> PathBuf {
        self.dir.join(component)
    }
}

impl WorkloadPlan {
    /// Where the app itself listens.
    pub(crate) fn app_listens(&self) -> SocketAddr {
        match self.space {
            Some(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.bank.port)),
            None => self.app,
        }
    }

    /// The key in `endpoints.json`: "<cluster>/<namespace>/<name>".
    pub(crate) fn key(&self) -> String {
        format!("{}/{NAMESPACE}/{}", self.bank.cluster, self.bank.name)
    }

    pub(crate) fn spiffe_id(&self) -> String {
        format!("spiffe://{}/ns/{NAMESPACE}/sa/{}", self.trust_domain, self.bank.name)
    }

    /// The socket that gives the workload's own identity.
    pub(crate) fn socket_name(&self) -> String {
        format!("{NAMESPACE}-{}", self.bank.name)
    }

    /// The socket that gives its sidecar the workload's identity and the sidecar's own.
    pub(crate) fn proxy_socket_name(&self) -> String {
        format!("proxy-{NAMESPACE}-{}", self.bank.name)
    }
}
