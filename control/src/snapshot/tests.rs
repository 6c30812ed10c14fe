//! What each proxy is told of a world.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Instant;

use signet_policy::BundleSource;

use super::*;
use crate::model::{
    ActivePolicy, Import, ImportedService, Imports, Limit, Part, Protocol, ServiceName, Target, TrafficPolicy,
};

fn service(name: &str, port: u16, protocol: Protocol) -> Service {
    let port = Port {
        port,
        protocol,
        target_ports: [20000 + port].into(),
        endpoints: [format!("127.0.0.1:{}", 20000 + port).parse().unwrap()].into(),
    };
    Service {
        name: ServiceName { namespace: "bank".into(), name: name.into() },
        service_accounts: vec![name.to_owned()],
        admission: Admission::Strict,
        exported: false,
        addresses: vec!["10.96.0.7".parse().unwrap()],
        ports: vec![port],
    }
}

fn imported(td: &str, name: &str) -> ImportedService {
    ImportedService {
        name: ServiceName { namespace: "bank".into(), name: name.into() },
        port: 80,
        protocol: Protocol::Http,
        spiffe_ids: vec![format!("spiffe://{td}/ns/bank/sa/{name}").parse().unwrap()],
    }
}

/// The demo's east: ledger (exported), payments, and a service of another namespace; fraud comes from west.
fn world() -> World {
    let mut ledger = service("ledger", 80, Protocol::Http);
    ledger.exported = true;
    let payments = service("payments", 5051, Protocol::Grpc);
    let mut vault = service("vault", 443, Protocol::Tcp);
    vault.name.namespace = "ops".into();
    vault.admission = Admission::Permissive;
    let services = [ledger, payments, vault].map(|service| (service.name.clone(), service)).into();
    let files = [("policies/a.cedar".to_owned(), "permit(..)".to_owned())].into();
    let source = BundleSource { commit: "c1".into(), signer: "alice".into(), files };
    let mut policy = ActivePolicy::new(source, 1);
    policy.strict = false; // These files do not compile, which counts as strict.
    let west = Import { gateway: "127.0.0.1:15443".into(), services: vec![imported("west.example", "fraud")] };
    World {
        version: 7,
        made_at: Instant::now(),
        trust_domain: "east.example".parse().unwrap(),
        desired: Some(Arc::new(Desired { services, ..Desired::default() })),
        policy: Some(Arc::new(policy)),
        imports: Arc::new(Imports::from([("west.example".parse().unwrap(), west)])),
        break_glass: Arc::default(),
    }
}

fn sidecar(namespace: &str, service_account: &str) -> Subject {
    Subject::Sidecar { namespace: namespace.into(), service_account: service_account.into() }
}

#[test]
fn inbound_is_what_the_service_account_serves_in_its_own_namespace() {
    let cases = [
        (sidecar("bank", "ledger"), vec!["east.example/bank/ledger:80->20080 http"]),
        (sidecar("bank", "payments"), vec!["east.example/bank/payments:5051->25051 grpc"]),
        (sidecar("ops", "vault"), vec!["east.example/ops/vault:443->20443 tcp permissive"]),
        (sidecar("bank", "web"), vec![]),
        (sidecar("ops", "ledger"), vec![]),
        (Subject::Gateway, vec![]),
    ];
    for (subject, expected) in cases {
        let snapshot = build(&world(), &subject).unwrap();
        let shown: Vec<String> = snapshot
            .inbound
            .iter()
            .map(|i| {
                let permissive = if i.permissive { " permissive" } else { "" };
                format!("{}:{}->{} {}{permissive}", i.service, i.port, i.target_port, i.protocol)
            })
            .collect();
        assert_eq!(shown, expected, "{subject:?}");
    }
}

#[test]
fn each_target_port_is_an_inbound_service() {
    let mut world = world();
    let mut desired = world.desired.as_deref().unwrap().clone();
    let ledger = desired.services.values_mut().find(|s| s.name.name == "ledger").unwrap();
    ledger.ports[0].target_ports = [1, 2].into();
    world.desired = Some(Arc::new(desired));
    let ports: Vec<u32> =
        build(&world, &sidecar("bank", "ledger")).unwrap().inbound.iter().map(|inbound| inbound.target_port).collect();
    assert_eq!(ports, [1, 2]);
}

