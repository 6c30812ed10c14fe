//! The redirect rules of a workload's network namespace: `signet-proxy init`, `undo` and `counters`.
//!
//! The rules live in one nftables table of Signet's own, written whole in one transaction, so that a namespace has all of
//! them or none; where there is no nft, in chains of Signet's own through iptables-restore. Writing them again replaces them.
//! [`Rules`] is what is wanted, [`nft`] and [`iptables`] say it in their language, both pure; [`apply`] runs the programs.
//!
//! What the rules hold: every TCP connection that a process of the workload opens goes to the sidecar's outbound listener,
//! and every one that arrives goes to its inbound listener, each with the destination that it had. Left alone are the
//! sidecar's own user, loopback (except the sidecar calling its own workload, which is a call like any other), and what was
//! excluded by port or range. UDP and other protocols that nobody can authenticate are dropped and counted, except questions
//! to the configured resolvers.

pub mod apply;
mod arguments;
pub mod iptables;
pub mod nft;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

pub use arguments::{Backend, InitArguments};

/// The name of our table, and of nothing else in a namespace.
pub const TABLE: &str = "signet";

/// How inbound connections reach the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// Destination NAT; the original destination is asked of the kernel.
    Redirect,
    /// The packet is handed over unchanged, to a listener with `IP_TRANSPARENT`.
    Tproxy,
}

/// A network in CIDR notation; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Why a network was not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network like 10.0.0.0/8 or fd00::/8")]
pub struct NotANetwork(String);

impl std::str::FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.map_or(Ok(longest), str::parse).map_err(|_| wrong())?;
        if prefix > longest {
            return Err(wrong());
        }
        Ok(Self { address: masked(address, prefix), prefix })
    }
}

/// Host bits are cleared: nft would refuse or misread them.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

/// What a namespace's rules shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Users whose connections are the sidecar's own; never empty.
    pub proxy_uids: BTreeSet<u32>,
    pub outbound_port: u16,
    pub inbound_port: u16,
    pub inbound: Inbound,
    /// Connections to these ports of others are not the sidecar's business.
    pub exclude_outbound_ports: BTreeSet<u16>,
    pub exclude_outbound: BTreeSet<Network>,
    /// Connections to these ports of the workload go straight to it, its sidecar's admin port among them.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Connections from these networks go straight to the workload.
    pub exclude_inbound: BTreeSet<Network>,
    /// DNS servers that may be asked by UDP and TCP.
    pub resolvers: BTreeSet<SocketAddr>,
    /// Drop and count what is neither TCP nor ICMP (a strict workload).
    pub drop_datagrams: bool,
}

/// What the rules counted since they were first written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}

/// The counters, by name; the order is that of the output.
pub const COUNTERS: [&str; 5] =
    ["outbound_redirected", "inbound_redirected", "self_calls_redirected", "udp_dropped", "other_dropped"];

pub type Counters = std::collections::BTreeMap<String, Counted>;

#[cfg(test)]
mod tests;
