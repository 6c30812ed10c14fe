//! Commands inside network namespaces, and namespaces of a test's own.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread::JoinHandle;

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use signet_tests::cli::{self, Output};
use signet_tests::demo::Demo;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

/// Runs a command in the namespace of one of the demo's workloads.
pub(crate) fn of(demo: &Demo, workload: &str, command: &[&str]) -> anyhow::Result<Output> {
    exec(&name_of(demo, workload)?, command)
}

pub(crate) fn name_of(demo: &Demo, workload: &str) -> anyhow::Result<String> {
    demo.workload(workload)?.netns.clone().with_context(|| format!("`{workload}` has no `netns` in endpoints.json"))
}

pub(crate) fn exec(namespace: &str, command: &[&str]) -> anyhow::Result<Output> {
    let mut ip = Command::new("ip");
    ip.args(["netns", "exec", namespace]).args(command);
    cli::run(ip)
}

/// A command that must succeed; what it wrote.
pub(crate) fn must(command: &[&str]) -> anyhow::Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut run = Command::new(program);
    run.args(arguments);
    let output = cli::run(run)?;
    ensure!(output.code == 0, "{command:?}: {}", output.stderr);
    Ok(output.stdout)
}

/// Two hosts on one wire: `a`, whose rules are tested, and `b`, which it calls.
pub(crate) struct Wire {
    pub(crate) a: String,
    pub(crate) b: String,
    stop: CancellationToken,
    servers: Vec<JoinHandle<()>>,
}

pub(crate) const A: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub(crate) const B: [&str; 2] = ["10.77.0.2", "fd77::2"];

impl Wire {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let id = std::process::id();
        let (a, b) = (format!("sgtest-{id}-a"), format!("sgtest-{id}-b"));
        let wire = Self { a, b, stop: CancellationToken::new(), servers: Vec::new() };
        for name in [&wire.a, &wire.b] {
            must(&["ip", "netns", "add", name])?;
            must(&["ip", "-n", name, "link", "set", "lo", "up"])?;
        }
        must(&["ip", "-n", &wire.a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &wire.b])?;
        for (name, addresses) in [(&wire.a, A), (&wire.b, B)] {
            must(&["ip", "-n", name, "addr", "add", &format!("{}/24", addresses[0]), "dev", "eth0"])?;
            must(&["ip", "-n", name, "addr", "add", &format!("{}/64", addresses[1]), "dev", "eth0", "nodad"])?;
            must(&["ip", "-n", name, "link", "set", "eth0", "up"])?;
        }
        Ok(wire)
    }

    /// A server in `namespace` that says `word` to everyone who connects to `port`, by IPv4 or IPv6.
    pub(crate) fn serve(&mut self, namespace: &str, port: u16, word: &'static str) -> anyhow::Result<()> {
        let space = std::fs::File::open(format!("/run/netns/{namespace}"))?;
        let stop = self.stop.clone();
        let (sender, ready) = std::sync::mpsc::channel();
        self.servers.push(std::thread::spawn(move || {
            // The thread lives in the namespace from here on.
            let entered = move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(stop.run_until_cancelled(async {
                entered.unwrap();
                let v6 = tokio::net::TcpSocket::new_v6().unwrap();
                rustix::net::sockopt::set_ipv6_v6only(&v6, true).unwrap();
                v6.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).unwrap();
                let v6 = v6.listen(16).unwrap();
                let v4 = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.unwrap();
                sender.send(()).unwrap();
                loop {
                    let (mut client, _) = tokio::select! {
                        client = v4.accept() => client.unwrap(),
                        client = v6.accept() => client.unwrap(),
                    };
                    let _ = client.write_all(word.as_bytes()).await;
                }
            }));
        }));
        ready.recv().with_context(|| format!("the server on port {port} of {namespace} did not start"))
    }

    /// What a client in `namespace`, as user `uid`, reads from `address`; what bash says when it cannot connect.
    pub(crate) fn ask(&self, namespace: &str, uid: u32, address: &str, port: u16) -> anyhow::Result<String> {
        let script = format!("exec 3<>/dev/tcp/{address}/{port} && timeout 5 cat <&3");
        let id = [format!("--reuid={uid}"), format!("--regid={uid}")];
        let output = exec(namespace, &["setpriv", &id[0], &id[1], "--clear-groups", "--", "bash", "-c", &script])?;
        Ok(if output.stdout.is_empty() { output.stderr } else { output.stdout })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.cancel();
        for server in self.servers.drain(..) {
            let _ = server.join();
        }
        for name in [&self.a, &self.b] {
            let _ = must(&["ip", "netns", "del", name]);
        }
    }
}