#[test]
fn hosts_are_the_kubernetes_names_and_short_only_at_home() {
    let hosts = |namespace: &str, service: &str| {
        let snapshot = build(&world(), &sidecar(namespace, "web")).unwrap();
        let found = snapshot.outbound.into_iter().find(|o| o.service == service);
        let mut hosts = found.unwrap().hosts;
        hosts.sort();
        hosts
    };
    assert_eq!(
        hosts("bank", "east.example/bank/payments"),
        ["payments", "payments.bank", "payments.bank.svc", "payments.bank.svc.cluster.local"]
    );
    assert_eq!(
        hosts("ops", "east.example/bank/payments"),
        ["payments.bank", "payments.bank.svc", "payments.bank.svc.cluster.local"]
    );
    assert!(hosts("bank", "east.example/bank/ledger").contains(&"ledger.bank.svc.clusterset.local".to_owned()));
    assert_eq!(hosts("bank", "west.example/bank/fraud"), ["fraud.bank.svc.clusterset.local"]);
}

#[test]
fn an_imported_service_is_reached_through_its_own_clusters_gateway() {
    let snapshot = build(&world(), &sidecar("bank", "web")).unwrap();
    let fraud = snapshot.outbound.iter().find(|o| o.service == "west.example/bank/fraud").unwrap();
    assert_eq!(fraud.spiffe_ids, ["spiffe://west.example/ns/bank/sa/fraud"]);
    assert!(fraud.endpoints.is_empty());
    let gateway = fraud.gateway.as_ref().unwrap();
    assert_eq!(gateway.addresses, ["127.0.0.1:15443"]);
    assert_eq!(gateway.spiffe_id, "spiffe://west.example/signet/gateway");
    assert_eq!(gateway.authority, "fraud.bank.svc.clusterset.local:80");
}

#[test]
fn each_replica_of_a_gateway_is_an_address() {
    let mut world = world();
    let mut imports = Imports::clone(&world.imports);
    for import in imports.values_mut() {
        import.gateway = "a.west.example:15443,10.1.2.3:15443,[fd00::1]:15443".to_owned();
    }
    world.imports = Arc::new(imports);
    let snapshot = build(&world, &sidecar("bank", "web")).unwrap();
    let fraud = snapshot.outbound.iter().find(|o| o.service == "west.example/bank/fraud").unwrap();
    let addresses = &fraud.gateway.as_ref().unwrap().addresses;
    assert_eq!(addresses, &["a.west.example:15443", "10.1.2.3:15443", "[fd00::1]:15443"]);
}

#[test]
fn a_linked_cluster_cannot_take_over_a_name_that_is_served_already() {
    let mut world = world();
    let import = |td: &str, names: &[&str]| Import {
        gateway: format!("gateway.{td}:1"),
        services: names.iter().map(|name| imported(td, name)).collect(),
    };
    world.imports = Arc::new(Imports::from([
        ("north.example".parse().unwrap(), import("north.example", &["ledger", "fraud"])),
        ("west.example".parse().unwrap(), import("west.example", &["fraud", "reporting"])),
    ]));
    let snapshot = build(&world, &sidecar("bank", "web")).unwrap();
    let remote: Vec<&str> =
        snapshot.outbound.iter().filter(|o| o.gateway.is_some()).map(|o| o.service.as_str()).collect();
    assert_eq!(remote, ["north.example/bank/fraud", "west.example/bank/reporting"]);
}

/// `target` is to be served by these trust domains, tier by tier.
fn failover(target: Target, tiers: &[&[(&str, u32)]]) -> TrafficPolicy {
    let part = |(td, weight): &(&str, u32)| Part { trust_domain: td.parse().unwrap(), weight: *weight };
    TrafficPolicy {
        name: ServiceName { namespace: "bank".into(), name: "elsewhere".into() },
        targets: vec![(target, None)],
        traffic: signet_api::control::Traffic { policy: "TrafficPolicy/bank/elsewhere".into(), ..Default::default() },
        limits: Vec::new(),
        failover: tiers.iter().map(|tier| tier.iter().map(part).collect()).collect(),
    }
}

