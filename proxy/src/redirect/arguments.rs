//! `signet-proxy init`'s arguments, and the rules they ask for.

use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;

use super::{Inbound, Network, Rules};

/// Which program writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// nft where it is installed, else iptables.
    Auto,
    Nft,
    Iptables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Redirect,
    Tproxy,
}

/// Writes this network namespace's redirect rules, or replaces them.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArguments {
    /// User that the sidecar runs as; its connections are not redirected. May be given more than once.
    #[arg(long = "proxy-uid", value_name = "UID", required = true)]
    proxy_uids: Vec<u32>,
    /// Port of the sidecar's transparent outbound listener.
    #[arg(long, default_value_t = crate::intercept::OUTBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// Port of the sidecar's transparent inbound listener.
    #[arg(long, default_value_t = crate::intercept::INBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// How connections that arrive get to the sidecar; tproxy needs `transparent.inbound_mode: tproxy` in its configuration.
    #[arg(long, value_enum, default_value = "redirect")]
    inbound_mode: Mode,
    /// Ports of others that are connected to without the sidecar.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exclude_outbound_port: Vec<u16>,
    /// Networks that are connected to without the sidecar.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    exclude_outbound_cidr: Vec<Network>,
    /// Ports of the workload that are reached without the sidecar.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exclude_inbound_port: Vec<u16>,
    /// Networks that reach the workload without the sidecar.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    exclude_inbound_cidr: Vec<Network>,
    /// The sidecar's admin port, never redirected.
    #[arg(long, value_name = "PORT", value_delimiter = ',', default_value = "15000")]
    admin_port: Vec<u16>,
    /// DNS servers that may be asked, `ADDRESS` or `ADDRESS:PORT`.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = resolver)]
    resolver: Vec<SocketAddr>,
    /// Let UDP and other protocols pass that carry no identity. What is said about a strict workload is then not true of it.
    #[arg(long)]
    allow_datagrams: bool,
    /// Which program writes the rules.
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: Backend,
    /// Print what would be written and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

fn resolver(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let ip: IpAddr =
        text.parse().map_err(|_| format!("`{text}` is not an address like 10.96.0.10 or 10.96.0.10:53"))?;
    Ok(SocketAddr::new(ip, 53))
}

impl InitArguments {
    #[must_use]
    pub fn rules(&self) -> Rules {
        let inbound_ports = self.exclude_inbound_port.iter().chain(&self.admin_port);
        Rules {
            proxy_uids: self.proxy_uids.iter().copied().collect(),
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            inbound: match self.inbound_mode {
                Mode::Redirect => Inbound::Redirect,
                Mode::Tproxy => Inbound::Tproxy,
            },
            exclude_outbound_ports: self.exclude_outbound_port.iter().copied().collect(),
            exclude_outbound: self.exclude_outbound_cidr.iter().copied().collect(),
            exclude_inbound_ports: inbound_ports.copied().collect(),
            exclude_inbound: self.exclude_inbound_cidr.iter().copied().collect(),
            resolvers: self.resolver.iter().copied().collect(),
            drop_datagrams: !self.allow_datagrams,
        }
    }
}
