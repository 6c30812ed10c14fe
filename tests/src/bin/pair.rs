//! `tests/bench/pair`: one production sidecar of a pair, with all that it needs. See `docs/performance.md`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use signet_tests::bench::pair::{Role, shipped, start};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str =
    "pair --role client|server --listen ADDR (--peer ADDR | --backend ADDR) --dir D [--sidecar PROGRAM]";

fn main() -> anyhow::Result<()> {
    let (mut role, mut listen, mut other, mut dir, mut sidecar) = (None, None, None, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value\nusage: {USAGE}"));
        match argument.as_str() {
            "--role" => role = Some(value()?),
            "--listen" => listen = Some(value()?.parse::<SocketAddr>().context("--listen takes ip:port")?),
            "--peer" | "--backend" => other = Some((argument.clone(), value()?.parse::<SocketAddr>()?)),
            "--sidecar" => sidecar = Some(PathBuf::from(value()?)),
            "--dir" => dir = Some(PathBuf::from(value()?)),
            "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => bail!("pair knows no `{other}`\nusage: {USAGE}"),
        }
    }
    let role = match (role.as_deref(), other) {
        (Some("client"), Some((name, peer))) if name == "--peer" => Role::Client { peer },
        (Some("server"), Some((name, backend))) if name == "--backend" => Role::Server { backend },
        _ => bail!("a client needs --peer, a server --backend\nusage: {USAGE}"),
    };
    let (listen, dir) = (listen.context(USAGE)?, dir.context(USAGE)?);
    let sidecar = sidecar.map_or_else(|| shipped("signet-proxy"), Ok)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let running = tokio::select! {
            running = start(role, listen, &dir, &sidecar) => running?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        println!("{} ready on {listen}, sidecar {}", role.name(), running.facts.pid);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