/// Of each service that an app can ask for and that fails over: its tiers, and then all services that there are.
fn tiers_and_services(policy: TrafficPolicy, imports: &[(&str, &[&str])]) -> (Vec<String>, Vec<String>) {
    let mut world = world();
    let mut desired = world.desired.as_deref().unwrap().clone();
    desired.traffic = vec![policy];
    world.desired = Some(Arc::new(desired));
    let import = |td: &str, names: &[&str]| Import {
        gateway: format!("gateway.{td}:1"),
        services: names.iter().map(|name| imported(td, name)).collect(),
    };
    world.imports =
        Arc::new(imports.iter().map(|(td, names)| (td.parse().unwrap(), import(td, names))).collect::<Imports>());
    let snapshot = build(&world, &sidecar("bank", "web")).unwrap();
    let shown = |service: &OutboundService| {
        let tier = |tier: &signet_api::control::Tier| {
            let shares: Vec<_> = tier.shares.iter().map(|s| format!("{} {}", s.service, s.weight)).collect();
            shares.join(", ")
        };
        let tiers: Vec<_> = service.failover.iter().map(tier).collect();
        format!("{}: {}", service.service, tiers.join(" | "))
    };
    let failing_over = snapshot.outbound.iter().filter(|service| !service.failover.is_empty()).map(shown).collect();
    let service = |s: &OutboundService| {
        let hosts = if s.hosts.is_empty() { " without hosts" } else { "" };
        s.gateway.is_some().then(|| format!("{}{hosts}", s.service))
    };
    (failing_over, snapshot.outbound.iter().filter_map(service).collect())
}

#[test]
fn a_local_service_fails_over_to_the_clusters_that_its_policy_names_and_to_no_others() {
    let ledger = || Target::Service(ServiceName { namespace: "bank".into(), name: "ledger".into() });
    let everywhere: &[(&str, &[&str])] =
        &[("north.example", &["ledger"]), ("south.example", &["ledger"]), ("west.example", &["ledger", "fraud"])];
    let policy = failover(ledger(), &[&[("west.example", 3), ("north.example", 1)], &[("gone.example", 1)]]);
    let (tiers, services) = tiers_and_services(policy, everywhere);
    assert_eq!(
        tiers,
        [
            "east.example/bank/ledger: east.example/bank/ledger 1 | west.example/bank/ledger 3, north.example/bank/ledger 1"
        ]
    );
    let without_hosts = ["north.example/bank/ledger without hosts", "west.example/bank/ledger without hosts"];
    assert_eq!(services, [without_hosts[0], without_hosts[1], "west.example/bank/fraud"]);
    // Side by side with the own cluster, which is then in no tier before.
    let policy = failover(ledger(), &[&[("east.example", 4), ("west.example", 1)]]);
    let (tiers, _) = tiers_and_services(policy, everywhere);
    assert_eq!(tiers, ["east.example/bank/ledger: east.example/bank/ledger 4, west.example/bank/ledger 1"]);
    // Nobody exports it now.
    let policy = failover(ledger(), &[&[("west.example", 1)]]);
    assert_eq!(tiers_and_services(policy, &[("west.example", &["fraud"])]).0, [""; 0]);
}

#[test]
fn an_imported_service_is_served_by_the_clusters_of_its_policy_in_their_order_and_by_no_others() {
    let fraud = || Target::Import(ServiceName { namespace: "bank".into(), name: "fraud".into() });
    let policy = || failover(fraud(), &[&[("west.example", 1)], &[("north.example", 1)]]);
    let everywhere: &[(&str, &[&str])] =
        &[("alien.example", &["fraud"]), ("north.example", &["fraud"]), ("west.example", &["fraud"])];
    let (tiers, services) = tiers_and_services(policy(), everywhere);
    assert_eq!(tiers, ["west.example/bank/fraud: west.example/bank/fraud 1 | north.example/bank/fraud 1"]);
    assert_eq!(services, ["west.example/bank/fraud", "north.example/bank/fraud without hosts"]);
    // The first one's lease has ended.
    let (tiers, services) = tiers_and_services(policy(), &everywhere[..2]);
    assert_eq!((tiers, services), (Vec::new(), vec!["north.example/bank/fraud".to_owned()]));
    let (_, services) = tiers_and_services(policy(), &everywhere[..1]);
    assert!(services.is_empty(), "who is not named may not serve the name: {services:?}");
}

