//! The rules as one nftables transaction, and the table's counters read back.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

use super::{COUNTERS, Counted, Counters, Inbound, Network, Rules, TABLE};

/// The whole table as a script for `nft -f -`: what was there goes and what is wanted comes in one step. Counts of the
/// table that is replaced go on from `counters`.
#[must_use]
pub fn script(rules: &Rules, counters: &Counters) -> String {
    let mut text = undo();
    let _ = writeln!(text, "table inet {TABLE} {{");
    for name in COUNTERS {
        let Counted { packets, bytes } = counters.get(name).copied().unwrap_or_default();
        let _ = writeln!(text, "  counter {name} {{ packets {packets} bytes {bytes} }}");
    }
    chain(&mut text, "outbound", "type nat hook output priority -100; policy accept;", &outbound(rules));
    match rules.inbound {
        Inbound::Redirect => {
            chain(&mut text, "inbound", "type nat hook prerouting priority -100; policy accept;", &inbound(rules));
        }
        Inbound::Tproxy => {
            chain(&mut text, "inbound", "type filter hook prerouting priority -150; policy accept;", &inbound(rules));
        }
    }
    if rules.drop_datagrams {
        let out = datagrams(rules, "oifname", "daddr", "dport");
        chain(&mut text, "datagrams_out", "type filter hook output priority 0; policy accept;", &out);
        let arriving = datagrams(rules, "iifname", "saddr", "sport");
        chain(&mut text, "datagrams_in", "type filter hook input priority 0; policy accept;", &arriving);
    }
    text.push_str("}\n");
    text
}

/// Removes the table, and is no error where there is none.
#[must_use]
pub fn undo() -> String {
    format!("table inet {TABLE} {{}}\ndelete table inet {TABLE}\n")
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    let _ = writeln!(text, "  chain {name} {{\n    {hook}");
    for rule in rules {
        let _ = writeln!(text, "    {rule}");
    }
    text.push_str("  }\n");
}

fn outbound(rules: &Rules) -> Vec<String> {
    let proxy = format!("meta skuid {}", set(&rules.proxy_uids));
    let to_inbound = format!("meta l4proto tcp counter name self_calls_redirected redirect to :{}", rules.inbound_port);
    let mut lines = vec!["meta l4proto != tcp return".to_owned()];
    // The sidecar calls its own workload by its address: a call like any other, that the inbound side has to see.
    if !rules.exclude_inbound_ports.is_empty() {
        lines.push(format!("{proxy} oifname \"lo\" tcp dport {} return", set(&rules.exclude_inbound_ports)));
    }
    lines.push(format!("{proxy} oifname \"lo\" ip daddr != 127.0.0.0/8 {to_inbound}"));
    lines.push(format!("{proxy} oifname \"lo\" ip6 daddr != ::1 {to_inbound}"));
    lines.push(format!("{proxy} return"));
    lines.push("oifname \"lo\" return".to_owned());
    if !rules.exclude_outbound_ports.is_empty() {
        lines.push(format!("tcp dport {} return", set(&rules.exclude_outbound_ports)));
    }
    lines.extend(networks(&rules.exclude_outbound, "daddr", "return"));
    lines.extend(resolvers(&rules.resolvers, "daddr", "tcp dport", "return"));
    lines.push(format!("meta l4proto tcp counter name outbound_redirected redirect to :{}", rules.outbound_port));
    lines
}

fn inbound(rules: &Rules) -> Vec<String> {
    let mut lines = vec![
        "meta l4proto != tcp return".to_owned(),
        "iifname \"lo\" return".to_owned(),
        // What is only passing through is not for this workload.
        "fib daddr type != local return".to_owned(),
    ];
    if !rules.exclude_inbound_ports.is_empty() {
        lines.push(format!("tcp dport {} return", set(&rules.exclude_inbound_ports)));
    }
    lines.extend(networks(&rules.exclude_inbound, "saddr", "return"));
    let port = rules.inbound_port;
    match rules.inbound {
        Inbound::Redirect => {
            lines.push(format!("meta l4proto tcp counter name inbound_redirected redirect to :{port}"));
        }
        Inbound::Tproxy => {
            // Answers to connections that the sidecar itself opened pass here too; their sockets are not transparent.
            lines.push("ct direction reply return".to_owned());
            lines.push("tcp flags & (syn | ack) == syn counter name inbound_redirected".to_owned());
            for family in ["ip", "ip6"] {
                let protocol = if family == "ip" { "ipv4" } else { "ipv6" };
                // The destination is the workload's own address, so no route has to lead the packet here.
                lines.push(format!("meta nfproto {protocol} meta l4proto tcp tproxy {family} to :{port} accept"));
            }
        }
    }
    lines
}

/// What a strict workload sends or gets beside TCP; `interface`, `address` and `port` name the far side.
fn datagrams(rules: &Rules, interface: &str, address: &str, port: &str) -> Vec<String> {
    let mut lines =
        vec!["meta l4proto { tcp, icmp, ipv6-icmp } accept".to_owned(), format!("{interface} \"lo\" accept")];
    lines.extend(resolvers(&rules.resolvers, address, &format!("udp {port}"), "accept"));
    lines.push("meta l4proto udp counter name udp_dropped drop".to_owned());
    lines.push("counter name other_dropped drop".to_owned());
    lines
}

fn networks(networks: &BTreeSet<Network>, side: &str, verdict: &str) -> Vec<String> {
    let (v4, v6): (BTreeSet<Network>, BTreeSet<Network>) = networks.iter().partition(|network| network.is_ipv4());
    [("ip", v4), ("ip6", v6)]
        .into_iter()
        .filter(|(_, networks)| !networks.is_empty())
        .map(|(family, networks)| format!("{family} {side} {} {verdict}", set(&disjoint(networks))))
        .collect()
}

/// Without the networks that lie within another: an anonymous set refuses intervals that overlap.
fn disjoint(networks: BTreeSet<Network>) -> BTreeSet<Network> {
    let within = |inner: &Network, outer: &Network| {
        inner != outer && inner.prefix >= outer.prefix && super::masked(inner.address, outer.prefix) == outer.address
    };
    networks.iter().filter(|inner| !networks.iter().any(|outer| within(inner, outer))).copied().collect()
}

fn resolvers(resolvers: &BTreeSet<SocketAddr>, side: &str, port: &str, verdict: &str) -> Vec<String> {
    let lines = resolvers.iter().map(|resolver| {
        let family = if resolver.is_ipv4() { "ip" } else { "ip6" };
        format!("{family} {side} {} {port} {} {verdict}", resolver.ip(), resolver.port())
    });
    lines.collect()
}

fn set<T: Display>(items: &BTreeSet<T>) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", items.join(", "))
}

/// Reads the answer to `nft -j list counters table inet signet`.
///
/// # Errors
/// When it is not nft's JSON.
pub fn counters(json: &str) -> Result<Counters, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Listing {
        nftables: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        counter: Option<Counter>,
    }
    #[derive(serde::Deserialize)]
    struct Counter {
        name: String,
        packets: u64,
        bytes: u64,
    }
    let listing: Listing = serde_json::from_str(json)?;
    let counters = listing.nftables.into_iter().filter_map(|item| item.counter);
    Ok(counters.map(|counter| (counter.name, Counted { packets: counter.packets, bytes: counter.bytes })).collect())
}
