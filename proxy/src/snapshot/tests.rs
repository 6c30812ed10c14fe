//! Snapshots that are taken, and those that are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
use super::*;

fn policy(id: &str) -> wire::PolicyBundle {
    let text = format!("@id(\"{id}\")\npermit(principal, action, resource);\n");
    let files =
        BTreeMap::from([("signet.yaml".to_owned(), "version: 1\n".to_owned()), ("policies/a.cedar".to_owned(), text)]);
    let source = BundleSource { commit: "a".repeat(40), signer: "alice@bank.example".to_owned(), files };
    wire::PolicyBundle {
        commit: source.commit.clone(),
        digest: source.digest(),
        signer: source.signer.clone(),
        files: source.files.into_iter().map(|(path, content)| wire::File { path, content }).collect(),
        ..wire::PolicyBundle::default()
    }
}

fn grant(id: &str, approvers: &[&str], until: i64) -> wire::BreakGlass {
    wire::BreakGlass {
        id: id.to_owned(),
        principals: vec!["spiffe://east.bank.example/ns/bank/sa/web".to_owned()],
        services: vec!["east.bank.example/bank/ledger".to_owned()],
        ticket: "INC-1".to_owned(),
        approvers: approvers.iter().map(|who| (*who).to_owned()).collect(),
        until,
    }
}

fn good(version: u64) -> wire::Snapshot {
    wire::Snapshot {
        version,
        trust_domain: "east.bank.example".to_owned(),
        policy: Some(policy("a")),
        inbound: vec![wire::InboundService {
            service: "east.bank.example/bank/ledger".to_owned(),
            port: 80,
            target_port: 8443,
            protocol: "http".to_owned(),
            permissive: false,
            rate_limits: Vec::new(),
        }],
        outbound: vec![wire::OutboundService {
            service: "east.bank.example/bank/ledger".to_owned(),
            hosts: vec!["Ledger".to_owned()],
            port: 80,
            protocol: "http".to_owned(),
            spiffe_ids: vec!["spiffe://east.bank.example/ns/bank/sa/ledger".to_owned()],
            endpoints: vec![wire::Endpoint { address: "127.0.0.1:8443".to_owned() }],
            gateway: None,
            addresses: vec!["10.96.0.7".to_owned()],
            routes: None,
            traffic: None,
            failover: Vec::new(),
        }],
        exported: Vec::new(),
        external: Vec::new(),
        break_glass: vec![grant("g1", &["alice@bank.example"], 100)],
    }
}

/// One tier of one cluster.
fn tier(service: &str, weight: u32) -> Vec<wire::Tier> {
    vec![wire::Tier { shares: vec![wire::Share { service: service.to_owned(), weight }] }]
}

#[test]
fn refuses_bad_fields_and_names_them() {
    type Break = fn(&mut wire::Snapshot);
    let cases: &[(Break, &str)] = &[
        (|s| s.trust_domain = "East!".to_owned(), "trust_domain"),
        (|s| s.inbound[0].service = "ledger".to_owned(), "inbound[0].service"),
        (|s| s.inbound[0].port = 70_000, "inbound[0].port"),
        (|s| s.inbound[0].protocol = "smtp".to_owned(), "inbound[0].protocol"),
        (|s| s.outbound[0].endpoints[0].address = "ledger:80".to_owned(), "outbound[0].endpoints[0].address"),
        (|s| s.outbound[0].addresses[0] = "10.96.0.7:80".to_owned(), "outbound[0].addresses[0]"),
        (|s| s.outbound[0].spiffe_ids[0] = "https://x".to_owned(), "outbound[0].spiffe_ids[0]"),
        (|s| s.outbound[0].failover = tier("east.bank.example/bank/ledger", 0), "outbound[0].failover"),
        (|s| s.outbound[0].failover = tier("ledger", 1), "outbound[0].failover.service"),
        (|s| s.outbound[0].failover = tier("west.bank.example/bank/ledger", 1), "outbound[0].failover"),
        (
            |s| {
                let mut other = s.outbound[0].clone();
                (other.service, other.protocol) = ("west.bank.example/bank/ledger".to_owned(), "grpc".to_owned());
                s.outbound.push(other);
                s.outbound[0].failover = tier("west.bank.example/bank/ledger", 1);
            },
            "outbound[0].failover",
        ),
        (|s| s.break_glass[0].principals[0] = "web".to_owned(), "break_glass[0].principals[0]"),
        (|s| s.break_glass[0].services.clear(), "break_glass[0].principals"),
        (|s| s.break_glass[0].ticket.clear(), "break_glass[0].ticket"),
        (|s| s.break_glass[0].until = i64::MAX, "break_glass[0].until"),
        (|s| s.policy.as_mut().unwrap().digest = "sha256:00".to_owned(), "policy"),
        (|s| s.policy.as_mut().unwrap().files[0].content = "permit(".to_owned(), "policy"),
        (
            |s| {
                let mut other = s.inbound[0].clone();
                other.protocol = "tcp".to_owned();
                s.inbound.push(other);
            },
            "inbound[1].protocol",
        ),
    ];
    for (change, field) in cases {
        let mut snapshot = good(1);
        change(&mut snapshot);
        let error = Snapshot::from_wire(&snapshot, None).expect_err(field).to_string();
        assert!(error.starts_with(field), "{error}");
    }
    let snapshot = Snapshot::from_wire(&good(1), None).unwrap();
    assert_eq!(snapshot.outbound[0].hosts[0].as_ref(), "ledger");
}

