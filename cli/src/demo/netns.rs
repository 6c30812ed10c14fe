//! `signet demo --netns`: a network namespace for each workload, with the redirect rules of production.
//!
//! Each cluster is a bridge with an address that the cluster's components listen on; each workload's namespace hangs on its
//! cluster's bridge by a veth pair. Services have addresses of their own that nothing listens on: only the rules make a
//! connection to one arrive anywhere. Names resolve through each namespace's own hosts file.
//!
//! All that is made carries the demo's id in its name. [`leftovers`] removes it by that name: at the end, when the demo is
//! killed (a process of its own waits for that), and at the next start, whichever comes first.

mod leftovers;
mod relay;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::plan::{NAMESPACE, Plan, WorkloadPlan};
use super::process::run_to_end;
use crate::failure::{Failure, ResultExt};

pub(crate) use leftovers::wait_and_remove;
pub(crate) use relay::{Relay, Relays, is_listening};

/// What sidecars run as, so that the rules can tell their connections from the apps'.
pub(crate) const SIDECAR_UID: u32 = 15_087;
const INSTALL: &str = "install them: sudo apt-get install -y iproute2 nftables";
const ATTEMPTS: usize = 64;

/// Addresses of one demo: `10.A.B.0/24`, east's workloads in the first quarter, west's in the second, services in the rest.
pub(crate) struct Network {
    pub(crate) id: String,
    a: u8,
    b: u8,
    _lock: File,
    /// Removes everything when its standard input ends.
    watchdog: Option<Child>,
}

/// A workload's network namespace.
#[derive(Clone)]
pub(crate) struct Space {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    number: u8,
}

impl Space {
    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Network {
    /// Takes an id and a range that nobody has, after removing what earlier demos may have left.
    pub(crate) fn take() -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::usage("--netns needs root: it makes network namespaces and redirect rules")
                .next("run it with sudo, or leave --netns out"));
        }
        for program in ["ip", "nft"] {
            let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.failed(format!("`{program}` is not installed, which --netns needs"), INSTALL)?;
        }
        leftovers::remove_orphans()?;
        let routes = Command::new("ip").args(["-4", "route", "show", "table", "all"]).output();
        let routes = routes.failed("cannot ask for this machine's routes", INSTALL)?;
        let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
        for _ in 0..ATTEMPTS {
            let (a, b) = (fastrand::u8(200..=254), fastrand::u8(..));
            if routes.contains(&format!("10.{a}.{b}.")) {
                continue;
            }
            let id = format!("{:05x}", fastrand::u32(..1 << 20));
            let Some(lock) = leftovers::lock_new(&id)? else { continue };
            let watchdog = leftovers::start_watchdog(&id)?;
            return Ok(Self { id, a, b, _lock: lock, watchdog: Some(watchdog) });
        }
        Err(Failure::failed("found no free range of addresses in 10.200.0.0 to 10.254.255.255")
            .next("remove routes that cover it, or leave --netns out"))
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.a, self.b, last)
    }

    /// Where a cluster's components listen.
    pub(crate) fn components(&self, cluster: &str) -> Ipv4Addr {
        self.address(if cluster == "east" { 1 } else { 65 })
    }

    pub(crate) fn space(&self, cluster: &str, workload: &str, number: u8) -> Space {
        let first = if cluster == "east" { 10 } else { 74 };
        Space {
            name: format!("signet-{}-{cluster}-{workload}", self.id),
            address: self.address(first + number),
            number,
        }
    }

    /// The address that stands for `service` in `cluster`, whether it serves it itself, imports it, or has never heard of it.
    pub(crate) fn service(&self, cluster: &str, number: u8) -> Ipv4Addr {
        self.address(if cluster == "east" { 129 } else { 193 } + number)
    }

    fn bridge(&self, cluster: &str) -> String {
        format!("sgn{}{}", self.id, cluster.get(..1).unwrap_or_default())
    }

    /// Makes bridges, namespaces, links and hosts files.
    pub(crate) fn build(&self, plan: &Plan) -> Result<(), Failure> {
        let mut batch = String::new();
        for cluster in plan.clusters.keys() {
            let (bridge, address) = (self.bridge(cluster), self.components(cluster));
            batch +=
                &format!("link add {bridge} type bridge\naddr add {address}/26 dev {bridge}\nlink set {bridge} up\n");
        }
        for (workload, space) in spaces(plan) {
            let name = &space.name;
            run_to_end(ip(&["netns", "add", name]), "ip netns add", INSTALL)?;
            let hosts = Path::new("/etc/netns").join(name);
            fs::create_dir_all(&hosts).failed("cannot make a hosts file's directory", INSTALL)?;
            fs::write(hosts.join("hosts"), self.hosts(plan, workload)).failed("cannot write a hosts file", INSTALL)?;
            let (bridge, veth) = (self.bridge(workload.bank.cluster), format!("sgn{}-{}", self.id, space.number));
            batch += &format!("link add {veth} type veth peer name eth0 netns {name}\n");
            batch += &format!("link set {veth} master {bridge}\nlink set {veth} up\n");
        }
        feed(&mut ip(&["-batch", "-"]), &batch, "ip")?;
        for (workload, space) in spaces(plan) {
            let inside = format!(
                "link set lo up\naddr add {}/26 dev eth0\nlink set eth0 up\nroute add default via {}\n",
                space.address,
                self.components(workload.bank.cluster)
            );
            feed(&mut ip(&["-n", &space.name, "-batch", "-"]), &inside, "ip")?;
        }
        Ok(())
    }

    /// Every name of the mesh that an app of `workload` may ask for, services that it may not reach included.
    fn hosts(&self, plan: &Plan, workload: &WorkloadPlan) -> String {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        let cluster = workload.bank.cluster;
        for (number, other) in (0..).zip(&plan.workloads) {
            let (name, address) = (other.bank.name, self.service(cluster, number));
            let full = format!("{name}.{NAMESPACE}.svc");
            let names = if other.bank.cluster == cluster {
                format!("{full}.cluster.local {full} {name}.{NAMESPACE} {name} {full}.clusterset.local")
            } else {
                format!("{full}.clusterset.local")
            };
            text += &format!("{address} {names}\n");
        }
        text
    }
}

