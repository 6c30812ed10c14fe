//! Which requests there are: the request types of the schema, each taken apart into regions in which both sides ask their
//! policies about a resource of one kind.
//!
//! Services whose routes differ between the sides are looked at one by one and route by route, because there the same
//! request has another resource on each side. Everything else stays symbolic: one question for all of them.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Schema;
use signet_policy::{Bundle, schema_text};

use crate::symbolic::{Caller, Target};
use crate::template::{Call, Template, calls, for_action, has_routes};

/// A request type of the mesh schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestType {
    pub(crate) caller: &'static str,
    /// A Cedar action id.
    pub(crate) action: String,
    /// The action's groups.
    pub(crate) groups: Vec<String>,
    pub(crate) resource: &'static str,
}

impl RequestType {
    pub(crate) fn caller_kind(&self) -> Caller {
        match self.caller {
            "Workload" => Caller::Workload,
            _ => Caller::Unauthenticated,
        }
    }

    /// Every request type, in the schema's order of principal, action and resource.
    pub(crate) fn all() -> Result<Vec<Self>, String> {
        let (schema, _) = Schema::from_cedarschema_str(schema_text()).map_err(|e| e.to_string())?;
        let actions = schema.action_entities().map_err(|e| e.to_string())?;
        let known = |name: &str, of: &[&'static str]| {
            let plain = name.strip_prefix("Mesh::").unwrap_or(name);
            of.iter().copied().find(|k| *k == plain).ok_or_else(|| format!("`{name}` is new to the analysis"))
        };
        let mut found = BTreeSet::new();
        for env in schema.request_envs() {
            let uid = env.action();
            let groups = actions.ancestors(uid).into_iter().flatten();
            found.insert(Self {
                caller: known(&env.principal().to_string(), &["Workload", "Unauthenticated"])?,
                action: uid.id().unescaped().to_owned(),
                groups: groups.map(|g| g.id().unescaped().to_owned()).collect(),
                resource: known(&env.resource().to_string(), &["Service", "Route", "ExternalService"])?,
            });
        }
        Ok(found.into_iter().collect())
    }
}

/// A part of a request type's requests.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// What the policies of base and of head are asked about.
    pub(crate) base: Target,
    pub(crate) head: Target,
    /// A call that falls on the fixed resources of both.
    pub(crate) call: Option<Call>,
}

/// What both sides declare, for one action.
pub(crate) struct Declared {
    /// Services that declare routes on either side; for actions that know no routes, none.
    pub(crate) routed: BTreeSet<String>,
    /// Services with the same routes on both sides, and these in the order in which they are tried.
    pub(crate) unchanged: BTreeMap<String, Vec<Template>>,
    /// Services with other routes on one side than on the other: those of base, those of head.
    pub(crate) changed: BTreeMap<String, (Vec<Template>, Vec<Template>)>,
    /// External services of both sides, of base alone, of head alone.
    pub(crate) external: [BTreeSet<String>; 3],
    /// For routes that requests can fall on: one that does.
    pub(crate) calls: BTreeMap<(String, String), Call>,
}

impl Declared {
    pub(crate) fn new(base: &Bundle, head: &Bundle, action: &str) -> Self {
        let outside = |b: &Bundle| b.settings().external_services.keys().cloned().collect::<BTreeSet<_>>();
        let (before, after) = (outside(base), outside(head));
        let mut declared = Self {
            routed: BTreeSet::new(),
            unchanged: BTreeMap::new(),
            changed: BTreeMap::new(),
            external: [&before & &after, &before - &after, &after - &before],
            calls: BTreeMap::new(),
        };
        if !has_routes(action) {
            return declared;
        }
        let routes = |b: &Bundle, id: &str| b.settings().services.get(id).map(|f| f.routes.clone()).unwrap_or_default();
        let all: BTreeSet<&String> = base.settings().services.keys().chain(head.settings().services.keys()).collect();
        for id in all {
            let (old, new) = (routes(base, id), routes(head, id));
            if old.is_empty() && new.is_empty() {
                continue;
            }
            declared.routed.insert(id.clone());
            let set = |routes: &[String]| routes.iter().cloned().collect::<BTreeSet<_>>();
            let (before, after) = (for_action(&old, action), for_action(&new, action));
            if set(&old) != set(&new) {
                declared.changed.insert(id.clone(), (before, after));
                continue;
            }
            for call in calls(action, &before, &[]) {
                if let Some(found) = route_of(head, id, action, &call) {
                    declared.calls.entry((id.clone(), found)).or_insert(call);
                }
            }
            declared.unchanged.insert(id.clone(), before);
        }
        declared
    }

    /// The regions of a request type.
    pub(crate) fn regions(&self, base: &Bundle, head: &Bundle, request: &RequestType) -> Vec<Region> {
        let same = |target: Target| Region { base: target.clone(), head: target, call: None };
        if request.resource == "ExternalService" {
            let [both, before, after] = &self.external;
            let mut regions = if both.is_empty() { Vec::new() } else { vec![same(Target::External)] };
            let fixed = |id: &String| Target::FixedExternal(id.clone());
            regions.extend(before.iter().map(|id| Region { base: fixed(id), head: Target::Denied, call: None }));
            regions.extend(after.iter().map(|id| Region { base: Target::Denied, head: fixed(id), call: None }));
            return regions;
        }
        let mut regions = match request.resource {
            "Service" => vec![same(Target::Service)],
            _ if self.calls.is_empty() => Vec::new(),
            _ => vec![same(Target::Route)],
        };
        for (id, (before, after)) in &self.changed {
            let mut seen = BTreeSet::new();
            for call in calls(&request.action, before, after) {
                let target = |bundle: &Bundle| -> Target {
                    if bundle.settings().services.get(id).is_none_or(|f| f.routes.is_empty()) {
                        return Target::Fixed { service: id.clone(), template: None };
                    }
                    match route_of(bundle, id, &request.action, &call) {
                        Some(template) => Target::Fixed { service: id.clone(), template: Some(template) },
                        None => Target::Denied,
                    }
                };
                let (base, head) = (target(base), target(head));
                let kind = if head == Target::Denied { base.kind() } else { head.kind() };
                if kind == request.resource && seen.insert((name(&base), name(&head))) {
                    regions.push(Region { base, head, call: Some(call) });
                }
            }
        }
        regions
    }
}

fn name(target: &Target) -> (bool, Option<String>) {
    match target {
        Target::Fixed { template, .. } => (true, template.clone()),
        _ => (false, None),
    }
}

/// The template that the engine puts a call on.
fn route_of(bundle: &Bundle, service: &str, action: &str, call: &Call) -> Option<String> {
    let found = if action == "grpc:call" {
        bundle.route_of(service, "POST", &format!("/{}/{}", call.first, call.second))
    } else {
        bundle.route_of(service, &call.first, &call.second)
    };
    found.map(|route| route.template.to_owned())
}
