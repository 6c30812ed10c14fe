//! Policies that another one covers: taken away, they would be missed by no request.
//!
//! A policy is covered when another of the same effect, which is enforced, asks for no more in any place: a scope that holds
//! wherever the covered one's does, and no condition or the same. What only a proof could see (conditions that imply each
//! other) is left to `signet policy diff`.

use std::collections::{BTreeSet, HashMap};

use cedar_policy_core::ast::{self, ActionConstraint, EntityReference, EntityUID, Expr, PrincipalOrResourceConstraint};
use signet_policy::{Bundle, PolicyInfo, Problem, Settings, split_id, split_spiffe_id};

use super::Files;
use super::names::kind;

/// What the groups of actions hold (`mesh.cedarschema`).
pub(super) const GROUPS: [(&str, &[&str]); 2] = [
    ("read", &["http:GET", "http:HEAD", "http:OPTIONS"]),
    ("write", &["http:POST", "http:PUT", "http:PATCH", "http:DELETE", "http:OTHER"]),
];

struct Scope<'b> {
    policy: PolicyInfo<'b>,
    principal: &'b PrincipalOrResourceConstraint,
    resource: &'b PrincipalOrResourceConstraint,
    /// `None` is every action.
    actions: Option<BTreeSet<String>>,
    condition: Option<&'b Expr>,
}

pub(super) fn lint(files: &Files<'_>, bundle: &Bundle) -> Vec<Problem> {
    let settings = bundle.settings();
    let scopes: Vec<Scope<'_>> = bundle.policies().map(scope).collect();
    // By effect and by what the scope says, so that each policy is compared with few others.
    let mut by_scope: HashMap<(bool, String, String), Vec<usize>> = HashMap::new();
    for (position, scope) in scopes.iter().enumerate().filter(|(_, scope)| !scope.policy.is_shadow()) {
        let key = (scope.policy.is_forbid(), said(scope.principal), said(scope.resource));
        by_scope.entry(key).or_default().push(position);
    }
    let mut found = Vec::new();
    for (position, scope) in scopes.iter().enumerate().filter(|(_, scope)| !scope.policy.is_shadow()) {
        let resources = wider(settings, scope.resource);
        let covering = wider(settings, scope.principal).iter().find_map(|principal| {
            resources.iter().find_map(|resource| {
                let key = (scope.policy.is_forbid(), principal.clone(), resource.clone());
                let others = by_scope.get(&key)?.iter().filter(|other| **other != position);
                let mut covering = others.filter_map(|other| Some((*other, scopes.get(*other)?)));
                // Of two that say the same the later one is superfluous.
                let same = said(scope.principal) == *principal && said(scope.resource) == *resource;
                covering.find(|(at, other)| covers(other, scope) && (*at < position || !same || !covers(scope, other)))
            })
        });
        if let Some((_, other)) = covering {
            let (id, by) = (scope.policy.id(), &other.policy);
            let message = format!("`{id}` changes nothing: `{}` ({}:{}) covers it", by.id(), by.path(), by.line());
            let help = "take it away, or narrow the other one";
            found.push(Problem::warning("shadowed", &files.place(&scope.policy, None), message).help(help));
        }
    }
    found
}

fn scope(policy: PolicyInfo<'_>) -> Scope<'_> {
    let core: &ast::Policy = policy.cedar().as_ref();
    let template = core.template();
    let names = |uids: &[std::sync::Arc<EntityUID>]| -> BTreeSet<String> {
        let id = |uid: &EntityUID| -> Vec<String> {
            let id: &str = uid.eid().as_ref();
            let group = GROUPS.iter().find(|(name, _)| *name == id);
            group.map_or_else(|| vec![id.to_owned()], |(_, members)| members.iter().map(ToString::to_string).collect())
        };
        uids.iter().flat_map(|uid| id(uid)).collect()
    };
    let actions = match template.action_constraint() {
        // `action == Mesh::Action::"read"` is true of no request: a group is no action.
        ActionConstraint::Eq(uid) => {
            let id: &str = uid.eid().as_ref();
            Some(BTreeSet::from([id.to_owned()]))
        }
        ActionConstraint::In(uids) => Some(names(uids)),
        _ => None,
    };
    Scope {
        policy,
        principal: template.principal_constraint().as_inner(),
        resource: template.resource_constraint().as_inner(),
        actions,
        condition: core.non_scope_constraints(),
    }
}

/// Whether `wide` holds wherever `narrow` does, their principals and resources aside.
fn covers(wide: &Scope<'_>, narrow: &Scope<'_>) -> bool {
    let actions = match (&wide.actions, &narrow.actions) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.is_subset(wide),
    };
    let condition = match (wide.condition, narrow.condition) {
        // A forbid that fails to evaluate denies, but only where its scope holds.
        (None, _) => true,
        (Some(wide), Some(narrow)) => wide.eq_shape(narrow),
        (Some(_), None) => false,
    };
    actions && condition
}

