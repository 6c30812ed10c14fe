//! Two hosts on one wire: network namespaces joined by a veth pair, with one CPU each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::load::{Done, Work};
use super::process::Server;
use super::stop;
use crate::cli;

/// One of the two hosts.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    namespace: String,
    pub(crate) address: IpAddr,
    cpu: usize,
}

/// Both, deleted when dropped.
pub(crate) struct Wire {
    /// Where the load and the callers' sides run.
    pub(crate) client: Host,
    /// Where the called sides and the app run.
    pub(crate) server: Host,
}

impl Wire {
    /// # Errors
    /// When the namespaces cannot be made, which needs root.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let id = std::process::id();
        let host = |name: &str, last, cpu| Host {
            namespace: format!("sgbench-{id}-{name}"),
            address: IpAddr::V4(Ipv4Addr::new(10, 78, 0, last)),
            cpu,
        };
        let wire = Self { client: host("c", 1, 0), server: host("s", 2, 1) };
        let (a, b) = (wire.client.namespace.as_str(), wire.server.namespace.as_str());
        for name in [a, b] {
            ip(&["netns", "add", name]).context("network namespaces need root")?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        ip(&["-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b])?;
        for host in [&wire.client, &wire.server] {
            ip(&["-n", &host.namespace, "addr", "add", &format!("{}/24", host.address), "dev", "eth0"])?;
            ip(&["-n", &host.namespace, "link", "set", "eth0", "up"])?;
        }
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for host in [&self.client, &self.server] {
            let _ = ip(&["netns", "del", &host.namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments);
    let output = cli::run(command)?;
    ensure!(output.code == 0, "ip {arguments:?}: {}", output.stderr);
    Ok(())
}

impl Host {
    /// A port of its own on this host.
    #[must_use]
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    fn prefix(&self) -> [String; 6] {
        ["netns", "exec", &self.namespace, "taskset", "-c", &self.cpu.to_string()].map(str::to_owned)
    }

    /// A server on this host, ended when dropped.
    pub(crate) fn start(&self, program: &str, arguments: &[&str], log: &Path) -> anyhow::Result<Server> {
        stop::check()?;
        let prefix = self.prefix();
        let mut all: Vec<&str> = prefix.iter().map(String::as_str).collect();
        all.push(program);
        all.extend(arguments);
        Server::start("ip", &all, log)
    }

    /// Whether something listens at `address`, as seen from this host.
    pub(crate) fn reaches(&self, address: SocketAddr) -> anyhow::Result<bool> {
        stop::check()?;
        let script = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
        let mut command = Command::new("ip");
        command.args(self.prefix()).args(["bash", "-c", &script]);
        Ok(cli::run(command)?.code == 0)
    }

    fn worker(&self, work: &Work) -> anyhow::Result<Command> {
        stop::check()?;
        let mut command = Command::new("ip");
        command.args(self.prefix()).arg(std::env::current_exe()?).args(["load", &serde_json::to_string(work)?]);
        Ok(command)
    }

    /// Does `work` on this host.
    ///
    /// # Errors
    /// With what the worker said.
    pub(crate) fn perform(&self, work: &Work) -> anyhow::Result<Done> {
        let output = cli::run(self.worker(work)?)?;
        ensure!(output.code == 0, "{work:?}: {}", output.stderr);
        serde_json::from_str(output.stdout.lines().last().unwrap_or_default()).context("the worker's result")
    }

    /// Does [`Work::Hold`] on this host while `meanwhile` runs.
    ///
    /// # Errors
    /// When the connections cannot be opened, or one of them was closed meanwhile.
    pub(crate) fn while_holding<T>(
        &self,
        work: &Work,
        meanwhile: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        use std::io::{BufRead as _, BufReader};

        let mut command = self.worker(work)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        output.read_line(&mut said)?;
        let result = if said.trim() == "held" { Some(meanwhile()) } else { None };
        drop(child.stdin.take());
        let ended = child.wait()?;
        let result = result.with_context(|| format!("{work:?} could not open its connections"))?;
        ensure!(ended.success(), "{work:?} ended with {ended}");
        result
    }
}
