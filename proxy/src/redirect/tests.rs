//! What the rules say, in nft's words and in iptables'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
use super::iptables::Family;
use super::*;

fn rules() -> Rules {
    Rules {
        proxy_uids: [1337].into(),
        outbound_port: 15001,
        inbound_port: 15006,
        inbound: Inbound::Redirect,
        exclude_outbound_ports: [9092, 9093].into(),
        exclude_outbound: ["10.1.0.0/16".parse().unwrap(), "10.1.2.0/24".parse().unwrap(), "fd00::/8".parse().unwrap()]
            .into(),
        exclude_inbound_ports: [15000].into(),
        exclude_inbound: ["192.0.2.7".parse().unwrap()].into(),
        resolvers: ["10.96.0.10:53".parse().unwrap()].into(),
        drop_datagrams: true,
    }
}

#[test]
fn networks_are_read_with_their_host_bits_cleared_and_nothing_else_is_one() {
    for (text, expected) in [
        ("10.1.2.3/8", Some("10.0.0.0/8")),
        ("10.1.2.3", Some("10.1.2.3/32")),
        ("0.0.0.0/0", Some("0.0.0.0/0")),
        ("fd12::1/16", Some("fd12::/16")),
        ("::/0", Some("::/0")),
        ("10.0.0.0/33", None),
        ("10.0.0.0/", None),
        ("ledger/8", None),
        ("", None),
    ] {
        assert_eq!(text.parse::<Network>().ok().map(|n| n.to_string()).as_deref(), expected, "{text}");
    }
}

#[test]
fn one_transaction_replaces_the_table_and_carries_its_counters_on() {
    let counters = Counters::from([("udp_dropped".to_owned(), Counted { packets: 7, bytes: 420 })]);
    let script = nft::script(&rules(), &counters);
    let head: Vec<&str> = script.lines().take(3).collect();
    assert_eq!(head, ["table inet signet {}", "delete table inet signet", "table inet signet {"]);
    assert!(script.contains("counter udp_dropped { packets 7 bytes 420 }"), "{script}");
    assert!(script.contains("counter other_dropped { packets 0 bytes 0 }"), "{script}");
}

/// The order decides: what is left alone must stand before what is redirected.
#[test]
fn exclusions_stand_before_the_redirect() {
    let script = nft::script(&rules(), &Counters::new());
    let at = |text: &str| script.find(text).unwrap_or_else(|| panic!("`{text}` is not in:\n{script}"));
    let redirect = at("counter name outbound_redirected redirect to :15001");
    for excluded in [
        "meta skuid { 1337 } return",
        "oifname \"lo\" return",
        "tcp dport { 9092, 9093 } return",
        "ip daddr { 10.1.0.0/16 } return",
        "ip6 daddr { fd00::/8 } return",
        "ip daddr 10.96.0.10 tcp dport 53 return",
    ] {
        assert!(at(excluded) < redirect, "{excluded}");
    }
    assert!(at("ip daddr != 127.0.0.0/8 meta l4proto tcp counter name self_calls_redirected") < at("{ 1337 } return"));
    let inbound = at("counter name inbound_redirected redirect to :15006");
    assert!(at("tcp dport { 15000 } return\n    ip saddr { 192.0.2.7/32 } return") < inbound);
    assert!(at("udp dport 53 accept") < at("counter name udp_dropped drop"));
}

#[test]
fn iptables_gets_the_same_rules_by_family_and_each_port_in_a_line_of_its_own() {
    let v4 = iptables::script(&rules(), Family::V4, &["SIGNET_OUTBOUND"]);
    for line in [
        "-A SIGNET_OUTBOUND -p tcp -o lo ! -d 127.0.0.0/8 -m owner --uid-owner 1337 -j REDIRECT --to-ports 15006",
        "-A SIGNET_OUTBOUND -p tcp --dport 9092 -j RETURN",
        "-A SIGNET_OUTBOUND -p tcp --dport 9093 -j RETURN",
        "-A SIGNET_OUTBOUND -d 10.1.0.0/16 -j RETURN",
        "-A SIGNET_INBOUND -p tcp -j REDIRECT --to-ports 15006",
        "-A SIGNET_DATAGRAMS_OUT -p udp -d 10.96.0.10 --dport 53 -j RETURN",
        "-A SIGNET_DATAGRAMS_IN -p udp -s 10.96.0.10 --sport 53 -j RETURN",
        "-I OUTPUT 1 -j SIGNET_OUTBOUND",
    ] {
        assert!(v4.lines().any(|l| l == line), "`{line}` is not in:\n{v4}");
    }
    assert!(!v4.contains("-j SIGNET_INBOUND"), "a jump that is there already is not added again");
    assert!(!v4.contains("fd00"));
    let v6 = iptables::script(&rules(), Family::V6, &[]);
    assert!(v6.contains("-d fd00::/8") && v6.contains("ipv6-icmp") && !v6.contains("10.1.0.0"));
}

#[test]
fn counters_are_read_from_nfts_own_json() {
    let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"counter": {"family": "inet", "name": "udp_dropped", "table": "signet", "handle": 4, "packets": 3, "bytes": 99}}]}"#;
    assert_eq!(nft::counters(json).unwrap()["udp_dropped"], Counted { packets: 3, bytes: 99 });
    assert!(nft::counters("{").is_err());
}