fn entity(reference: &EntityReference) -> Option<&EntityUID> {
    match reference {
        EntityReference::EUID(uid) => Some(uid),
        EntityReference::Slot(_) => None,
    }
}

/// A constraint as text.
fn said(constraint: &PrincipalOrResourceConstraint) -> String {
    let uid = |reference| entity(reference).map(ToString::to_string).unwrap_or_default();
    match constraint {
        PrincipalOrResourceConstraint::Any => "any".to_owned(),
        PrincipalOrResourceConstraint::Eq(reference) => format!("== {}", uid(reference)),
        PrincipalOrResourceConstraint::In(reference) => format!("in {}", uid(reference)),
        PrincipalOrResourceConstraint::Is(kind) => format!("is {kind}"),
        PrincipalOrResourceConstraint::IsIn(kind, reference) => format!("is {kind} in {}", uid(reference)),
    }
}

/// The constraint itself and those that hold wherever it does, as text.
fn wider(settings: &Settings, constraint: &PrincipalOrResourceConstraint) -> Vec<String> {
    let mut found = vec!["any".to_owned()];
    let mut below = |uid: &EntityUID, kind: Option<String>| {
        for ancestor in ancestors(settings, uid) {
            found.push(format!("in {ancestor}"));
            found.extend(kind.as_ref().map(|kind| format!("is {kind} in {ancestor}")));
        }
        found.extend(kind.map(|kind| format!("is {kind}")));
    };
    match constraint {
        PrincipalOrResourceConstraint::Any => {}
        PrincipalOrResourceConstraint::Is(kind) => found.push(format!("is {kind}")),
        PrincipalOrResourceConstraint::Eq(reference) => {
            if let Some(uid) = entity(reference) {
                below(uid, Some(uid.entity_type().to_string()));
                found.push(format!("== {uid}"));
            }
        }
        PrincipalOrResourceConstraint::In(reference) => entity(reference).into_iter().for_each(|uid| below(uid, None)),
        PrincipalOrResourceConstraint::IsIn(kind, reference) => {
            entity(reference).into_iter().for_each(|uid| below(uid, Some(kind.to_string())));
        }
    }
    found
}

/// An entity and all that it is in, as Cedar writes them.
fn ancestors(settings: &Settings, uid: &EntityUID) -> Vec<String> {
    let id: &str = uid.eid().as_ref();
    let mut found = vec![uid.to_string()];
    let mut add = |kind: &str, id: &str| found.push(format!("Mesh::{kind}::\"{id}\""));
    let mut place = |td: &str, ns: Option<&str>| {
        if let Some(ns) = ns {
            add("Namespace", &format!("{td}/{ns}"));
        }
        add("Cluster", td);
        add("TrustDomain", td);
    };
    let service = |id: &str| settings.services.get(id).map(|facts| facts.teams.clone()).unwrap_or_default();
    match kind(uid).as_str() {
        "Workload" => {
            let account = split_spiffe_id(id).and_then(|(td, account)| account.map(|(ns, sa)| (td, ns, sa)));
            if let Some((td, ns, sa)) = account {
                place(td, Some(ns));
                add("ServiceAccount", &format!("{td}/{ns}/{sa}"));
            }
            let named = account.map(|(td, ns, sa)| format!("{td}/{ns}/{sa}"));
            let is_member = |member: &String| *member == id || Some(member) == named.as_ref();
            for (team, _) in settings.teams.iter().filter(|(_, team)| team.workloads.iter().any(is_member)) {
                add("Team", team);
            }
        }
        "ServiceAccount" => split_id(id).into_iter().for_each(|(td, ns, _)| place(td, Some(ns))),
        "Namespace" => id.split_once('/').into_iter().for_each(|(td, _)| place(td, None)),
        "Cluster" => add("TrustDomain", id),
        "Service" => {
            split_id(id).into_iter().for_each(|(td, ns, _)| place(td, Some(ns)));
            service(id).iter().for_each(|team| add("Team", team));
        }
        "Route" => {
            let owner = id.split_once('#').map_or("", |(owner, _)| owner);
            split_id(owner).into_iter().for_each(|(td, ns, _)| place(td, Some(ns)));
            add("Service", owner);
            service(owner).iter().for_each(|team| add("Team", team));
        }
        "ExternalService" => {
            let teams = settings.external_services.get(id).map(|facts| facts.teams.clone()).unwrap_or_default();
            teams.iter().for_each(|team| add("Team", team));
        }
        _ => {}
    }
    found
}
