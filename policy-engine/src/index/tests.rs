//! The index against Cedar's own `Authorizer`, and each of its comparisons turned round to see that this notices.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::cell::Cell;
use std::collections::BTreeSet;

use cedar_policy::{Authorizer, Context, Entities, Policy, PolicyId, PolicySet, Request};

use super::*;
use crate::bundle::Bundle;
use crate::entities;
use crate::request::{ACTIONS, Principal};
use crate::source::BundleSource;

thread_local! {
    static TURNED: Cell<Option<Comparison>> = const { Cell::new(None) };
}

pub(super) fn seen(comparison: Comparison, said: bool) -> bool {
    said != (TURNED.get() == Some(comparison))
}

const ALL: [Comparison; 8] = [
    Comparison::Same,
    Comparison::Above,
    Comparison::Kind,
    Comparison::SameAction,
    Comparison::ActionAbove,
    Comparison::ExactAction,
    Comparison::Unscoped,
    Comparison::Ancestors,
];

const SETTINGS: &str = "version: 1
teams: {red: {workloads: [a.b/n/x]}}
services: {a.b/n/s: {teams: [red]}, a.b/n/r: {routes: ['GET /p']}}
";
const PRINCIPALS: [&str; 4] =
    ["spiffe://a.b/ns/n/sa/x", "spiffe://a.b/ns/m/sa/y", "spiffe://c.d/ns/n/sa/x", "spiffe://a.b/signet/gateway"];

/// One policy for each combination of scopes.
fn texts() -> Vec<String> {
    let principals = [
        "principal",
        "principal is Mesh::Workload",
        "principal is Mesh::Unauthenticated",
        "principal == Mesh::Workload::\"spiffe://a.b/ns/n/sa/x\"",
        "principal in Mesh::Namespace::\"a.b/n\"",
        "principal in Mesh::Workload::\"spiffe://a.b/signet/gateway\"",
        "principal is Mesh::Workload in Mesh::Team::\"red\"",
    ];
    let actions = [
        "action",
        "action == Mesh::Action::\"read\"",
        "action == Mesh::Action::\"http:GET\"",
        "action in [Mesh::Action::\"read\", Mesh::Action::\"tcp:connect\"]",
    ];
    let resources = [
        "resource",
        "resource is Mesh::Service",
        "resource == Mesh::Service::\"a.b/n/r\"",
        "resource in Mesh::Service::\"a.b/n/r\"",
        "resource in Mesh::TrustDomain::\"a.b\"",
        "resource is Mesh::Route in Mesh::Namespace::\"a.b/n\"",
    ];
    let mut texts = Vec::new();
    for principal in principals {
        for action in actions {
            texts.extend(resources.map(|resource| format!("permit({principal}, {action}, {resource});")));
        }
    }
    texts
}

/// What Cedar has to know of a request's entities to test scopes.
fn world(principal: &Subject, action: &ActionNode, resource: &Subject) -> Vec<cedar_policy::Entity> {
    let nodes = [
        (&principal.uid, &principal.ancestors),
        (&resource.uid, &resource.ancestors),
        (&action.uid, &action.ancestors),
    ];
    let node = |(uid, above): (&EntityUid, &Vec<EntityUid>)| {
        cedar_policy::Entity::new_no_attrs(uid.clone(), above.iter().cloned().collect())
    };
    nodes.map(node).into()
}

/// Whether, for every request of this small world, the index finds the policies that Cedar finds by looking at all.
fn agrees(bundle: &Bundle, index: &Index, set: &PolicySet) -> bool {
    let resources = [
        entities::service(&bundle.settings, "a.b/n/s", None),
        entities::service(&bundle.settings, "a.b/n/r", None),
        entities::service(&bundle.settings, "a.b/n/r", Some("a.b/n/r#GET /p")),
        entities::service(&bundle.settings, "c.d/m/s", None),
    ];
    let principals = PRINCIPALS.map(Principal::Workload).into_iter().chain([Principal::Unauthenticated]);
    for principal in principals.map(|p| entities::principal(&bundle.teams, p).unwrap()) {
        for resource in resources.iter().flatten() {
            for (action, _) in bundle.actions.iter().zip(ACTIONS) {
                let world = Entities::from_entities(world(&principal, action, resource), None).unwrap();
                let (who, what) = (principal.uid.clone(), resource.uid.clone());
                let request = Request::new(who, action.uid.clone(), what, Context::empty(), None).unwrap();
                let response = Authorizer::new().is_authorized(&request, set, &world);
                let wanted: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
                let found = index.matching(&principal, action, resource);
                if found.iter().map(|n| format!("p{n}")).collect::<BTreeSet<_>>() != wanted {
                    return false;
                }
            }
        }
    }
    true
}

#[test]
fn finds_what_cedar_finds_and_each_turned_comparison_is_noticed() {
    let files = [("signet.yaml".to_owned(), SETTINGS.to_owned())].into();
    let bundle = Bundle::compile(&BundleSource { files, ..BundleSource::default() }).unwrap();
    let parse = |(n, text): (usize, String)| Policy::parse(Some(PolicyId::new(format!("p{n}"))), text).unwrap();
    let policies: Vec<Policy> = texts().into_iter().enumerate().map(parse).collect();
    let index = Index::new(&policies);
    let set = PolicySet::from_policies(policies).unwrap();
    assert!(agrees(&bundle, &index, &set), "unchanged, the index finds what Cedar finds");
    for comparison in ALL {
        TURNED.set(Some(comparison));
        let noticed = !agrees(&bundle, &index, &set);
        TURNED.set(None);
        assert!(noticed, "{comparison:?} can be turned round and nothing notices");
    }
}