#[test]
fn a_part_that_speaks_another_protocol_is_no_part() {
    let mut world = world();
    let mut desired = world.desired.as_deref().unwrap().clone();
    let ledger = Target::Service(ServiceName { namespace: "bank".into(), name: "ledger".into() });
    desired.traffic = vec![failover(ledger, &[&[("west.example", 1)]])];
    world.desired = Some(Arc::new(desired));
    let other = ImportedService { protocol: Protocol::Grpc, ..imported("west.example", "ledger") };
    let west = Import { gateway: "127.0.0.1:15443".into(), services: vec![other] };
    world.imports = Arc::new(Imports::from([("west.example".parse().unwrap(), west)]));
    let snapshot = build(&world, &sidecar("bank", "web")).unwrap();
    assert!(snapshot.outbound.iter().all(|service| service.failover.is_empty()));
}

#[test]
fn a_gateway_is_told_exported_services_and_nothing_else() {
    let snapshot = build(&world(), &Subject::Gateway).unwrap();
    assert!(snapshot.inbound.is_empty() && snapshot.outbound.is_empty());
    assert_eq!(snapshot.exported.len(), 1);
    let ledger = &snapshot.exported[0];
    assert_eq!(ledger.service, "east.example/bank/ledger");
    assert_eq!(ledger.authority, "ledger.bank.svc.clusterset.local:80");
    assert_eq!(ledger.spiffe_ids, ["spiffe://east.example/ns/bank/sa/ledger"]);
    assert_eq!(ledger.endpoints[0].address, "127.0.0.1:20080");
    assert!(build(&world(), &sidecar("bank", "ledger")).unwrap().exported.is_empty());
}

#[test]
fn nothing_is_sent_before_manifests_and_policy_are_known() {
    let without_policy = World { policy: None, ..world() };
    let without_manifests = World { desired: None, ..world() };
    assert_eq!(build(&without_policy, &Subject::Gateway), None);
    assert_eq!(build(&without_manifests, &Subject::Gateway), None);
}

#[test]
fn bundle_files_are_left_out_for_who_enforces_them_already() {
    let world = World { version: 9, ..world() };
    let digest = world.policy.as_ref().unwrap().digest.as_str();
    let snapshot = build(&world, &Subject::Gateway).unwrap();
    // Equal files of another commit are sent again: records name the commit.
    for (commit, digest, slice, files) in [
        ("", "", "", 1),
        ("c1", "sha256:other", "", 1),
        ("c0", digest, "", 1),
        ("c1", digest, "sha256:s", 1),
        ("c1", digest, "", 0),
    ] {
        let held = Held { commit: commit.into(), digest: digest.into(), slice: slice.into() };
        let sealed = seal(snapshot.clone(), &world, &Subject::Gateway, &held);
        assert_eq!(sealed.version, 9);
        let bundle = sealed.policy.unwrap();
        assert_eq!(bundle.files.len(), files, "{held:?}");
        assert_eq!((bundle.commit.as_str(), bundle.signer.as_str()), ("c1", "alice"));
    }
}

#[test]
fn a_change_elsewhere_gives_an_equal_snapshot() {
    let before = build(&world(), &Subject::Gateway);
    let mut world = world();
    world.version += 1;
    world.imports = Arc::default();
    assert_eq!(build(&world, &Subject::Gateway), before);
    assert_ne!(build(&world, &sidecar("bank", "web")), build(&self::world(), &sidecar("bank", "web")));
}

#[test]
fn a_manifest_cannot_weaken_the_bundles_strict_floor() {
    let mut world = world();
    let mut policy = world.policy.as_deref().unwrap().clone();
    policy.strict = true;
    world.policy = Some(Arc::new(policy));
    assert!(!build(&world, &sidecar("ops", "vault")).unwrap().inbound[0].permissive);
}