impl Drop for Network {
    /// Everything is removed by the process that would have removed it had we been killed.
    fn drop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            leftovers::remove(&self.id);
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}

/// The workloads that have a namespace, with it.
pub(crate) fn spaces(plan: &Plan) -> impl Iterator<Item = (&WorkloadPlan, &Space)> {
    plan.workloads.iter().filter_map(|workload| Some((workload, workload.space.as_ref()?)))
}

/// Writes the redirect rules of production into every namespace.
pub(crate) fn redirect(plan: &Plan, proxy: &Path) -> Result<(), Failure> {
    for (_, space) in spaces(plan) {
        let mut command = Command::new(proxy);
        command.args(["init", "--proxy-uid", &SIDECAR_UID.to_string()]);
        run_to_end(inside(Some(space), command), "signet-proxy init", INSTALL)?;
    }
    Ok(())
}

/// `command`, to be run in the namespace where there is one.
pub(crate) fn inside(space: Option<&Space>, command: Command) -> Command {
    let Some(space) = space else { return command };
    let mut wrapped = ip(&["netns", "exec", &space.name]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

/// A sidecar's command: as the sidecars' user, that may read the demo's files and nothing more.
pub(crate) fn as_sidecar(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={SIDECAR_UID}"), format!("--regid={SIDECAR_UID}")])
        .args(["--clear-groups", "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"])
        .args(["--bounding-set=-all,+dac_read_search", "--no-new-privs", "--pdeathsig=TERM", "--"])
        .arg(program);
    command
}

fn ip(arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments);
    command
}

fn feed(command: &mut Command, input: &str, name: &str) -> Result<(), Failure> {
    let next = "see whether this machine allows network namespaces, or leave --netns out";
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.failed(format!("cannot run `{name}`"), INSTALL)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).failed(format!("`{name}` ended early"), next)?;
    }
    let output = child.wait_with_output().failed(format!("`{name}` did not end"), next)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::failed(format!("`{name}` failed: {}", String::from_utf8_lossy(&output.stderr).trim())).next(next))
}

/// Where `port` of a workload is reached from its cluster.
pub(crate) fn in_cluster(space: &Space, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(space.address), port)
}