#[test]
fn a_grant_covers_its_callers_and_services_until_its_end() {
    let mut wire = good(1);
    wire.break_glass = vec![
        grant("one-signer", &["alice@bank.example"], 900),
        grant("two-signers", &["alice@bank.example", "bob@bank.example"], 100),
        grant("two-signers-later", &["alice@bank.example", "bob@bank.example"], 200),
    ];
    let snapshot = Snapshot::from_wire(&wire, None).unwrap();
    let [web, app]: [SpiffeId; 2] =
        ["web", "app"].map(|sa| format!("spiffe://east.bank.example/ns/bank/sa/{sa}").parse().unwrap());
    let covering = |principal: &SpiffeId, service: &str, now_us| {
        snapshot.break_glass.iter().find(|g| g.covers(principal, service, now_us)).map(|g| g.id.to_string())
    };
    const LEDGER: &str = "east.bank.example/bank/ledger";
    for (principal, service, now_us, grant) in [
        (&web, LEDGER, 0, Some("two-signers-later")),
        (&web, LEDGER, 199_999_999, Some("two-signers-later")),
        (&web, LEDGER, 200_000_000, Some("one-signer")),
        (&web, LEDGER, 900_000_000, None),
        (&app, LEDGER, 0, None),
        (&web, "east.bank.example/bank/payments", 0, None),
    ] {
        assert_eq!(covering(principal, service, now_us).as_deref(), grant, "{principal} {service} {now_us}");
    }
}

#[test]
fn a_bundle_without_files_is_the_held_one_or_an_error() {
    let held = Snapshot::from_wire(&good(1), None).unwrap().bundle.unwrap();
    let mut next = good(2);
    next.policy.as_mut().unwrap().files.clear();
    assert!(Snapshot::from_wire(&next, None).is_err());
    assert!(Arc::ptr_eq(&Snapshot::from_wire(&next, Some(&held)).unwrap().bundle.unwrap(), &held));
}

#[test]
fn a_slice_names_the_whole_bundle_and_is_refused_when_its_files_are_others() {
    let mut sliced = good(1);
    let policy = sliced.policy.as_mut().unwrap();
    // The files hash to what `digest` said until now; the bundle that they are a slice of has another.
    policy.slice = std::mem::replace(&mut policy.digest, "sha256:whole".to_owned());
    let held = Snapshot::from_wire(&sliced, None).unwrap().bundle.unwrap();
    let slice = sliced.policy.as_ref().unwrap().slice.clone();
    assert_eq!((held.digest(), held.slice_digest()), ("sha256:whole", Some(slice.as_str())));

    let mut next = sliced.clone();
    next.policy.as_mut().unwrap().files.clear();
    assert!(Arc::ptr_eq(&Snapshot::from_wire(&next, Some(&held)).unwrap().bundle.unwrap(), &held));
    next.policy.as_mut().unwrap().slice = "sha256:other".to_owned();
    assert!(Snapshot::from_wire(&next, Some(&held)).is_err(), "another slice is not the held one");
    sliced.policy.as_mut().unwrap().slice = "sha256:other".to_owned();
    assert!(Snapshot::from_wire(&sliced, None).is_err(), "files that are not the slice's");
}

fn discovery(dir: &std::path::Path) -> (Discovery, tokio::sync::watch::Receiver<Arc<Snapshot>>) {
    Discovery::open(DiscoveryConfig {
        kind: ProxyKind::Sidecar,
        trust_domain: "east.bank.example".parse().unwrap(),
        state_dir: dir.to_owned(),
    })
    .unwrap()
}

#[tokio::test]
async fn a_refused_snapshot_leaves_the_last_good_one_in_force_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (mut client, snapshots) = discovery(dir.path());
    assert_eq!(snapshots.borrow().version, 0);
    client.take(good(7)).await.unwrap();
    let mut bad = good(8);
    bad.inbound[0].protocol = "smtp".to_owned();
    assert!(client.take(bad).await.is_err());
    let mut foreign = good(9);
    foreign.trust_domain = "west.bank.example".to_owned();
    assert!(client.take(foreign).await.is_err());
    assert_eq!(snapshots.borrow().version, 7);
    // A restart without a control plane.
    let (_, again) = discovery(dir.path());
    assert_eq!(again.borrow().version, 7);
    assert!(again.borrow().bundle.is_some());
}

#[tokio::test]
async fn what_is_on_disk_is_whole_even_when_the_wire_left_the_policy_out() {
    let dir = tempfile::tempdir().unwrap();
    let (mut client, _snapshots) = discovery(dir.path());
    client.take(good(1)).await.unwrap();
    let mut next = good(2);
    next.policy.as_mut().unwrap().files.clear();
    client.take(next).await.unwrap();
    let mut silent = good(3);
    silent.policy = None;
    client.take(silent).await.unwrap();
    let (_, again) = discovery(dir.path());
    assert_eq!(again.borrow().version, 3);
    assert!(again.borrow().bundle.is_some());
}

#[test]
fn a_damaged_file_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("snapshot.pb"), b"SGNSNAP1\xff\xff\xff").unwrap();
    let (_, snapshots) = discovery(dir.path());
    assert_eq!(snapshots.borrow().version, 0);
}