/// A policy of `target` at any port, with one limit for `web`.
fn governed(mut world: World, target: Target) -> World {
    let policy = TrafficPolicy {
        name: target.name().clone(),
        targets: vec![(target, None)],
        traffic: signet_api::control::Traffic { policy: "TrafficPolicy/bank/p".into(), ..Default::default() },
        limits: vec![Limit { clients: vec![("bank".into(), "web".into())], requests: 5, per_ms: 1000, burst: 2 }],
        failover: Vec::new(),
    };
    let mut desired = Desired::clone(world.desired.as_deref().unwrap());
    desired.traffic.push(policy);
    world.desired = Some(Arc::new(desired));
    world
}

fn named(name: &str) -> ServiceName {
    ServiceName { namespace: "bank".into(), name: name.into() }
}

#[test]
fn a_traffic_policy_goes_to_callers_and_its_limits_to_the_service_alone() {
    let world = governed(world(), Target::Service(named("ledger")));
    let web = build(&world, &sidecar("bank", "web")).unwrap();
    let with: Vec<_> = web.outbound.iter().filter(|s| s.traffic.is_some()).map(|s| s.service.as_str()).collect();
    assert_eq!(with, ["east.example/bank/ledger"]);
    let ledger = build(&world, &sidecar("bank", "ledger")).unwrap();
    let [limit] = &ledger.inbound[0].rate_limits[..] else { panic!("{:?}", ledger.inbound) };
    assert_eq!(limit.clients, ["spiffe://east.example/ns/bank/sa/web"]);
    assert_eq!((limit.requests, limit.per_ms, limit.burst), (5, 1000, 2));
    let payments = build(&world, &sidecar("bank", "payments")).unwrap();
    assert!(payments.inbound.iter().all(|service| service.rate_limits.is_empty()));
}

#[test]
fn a_policy_of_an_import_is_not_of_the_local_service_of_that_name() {
    let mut world = governed(world(), Target::Import(named("fraud")));
    let mut desired = Desired::clone(world.desired.as_deref().unwrap());
    desired.services.insert(named("fraud"), service("fraud", 80, Protocol::Http));
    world.desired = Some(Arc::new(desired));
    let web = build(&world, &sidecar("bank", "web")).unwrap();
    let with: Vec<_> = web.outbound.iter().filter(|s| s.traffic.is_some()).map(|s| s.service.as_str()).collect();
    assert_eq!(with, ["west.example/bank/fraud"]);
}

#[test]
fn a_large_bundle_is_sent_as_the_slice_that_its_receiver_needs() {
    let mut world = world();
    let policy = |n: usize| {
        let service = if n < 5 { "ledger" } else { "other" };
        format!(
            "@id(\"p{n}\") permit(principal == Mesh::Workload::\"spiffe://east.example/ns/bank/sa/w{n}\", action, resource in \
             Mesh::Service::\"east.example/bank/{service}\");\n"
        )
    };
    let forbid = "@id(\"all\") forbid(principal is Mesh::Unauthenticated, action, resource);\n";
    let files = [
        ("signet.yaml".to_owned(), "version: 1\n".to_owned()),
        ("policies/a.cedar".to_owned(), (0..200).map(policy).collect::<String>()),
        ("policies/b.cedar".to_owned(), forbid.to_owned()),
    ];
    let source = BundleSource { commit: "c2".into(), signer: "alice".into(), files: files.into() };
    world.policy = Some(Arc::new(ActivePolicy::new(source.clone(), 2)));
    let sent = |subject: &Subject| {
        let snapshot = build(&world, subject).unwrap();
        seal(snapshot, &world, subject, &Held::default()).policy.unwrap()
    };
    let (ledger, payments) = (sent(&sidecar("bank", "ledger")), sent(&sidecar("bank", "payments")));
    for (bundle, policies) in [(&ledger, 6), (&payments, 1), (&sent(&Subject::Gateway), 6)] {
        assert_eq!(bundle.digest, source.digest());
        let files = bundle.files.iter().map(|file| (file.path.clone(), file.content.clone())).collect();
        let slice = BundleSource { commit: String::new(), signer: String::new(), files };
        assert_eq!(slice.digest(), bundle.slice);
        let compiled = signet_policy::Bundle::compile_slice(&slice, &bundle.digest).unwrap();
        assert_eq!(compiled.policies().count(), policies);
    }
    assert_ne!(ledger.slice, payments.slice);
}
