//! What changes under the load: a signed commit that permits one kind of call and the next that takes it back; the
//! ledger's endpoint, which moves between its sidecar and an address that leads there; and the workloads' SVIDs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use signet_mtls::{Identity, IdentitySource};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::load::Load;
use crate::cli;
use crate::demo::Demo;

const PERMITS: &str = r#"
@id("soak-web-patches")
@owner("bank")
permit (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:PATCH",
  resource in Mesh::Service::"east.bank.example/bank/ledger"
);
"#;

#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) commits: u32,
    pub(super) moves: u32,
    pub(super) problems: Vec<String>,
}

/// Changes policies and endpoints in turn for `time`, and leaves both as they were.
pub(super) async fn run(demo: &Demo, load: &Load, time: Duration, every: Duration) -> anyhow::Result<Changes> {
    let until = Instant::now() + time;
    let mut changes = Changes::default();
    let mut endpoints = Endpoints::new(demo)?;
    let mut permits = false;
    // The two kinds of change are half a step apart.
    let mut ticks = tokio::time::interval(every / 2);
    ticks.tick().await;
    let mut policy = true;
    while Instant::now() + every < until {
        ticks.tick().await;
        if policy {
            permits = !permits;
            let what = commit(demo, permits)?;
            load.changed(&what);
            changes.commits += 1;
        } else {
            load.changed(&endpoints.step().await?);
            changes.moves += 1;
        }
        policy = !policy;
    }
    if permits {
        commit(demo, false)?;
    }
    endpoints.restore()?;
    tokio::time::sleep_until(until).await;
    // Refused commits and NACKed snapshots would make the rest of the soak mean little.
    let head = git(demo, &["rev-parse", "HEAD"])?;
    for cluster in ["east", "west"] {
        let said = cli::signet(demo, &["mesh", "proxies", "--cluster", cluster, "-o", "json"])?.stdout;
        if !said.contains(&head) {
            changes.problems.push(format!("no proxy of {cluster} has the last commit {head}: {said}"));
        }
    }
    Ok(changes)
}

fn commit(demo: &Demo, permits: bool) -> anyhow::Result<String> {
    let file = demo.endpoints().policy_repo.join("policies/soak-web-patches.cedar");
    if permits {
        std::fs::write(&file, PERMITS)?;
    } else {
        std::fs::remove_file(&file)?;
    }
    git(demo, &["add", "--all"])?;
    git(demo, &["commit", "--quiet", "-S", "-m", if permits { "Let web patch" } else { "Let web patch no more" }])?;
    Ok(format!("commit {}", git(demo, &["rev-parse", "--short", "HEAD"])?))
}

fn git(demo: &Demo, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(&demo.endpoints().policy_repo).args(arguments);
    let output = cli::run(command)?;
    ensure!(output.code == 0, "git {arguments:?}: {}{}", output.stdout, output.stderr);
    Ok(output.stdout.trim().to_owned())
}

/// The ledger's endpoints: its sidecar, an address that leads there, or both.
struct Endpoints {
    file: std::path::PathBuf,
    second: std::path::PathBuf,
    /// The file as the demo wrote it, and without the ledger.
    own: String,
    without: String,
    inbound: SocketAddr,
    phase: u8,
    /// The address of this round, and the one of the round before: what is under way there may end.
    ways: Vec<Way>,
}

/// Carries bytes to the ledger's sidecar: mTLS goes through it end to end. It has the sidecar's port, because the port of a
/// slice is the one that the sidecar serves the service on.
struct Way {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Endpoints {
    fn new(demo: &Demo) -> anyhow::Result<Self> {
        let manifests = demo.dir().join("east/manifests");
        let file = manifests.join("endpoints.yaml");
        let own = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let others = own.split("---\n").filter(|document| !document.contains("\n  name: ledger-1\n"));
        let without = others.collect::<Vec<_>>().join("---\n");
        ensure!(without.len() < own.len(), "{} has no slice `ledger-1`", file.display());
        let inbound = demo.workload("east/bank/ledger")?.inbound.parse()?;
        Ok(Self { second: manifests.join("soak.yaml"), file, own, without, inbound, phase: 0, ways: Vec::new() })
    }

    /// Both, the other alone, both, the own alone: never none.
    async fn step(&mut self) -> anyhow::Result<String> {
        self.phase = self.phase.wrapping_add(1);
        match self.phase % 4 {
            1 => {
                // Round after round another address: 127.0.0.2 to 127.0.0.65.
                let way = Way::open(Ipv4Addr::new(127, 0, 0, 2 + self.phase / 4 % 64), self.inbound).await?;
                whole(&self.second, &slice(way.address))?;
                let what = format!("endpoint {} of the ledger added", way.address);
                self.ways.push(way);
                if self.ways.len() > 2 {
                    self.ways.remove(0);
                }
                Ok(what)
            }
            2 => whole(&self.file, &self.without).map(|()| "the ledger's own endpoint removed".to_owned()),
            3 => whole(&self.file, &self.own).map(|()| "the ledger's own endpoint added".to_owned()),
            _ => {
                std::fs::remove_file(&self.second)?;
                Ok("the ledger's other endpoint removed".to_owned())
            }
        }
    }

    fn restore(&self) -> anyhow::Result<()> {
        whole(&self.file, &self.own)?;
        if self.second.exists() {
            std::fs::remove_file(&self.second)?;
        }
        Ok(())
    }
}

impl Way {
    async fn open(at: Ipv4Addr, to: SocketAddr) -> anyhow::Result<Self> {
        let address = SocketAddr::from((at, to.port()));
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                    accepted = listener.accept() => {
                        let Ok((mut from, _)) = accepted else { continue };
                        connections.spawn(async move {
                            let Ok(mut inbound) = TcpStream::connect(to).await else { return };
                            let _ = (from.set_nodelay(true), inbound.set_nodelay(true));
                            let _ = tokio::io::copy_bidirectional(&mut from, &mut inbound).await;
                        });
                    }
                }
            }
        });
        Ok(Self { address, _tasks: tasks })
    }
}

fn slice(address: SocketAddr) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: ledger-soak\n  namespace: bank\n  \
         labels:\n    kubernetes.io/service-name: ledger\naddressType: IPv4\nports:\n  - name: http\n    port: {}\n\
         endpoints:\n  - addresses: [\"{}\"]\n    conditions:\n      ready: true\n",
        address.port(),
        address.ip()
    )
}

/// Writes a file such that no reader sees half of it.
fn whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Counts how often the agents give workloads another SVID than before.
pub(super) async fn renewals(demo: &Demo, time: Duration) -> anyhow::Result<u32> {
    let until = Instant::now() + time;
    let cancel = CancellationToken::new();
    let mut watches = JoinSet::new();
    for workload in demo.endpoints().workloads.values() {
        let source = IdentitySource::connect(&workload.workload_api, cancel.clone()).await?;
        watches.spawn(async move {
            let (mut identities, mut renewals) = (source.watch(), 0);
            let ends = |identity: &Identity| identity.svids.iter().map(|svid| svid.not_after).max();
            let mut before = ends(&identities.borrow_and_update());
            while let Ok(Ok(())) = tokio::time::timeout_at(until, identities.changed()).await {
                let now = ends(&identities.borrow_and_update());
                renewals += u32::from(now != before);
                before = now;
            }
            renewals
        });
    }
    Ok(watches.join_all().await.into_iter().sum())
}
