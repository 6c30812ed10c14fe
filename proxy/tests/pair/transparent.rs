//! Two sidecars behind real redirect rules, in network namespaces of their own: by IPv4 and IPv6, REDIRECT and TPROXY.
//!
//! As a user other than root each test says that it was skipped.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use signet_mtls::testing::Ca;
use signet_proxy::config::{InboundMode, TransparentConfig};
use signet_proxy::inbound::Intercepted;
use signet_proxy::intercept;
use signet_proxy::outbound::Outbound;
use signet_proxy::redirect::{Backend, Inbound, Rules, apply};
use signet_proxy::snapshot::{InboundService, OutboundService, Protocol, Snapshot};

use crate::apps;
use crate::harness::{HOST, LEDGER, POLICY, SERVICE, Side, TD, bundle, header, status, wait};

pub const WORKLOAD: [&str; 2] = ["10.78.0.1", "fd78::1"];
const STRANGER: [&str; 2] = ["10.78.0.2", "fd78::2"];
const CLUSTER_IP: [&str; 2] = ["10.96.0.7", "fd96::7"];
/// Not the sidecars' user, which here is root.
const APP: &str = "4711";

/// Two namespaces on one wire, removed when dropped.
pub struct Wire {
    pub a: String,
    pub b: String,
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Wire {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let wire = Self { a: format!("sgpair-{id}-a"), b: format!("sgpair-{id}-b") };
        for name in [&wire.a, &wire.b] {
            run(&["ip", "netns", "add", name]);
            run(&["ip", "-n", name, "link", "set", "lo", "up"]);
        }
        run(&["ip", "-n", &wire.a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &wire.b]);
        for (name, addresses) in [(&wire.a, WORKLOAD), (&wire.b, STRANGER)] {
            run(&["ip", "-n", name, "addr", "add", &format!("{}/24", addresses[0]), "dev", "eth0"]);
            run(&["ip", "-n", name, "addr", "add", &format!("{}/64", addresses[1]), "dev", "eth0", "nodad"]);
            run(&["ip", "-n", name, "link", "set", "eth0", "up"]);
        }
        // Services' addresses are nobody's; connections to them have to have somewhere to go, as on any host.
        run(&["ip", "-n", &wire.a, "route", "add", "default", "via", STRANGER[0]]);
        run(&["ip", "-n", &wire.a, "-6", "route", "add", "default", "via", STRANGER[1]]);
        wire
    }

