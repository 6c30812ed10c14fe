//! What a linked control plane is told.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Instant;

use super::*;
use crate::model::{Admission, Desired, Port, Protocol, Service, ServiceName};

fn service(name: &str, exported: bool) -> (ServiceName, Service) {
    let name = ServiceName { namespace: "bank".into(), name: name.into() };
    let port = Port {
        port: 80,
        protocol: Protocol::Http,
        target_ports: [20000].into(),
        endpoints: ["127.0.0.1:20000".parse().unwrap()].into(),
    };
    let service = Service {
        service_accounts: vec![name.name.clone()],
        name: name.clone(),
        admission: Admission::Strict,
        exported,
        addresses: Vec::new(),
        ports: vec![port],
    };
    (name, service)
}

#[test]
fn only_exported_services_are_told_and_never_their_endpoints() {
    let services = [service("fraud", true), service("reporting", false)].into();
    let mut world = World {
        version: 1,
        made_at: Instant::now(),
        trust_domain: "west.example".parse().unwrap(),
        desired: Some(Arc::new(Desired { services, ..Desired::default() })),
        policy: None,
        imports: Arc::default(),
        break_glass: Arc::default(),
    };
    let state = exports(&world, 60).unwrap();
    assert_eq!((state.trust_domain.as_str(), state.lease_seconds), ("west.example", 60));
    assert_eq!(state.services.len(), 1);
    assert_eq!(state.services[0].name, "fraud");
    assert_eq!(state.services[0].spiffe_ids, ["spiffe://west.example/ns/bank/sa/fraud"]);
    world.desired = None;
    assert_eq!(exports(&world, 60), None, "an unread directory is not an empty list");
}
