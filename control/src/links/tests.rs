//! What becomes of links as federation and leases change.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

fn td(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn relationship(trust_domain: &str) -> Relationship {
    Relationship {
        trust_domain: trust_domain.into(),
        gateway: "127.0.0.1:15443".into(),
        control: "127.0.0.1:15012".into(),
        ..Relationship::default()
    }
}

fn linked() -> LinkTable {
    let mut table = LinkTable::default();
    let rejected = table.set_relationships(&td("east.example"), &[relationship("west.example")]);
    assert_eq!(rejected, Vec::<String>::new());
    table
}

fn fraud() -> ExportedService {
    ExportedService {
        namespace: "bank".into(),
        name: "fraud".into(),
        port: 80,
        protocol: "http".into(),
        spiffe_ids: vec!["spiffe://west.example/ns/bank/sa/fraud".into()],
    }
}

fn says(services: Vec<ExportedService>) -> ExportsState {
    ExportsState { trust_domain: "west.example".into(), services, lease_seconds: 15 }
}

#[test]
fn imports_last_until_their_lease_ends_and_no_longer() {
    let mut table = linked();
    assert!(table.accept(&td("west.example"), says(vec![fraud()]), 1000).unwrap().is_empty());
    table.disconnected(&td("west.example"), "gone".into());
    assert_eq!(table.expire(1014), []);
    assert_eq!(table.imports()[&td("west.example")].services.len(), 1);
    assert_eq!(table.expire(1015), [td("west.example")]);
    assert!(table.imports().is_empty());
    assert_eq!(table.linked(), [td("west.example")].into());
}

#[test]
fn a_peer_speaks_only_for_its_own_trust_domain() {
    type Spoil = fn(&mut ExportedService);
    let cases: [(&str, Spoil); 6] = [
        ("which is no workload", |s| s.spiffe_ids = vec!["spiffe://east.example/ns/bank/sa/fraud".into()]),
        ("which is no workload", |s| s.spiffe_ids = vec!["spiffe://west.example/signet/gateway".into()]),
        ("no SPIFFE ID", |s| s.spiffe_ids.clear()),
        ("not a service's name", |s| s.name = "fraud.evil".into()),
        ("on port", |s| s.port = 70_000),
        ("unknown protocol", |s| s.protocol = "smtp".into()),
    ];
    for (expected, spoil) in cases {
        let mut table = linked();
        let mut bad = fraud();
        spoil(&mut bad);
        let refused = table.accept(&td("west.example"), says(vec![bad, fraud()]), 1).unwrap();
        assert!(refused[0].contains(expected), "{refused:?} should contain {expected}");
        assert_eq!(table.imports()[&td("west.example")].services.len(), 1, "the good one stays");
    }
}

#[test]
fn a_message_in_anothers_name_or_of_a_stranger_changes_nothing() {
    let mut table = linked();
    table.accept(&td("west.example"), says(vec![fraud()]), 1).unwrap();
    let before = table.clone();
    let mut forged = says(Vec::new());
    forged.trust_domain = "north.example".into();
    assert!(table.accept(&td("west.example"), forged, 2).is_err());
    assert!(table.accept(&td("north.example"), says(Vec::new()), 2).is_err());
    assert_eq!(table, before);
}

#[test]
fn a_link_that_ends_takes_its_services_along() {
    let mut table = linked();
    table.accept(&td("west.example"), says(vec![fraud()]), 1).unwrap();
    table.set_relationships(&td("east.example"), &[]);
    assert!(table.imports().is_empty());
    assert!(table.linked().is_empty());
}

#[test]
fn our_own_trust_domain_and_half_a_relationship_are_not_links() {
    let mut half = relationship("north.example");
    half.gateway.clear();
    let mut table = LinkTable::default();
    let all = [relationship("east.example"), half, relationship("No Such")];
    assert_eq!(table.set_relationships(&td("east.example"), &all).len(), 3);
    assert!(table.linked().is_empty());
}

#[test]
fn a_table_read_from_disk_still_knows_its_imports() {
    let mut table = linked();
    table.accept(&td("west.example"), says(vec![fraud()]), 1).unwrap();
    let text = serde_json::to_string(&table).unwrap();
    let read: LinkTable = serde_json::from_str(&text).unwrap();
    assert_eq!(read.imports(), table.imports());
}