    /// Runs `work` on a runtime whose threads live in the workload's namespace.
    pub fn inside<F: Future<Output = ()>>(&self, work: impl FnOnce() -> F + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let space = std::fs::File::open(format!("/run/netns/{}", self.a)).unwrap();
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                runtime.block_on(work());
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// curl's head and body, as a user of `namespace`; what it complains of when there is none.
async fn curl(namespace: &str, url: &str) -> String {
    curl_with(namespace, &["-H", &format!("host: {HOST}"), url]).await
}

pub async fn curl_with(namespace: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("ip");
    let user = [format!("--reuid={APP}"), format!("--regid={APP}")];
    command.args(["netns", "exec", namespace, "setpriv", &user[0], &user[1], "--clear-groups", "--"]);
    command.args(["curl", "-sS", "-i", "-m", "10"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&said).into_owned()
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

pub fn rules(inbound: Inbound) -> Rules {
    Rules {
        proxy_uids: [0].into(),
        outbound_port: intercept::OUTBOUND_PORT,
        inbound_port: intercept::INBOUND_PORT,
        inbound,
        exclude_outbound_ports: [].into(),
        exclude_outbound: [].into(),
        exclude_inbound_ports: [].into(),
        exclude_inbound: [].into(),
        resolvers: [].into(),
        drop_datagrams: true,
    }
}

/// A call by the service's address, and one that arrives from elsewhere, by one family.
async fn calls(wire: &Wire, mode: InboundMode, family: usize) {
    let inbound = if mode == InboundMode::Tproxy { Inbound::Tproxy } else { Inbound::Redirect };
    apply::init(&rules(inbound), Backend::Nft, false).unwrap();
    let (app, reached) = apps::http().await;
    let ca = Ca::new(TD);
    let (web, ledger) = (Side::new(&[&ca], "web").await, Side::new(&[&ca], "ledger").await);
    let workload: IpAddr = WORKLOAD[family].parse().unwrap();
    let snapshot = Arc::new(Snapshot {
        bundle: Some(bundle(POLICY, 'a')),
        version: 1,
        inbound: vec![Arc::new(InboundService {
            service: Arc::from(SERVICE),
            port: 80,
            target_port: app.port(),
            protocol: Protocol::Http,
            permissive: true,
            rate_limits: Vec::new(),
        })],
        outbound: vec![Arc::new(OutboundService {
            service: Arc::from(SERVICE),
            hosts: Vec::new(),
            port: 80,
            protocol: Protocol::Http,
            spiffe_ids: vec![LEDGER.parse().unwrap()],
            endpoints: vec![SocketAddr::new(workload, app.port())],
            gateway: None,
            routes: None,
            traffic: None,
            failover: Vec::new(),
            addresses: vec![CLUSTER_IP[family].parse().unwrap()],
        })],
        ..Snapshot::empty(TD.parse().unwrap())
    });
    let config = TransparentConfig { inbound_mode: mode, ..serde_json::from_value(serde_json::json!({})).unwrap() };
    let listeners = intercept::bind(&config).unwrap();
    assert_eq!((listeners.outbound.len(), listeners.inbound.len()), (2, 2), "both families");
    let outbound = Outbound::new(
        web.source.clone(),
        Arc::clone(&web.enforcer),
        web.refusals.clone(),
        Arc::clone(&web.metrics),
        web.stop.clone(),
    );
    let intercepted = Intercepted::new(
        config.app_host,
        ledger.source.clone(),
        Arc::clone(&ledger.enforcer),
        ledger.refusals.clone(),
        Arc::clone(&ledger.metrics),
        ledger.stop.clone(),
    );
    for side in [&web, &ledger] {
        side.enforcer.take_snapshot(&snapshot);
    }
    outbound.apply(&snapshot);
    intercepted.apply(&snapshot);
    for listener in listeners.outbound {
        tokio::spawn(Arc::clone(&outbound).run_intercepted(listener));
    }
    for listener in listeners.inbound {
        tokio::spawn(Arc::clone(&intercepted).run(listener));
    }
    let shown = |ip: &str| if family == 0 { ip.to_owned() } else { format!("[{ip}]") };

    let answer = curl(&wire.a, &format!("http://{}/accounts/1", shown(CLUSTER_IP[family]))).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let record = ledger.audit.record("the call", |r| r.allow && r.action == "http:GET").await;
    assert_eq!(record.source_spiffe_id.as_deref(), Some(crate::harness::WEB));

    // From another host, in plaintext: nobody, decided and denied, with the address that it really has.
    let count = reached.count();
    let answer = curl(&wire.b, &format!("http://{}:{}/accounts/1", shown(WORKLOAD[family]), app.port())).await;
    assert_eq!(status(&answer), 403, "{answer}");
    let record = ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
    let source = record.source_address.unwrap_or_default();
    assert!(source.contains(STRANGER[family]), "the caller's own address: `{source}`");
    assert_eq!(reached.count(), count);

    // A port that is no service's, and the listener itself.
    for port in [9, intercept::INBOUND_PORT] {
        let answer = curl(&wire.b, &format!("http://{}:{port}/", shown(WORKLOAD[family]))).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "port {port}: {answer}");
    }
    wait("refusals", || {
        (ledger.metrics.refusals("not_redirected") + ledger.metrics.refusals("not_tls") >= 2).then_some(())
    })
    .await;
    // Nobody's address.
    let answer = curl(&wire.a, &format!("http://{}/", shown(["10.96.0.99", "fd96::99"][family]))).await;
    assert_eq!(status(&answer), 403, "{answer}");
    let record = web.audit.decision(header(&answer, "x-signet-decision").unwrap()).await;
    assert_eq!(record.reason, "unknown_service");
}

fn by(mode: InboundMode, family: usize) {
    if !is_root() {
        return;
    }
    let wire = Wire::new();
    wire.inside(|| calls(&wire, mode, family));
}

#[test]
fn redirected_connections_find_service_and_port_by_ipv4() {
    by(InboundMode::Redirect, 0);
}

#[test]
fn redirected_connections_find_service_and_port_by_ipv6() {
    by(InboundMode::Redirect, 1);
}

#[test]
fn tproxy_hands_connections_over_with_their_addresses_by_ipv4() {
    by(InboundMode::Tproxy, 0);
}

#[test]
fn tproxy_hands_connections_over_with_their_addresses_by_ipv6() {
    by(InboundMode::Tproxy, 1);
}
