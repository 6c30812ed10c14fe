//! The same rules for iptables-restore, where there is no nft: chains of our own in the tables `nat` and `filter`, for each
//! address family, and one jump to each.
//!
//! A restore is one transaction for each table and family, not one for all: a namespace without nft is for a moment
//! half-way. TPROXY is left to nft.

use std::fmt::Write as _;

use super::{Network, Rules};

/// An address family's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    #[must_use]
    pub fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }

    fn icmp(self) -> &'static str {
        match self {
            Self::V4 => "icmp",
            Self::V6 => "ipv6-icmp",
        }
    }

    fn has(self, network: &Network) -> bool {
        network.is_ipv4() == (self == Self::V4)
    }
}

/// Our chains: table, the chain that jumps, ours.
pub const CHAINS: [(&str, &str, &str); 4] = [
    ("nat", "OUTPUT", "SIGNET_OUTBOUND"),
    ("nat", "PREROUTING", "SIGNET_INBOUND"),
    ("filter", "OUTPUT", "SIGNET_DATAGRAMS_OUT"),
    ("filter", "INPUT", "SIGNET_DATAGRAMS_IN"),
];

/// Text for `iptables-restore --noflush`. `jumps`: those of [`CHAINS`] that no rule of the kernel's chain leads to yet.
#[must_use]
pub fn script(rules: &Rules, family: Family, jumps: &[&str]) -> String {
    let mut text = String::new();
    for table in ["nat", "filter"] {
        let _ = writeln!(text, "*{table}");
        let chains = CHAINS.iter().filter(|(of, _, _)| *of == table);
        for (_, _, ours) in chains.clone() {
            // Declaring a chain empties it.
            let _ = writeln!(text, ":{ours} - [0:0]");
        }
        for (_, from, ours) in chains.clone() {
            for line in lines(rules, family, ours) {
                let _ = writeln!(text, "-A {ours} {line}");
            }
            if jumps.contains(ours) {
                let _ = writeln!(text, "-I {from} 1 -j {ours}");
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}

fn lines(rules: &Rules, family: Family, chain: &str) -> Vec<String> {
    match chain {
        "SIGNET_OUTBOUND" => outbound(rules, family),
        "SIGNET_INBOUND" => inbound(rules, family),
        "SIGNET_DATAGRAMS_OUT" => datagrams(rules, family, "-o", "-d", "--dport"),
        _ => datagrams(rules, family, "-i", "-s", "--sport"),
    }
}

fn outbound(rules: &Rules, family: Family) -> Vec<String> {
    let mut lines = vec!["! -p tcp -j RETURN".to_owned()];
    for uid in &rules.proxy_uids {
        let owner = format!("-m owner --uid-owner {uid}");
        for port in &rules.exclude_inbound_ports {
            lines.push(format!("-p tcp -o lo {owner} --dport {port} -j RETURN"));
        }
        lines.push(format!(
            "-p tcp -o lo ! -d {} {owner} -j REDIRECT --to-ports {}",
            family.loopback(),
            rules.inbound_port
        ));
        lines.push(format!("{owner} -j RETURN"));
    }
    lines.push("-o lo -j RETURN".to_owned());
    // One line a port: a multiport match stops at fifteen.
    lines.extend(rules.exclude_outbound_ports.iter().map(|port| format!("-p tcp --dport {port} -j RETURN")));
    let excluded = rules.exclude_outbound.iter().filter(|network| family.has(network));
    lines.extend(excluded.map(|network| format!("-d {network} -j RETURN")));
    let resolvers = rules.resolvers.iter().filter(|resolver| resolver.is_ipv4() == (family == Family::V4));
    lines.extend(resolvers.map(|r| format!("-p tcp -d {} --dport {} -j RETURN", r.ip(), r.port())));
    lines.push(format!("-p tcp -j REDIRECT --to-ports {}", rules.outbound_port));
    lines
}

fn inbound(rules: &Rules, family: Family) -> Vec<String> {
    let mut lines = vec![
        "! -p tcp -j RETURN".to_owned(),
        "-i lo -j RETURN".to_owned(),
        "-m addrtype ! --dst-type LOCAL -j RETURN".to_owned(),
    ];
    lines.extend(rules.exclude_inbound_ports.iter().map(|port| format!("-p tcp --dport {port} -j RETURN")));
    let excluded = rules.exclude_inbound.iter().filter(|network| family.has(network));
    lines.extend(excluded.map(|network| format!("-s {network} -j RETURN")));
    lines.push(format!("-p tcp -j REDIRECT --to-ports {}", rules.inbound_port));
    lines
}

fn datagrams(rules: &Rules, family: Family, interface: &str, address: &str, port: &str) -> Vec<String> {
    if !rules.drop_datagrams {
        return Vec::new();
    }
    let mut lines = vec![
        "-p tcp -j RETURN".to_owned(),
        format!("-p {} -j RETURN", family.icmp()),
        format!("{interface} lo -j RETURN"),
    ];
    let resolvers = rules.resolvers.iter().filter(|resolver| resolver.is_ipv4() == (family == Family::V4));
    lines.extend(resolvers.map(|r| format!("-p udp {address} {} {port} {} -j RETURN", r.ip(), r.port())));
    lines.push("-p udp -m comment --comment udp_dropped -j DROP".to_owned());
    lines.push("-m comment --comment other_dropped -j DROP".to_owned());
    lines
}
