//! A compiled bundle and its decisions.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use cedar_policy::{
    AuthorizationError, Authorizer, Decision as CedarDecision, Entities, EntityUid, PolicyId, PolicySet,
};

use crate::cache::{Cache, KeyRef};
use crate::compile::{CompiledPolicy, compile};
use crate::context::{build, next_minute_us};
use crate::entities::{self, ACTION, Subject, Teams};
use crate::index::{ActionNode, Index};
use crate::problem::Problem;
use crate::reads::Reads;
use crate::request::{Action, Decision, Effect, Principal, Reason, Request, ShadowDecision};
use crate::route::{Route, RouteTable};
use crate::schema::schema;
use crate::settings::Settings;
use crate::source::BundleSource;

/// One verified commit, compiled. Cheap to share behind an `Arc`; deciding takes `&self` from any thread.
pub struct Bundle {
    commit: String,
    digest: String,
    pub(crate) settings: Settings,
    routes: BTreeMap<String, RouteTable>,
    pub(crate) policies: Vec<CompiledPolicy>,
    warnings: Vec<Problem>,
    ids: HashMap<PolicyId, usize>,
    pub(crate) index: Index,
    teams: Teams,
    actions: HashMap<&'static str, ActionNode>,
    authorizer: Authorizer,
    slices: Cache<Slice>,
}

/// All that the requests of one principal, action and resource have in common.
pub(crate) struct Slice {
    pub(crate) principal: Subject,
    pub(crate) action: ActionNode,
    pub(crate) resource: Subject,
    pub(crate) entities: Entities,
    enforced: PolicySet,
    /// Enforced and shadow policies together; only when there are shadow policies.
    with_shadow: Option<PolicySet>,
    reads: Reads,
    /// The decision itself, where no policy of the slice reads the context.
    fixed: Option<Decision>,
}

/// What a request is asked about, once its route is known.
pub(crate) enum Target<'b> {
    Whole,
    Route(usize, &'b Route),
    Unknown,
}

/// A policy of the bundle, for lists and lints.
#[derive(Clone, Copy)]
pub struct PolicyInfo<'b> {
    bundle: &'b Bundle,
    position: usize,
    policy: &'b CompiledPolicy,
}

/// The declared route that a request falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteMatch<'b> {
    /// As declared in `signet.yaml`: `GET /accounts/{id}`.
    pub template: &'b str,
    /// The Cedar entity id: `<service>#<template>`.
    pub id: &'b str,
}

/// One evaluation: effect, determining policies and reason.
struct Verdict {
    effect: Effect,
    policies: Vec<Arc<str>>,
    reason: Reason,
}

const ACTIONS: [&str; 12] = [
    "http:GET",
    "http:HEAD",
    "http:OPTIONS",
    "http:POST",
    "http:PUT",
    "http:PATCH",
    "http:DELETE",
    "http:OTHER",
    "grpc:call",
    "tcp:connect",
    "egress:connect",
    "gateway:forward",
];

impl Bundle {
    /// Compiles a bundle strictly, or says everything that is wrong with it.
    pub fn compile(source: &BundleSource) -> Result<Bundle, Vec<Problem>> {
        let compiled = compile(source)?;
        let actions = action_nodes()
            .map_err(|why| vec![Problem::error("schema", &crate::Place::file("mesh.cedarschema"), why)])?;
        Ok(Bundle {
            commit: source.commit.clone(),
            digest: source.digest(),
            teams: Teams::new(&compiled.settings),
            settings: compiled.settings,
            routes: compiled.routes,
            warnings: compiled.warnings,
            ids: compiled.policies.iter().enumerate().map(|(n, p)| (p.policy.id().clone(), n)).collect(),
            index: Index::new(compiled.policies.iter().map(|p| &p.policy)),
            policies: compiled.policies,
            actions,
            authorizer: Authorizer::new(),
            slices: Cache::default(),
        })
    }

    /// As [`BundleSource::digest`].
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn commit(&self) -> &str {
        &self.commit
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the validator warns of; a bundle with warnings works.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// All policies in order of path and position.
    pub fn policies(&self) -> impl Iterator<Item = PolicyInfo<'_>> {
        self.policies.iter().enumerate().map(|(position, policy)| PolicyInfo { bundle: self, position, policy })
    }

    /// The declared route of an HTTP request; for gRPC give `POST` and `/package.Service/Method`.
    pub fn route_of(&self, service: &str, method: &str, path: &str) -> Option<RouteMatch<'_>> {
        let table = self.routes.get(service)?;
        let grpc = || {
            let (service, name) = path.strip_prefix('/')?.rsplit_once('/')?;
            if method == "POST" { table.grpc(service, name) } else { None }
        };
        let (_, route) = table.http(method, path).or_else(grpc)?;
        Some(RouteMatch { template: &route.template, id: &route.id })
    }

    /// Decides one request. Never panics and never allows without a permit that holds.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let route = match self.target(request) {
            Target::Whole => None,
            Target::Route(position, route) => Some((position, route)),
            Target::Unknown => return Decision::deny(Reason::UnknownRoute),
        };
        let key = KeyRef {
            principal: match request.principal {
                Principal::Workload(id) => id,
                Principal::Unauthenticated => "",
            },
            service: request.service,
            action: request.action.cedar_id(),
            route: route.map(|(position, _)| position),
        };
        let slice = match self.slices.get(&key) {
            Some(slice) => slice,
            None => match self.slice(request, route.map(|(_, route)| route)) {
                Ok(mut slice) => {
                    if slice.reads.is_none() {
                        slice.fixed = Some(self.evaluate(&slice, request));
                    }
                    let slice = Arc::new(slice);
                    self.slices.insert(&key, Arc::clone(&slice));
                    slice
                }
                Err(reason) => return Decision::deny(reason),
            },
        };
        match &slice.fixed {
            Some(decision) => decision.clone(),
            None => self.evaluate(&slice, request),
        }
    }

    pub(crate) fn target(&self, request: &Request<'_>) -> Target<'_> {
        let Some(table) = self.routes.get(request.service) else { return Target::Whole };
        let found = match request.action {
            Action::Http { method, path, .. } => table.http(method, path),
            Action::Grpc { service, method } => table.grpc(service, method),
            // Connections have no routes; the schema gives these actions the service itself.
            Action::TcpConnect { .. } | Action::GatewayForward { .. } | Action::EgressConnect { .. } => {
                return Target::Whole;
            }
        };
        found.map_or(Target::Unknown, |(position, route)| Target::Route(position, route))
    }

    /// Entities and policies for requests like this one.
    pub(crate) fn slice(&self, request: &Request<'_>, route: Option<&Route>) -> Result<Slice, Reason> {
        if matches!(request.principal, Principal::Workload("")) {
            return Err(Reason::InvalidRequest);
        }
        let principal =
            entities::principal(&self.settings, &self.teams, request.principal).ok_or(Reason::InvalidRequest)?;
        let resource = match request.action {
            Action::EgressConnect { .. } => {
                entities::external(&self.settings, request.service).ok_or(Reason::UnknownService)?
            }
            _ => {
                let route = route.map(|r| (r.id.as_str(), r.template.as_str()));
                entities::service(&self.settings, request.service, route).ok_or(Reason::InvalidRequest)?
            }
        };
        let action = self.actions.get(request.action.cedar_id()).cloned().ok_or(Reason::InvalidRequest)?;
        let mut all = principal.entities.clone();
        all.extend(resource.entities.clone());
        all.insert(
            action.uid.clone(),
            cedar_policy::Entity::new_no_attrs(action.uid.clone(), action.ancestors.clone()),
        );
        for group in &action.ancestors {
            all.insert(group.clone(), cedar_policy::Entity::with_uid(group.clone()));
        }
        let entities = Entities::from_entities(all.into_values(), None).map_err(|_| Reason::InvalidRequest)?;
        let (mut enforced, mut with_shadow) = (PolicySet::new(), PolicySet::new());
        let (mut reads, mut shadows) = (Reads::NONE, false);
        for position in self.index.matching(&principal, &action, &resource) {
            let Some(compiled) = self.policies.get(position) else { continue };
            reads = reads | compiled.reads;
            shadows |= compiled.shadow;
            // Ids are unique in a bundle, so adding cannot fail; if it did, leaving a forbid out must not pass.
            with_shadow.add(compiled.policy.clone()).map_err(|_| Reason::PolicyError)?;
            if !compiled.shadow {
                enforced.add(compiled.policy.clone()).map_err(|_| Reason::PolicyError)?;
            }
        }
        Ok(Slice {
            principal,
            action,
            resource,
            entities,
            enforced,
            with_shadow: shadows.then_some(with_shadow),
            reads,
            fixed: None,
        })
    }

    fn evaluate(&self, slice: &Slice, request: &Request<'_>) -> Decision {
        let Some(query) = cedar_request(slice, request, slice.reads) else {
            return Decision::deny(Reason::InvalidRequest);
        };
        let enforced = self.verdict(&query, &slice.enforced, &slice.entities);
        let shadow = slice.with_shadow.as_ref().map(|set| self.verdict(&query, set, &slice.entities));
        let shadow = shadow
            .filter(|s| s.effect != enforced.effect || s.policies != enforced.policies)
            .map(|s| ShadowDecision { effect: s.effect, policies: s.policies, reason: s.reason });
        Decision {
            effect: enforced.effect,
            policies: enforced.policies,
            reason: enforced.reason,
            shadow,
            reads_context: !slice.reads.is_none(),
            expires_at_us: slice.reads.has(Reads::CLOCK).then(|| next_minute_us(request.time_us)),
        }
    }

    fn verdict(&self, query: &cedar_policy::Request, set: &PolicySet, entities: &Entities) -> Verdict {
        let response = self.authorizer.is_authorized(query, set, entities);
        let diagnostics = response.diagnostics();
        let named = |position: &usize| self.policies.get(*position).map(|p| Arc::clone(&p.id));
        let mut policies: Vec<Arc<str>> =
            diagnostics.reason().filter_map(|id| self.ids.get(id)).filter_map(named).collect();
        policies.sort_unstable();
        if response.decision() == CedarDecision::Deny && !policies.is_empty() {
            return Verdict { effect: Effect::Deny, policies, reason: Reason::Forbidden };
        }
        let mut erring: Vec<Arc<str>> = diagnostics
            .errors()
            .filter_map(|AuthorizationError::PolicyEvaluationError(error)| self.ids.get(error.policy_id()))
            .filter(|position| self.policies.get(**position).is_some_and(CompiledPolicy::is_forbid))
            .filter_map(named)
            .collect();
        if !erring.is_empty() {
            erring.sort_unstable();
            return Verdict { effect: Effect::Deny, policies: erring, reason: Reason::PolicyError };
        }
        match response.decision() {
            CedarDecision::Allow => Verdict { effect: Effect::Allow, policies, reason: Reason::Permitted },
            CedarDecision::Deny => Verdict { effect: Effect::Deny, policies, reason: Reason::NoPermit },
        }
    }

    pub(crate) fn policy(&self, id: &str) -> Option<&CompiledPolicy> {
        self.ids.get(&PolicyId::new(id)).and_then(|position| self.policies.get(*position))
    }
}

/// The request as Cedar takes it, with the context attributes that `reads` asks for.
pub(crate) fn cedar_request(slice: &Slice, request: &Request<'_>, reads: Reads) -> Option<cedar_policy::Request> {
    let context = build(request, reads)?;
    let (principal, resource) = (slice.principal.uid.clone(), slice.resource.uid.clone());
    cedar_policy::Request::new(principal, slice.action.uid.clone(), resource, context, None).ok()
}

fn action_nodes() -> Result<HashMap<&'static str, ActionNode>, String> {
    let known = schema()?.action_entities().map_err(|e| e.to_string())?;
    let node = |id: &'static str| {
        let uid: EntityUid = entities::uid(&ACTION, id).ok_or("`Mesh::Action` is no type name")?;
        let ancestors = known.ancestors(&uid).ok_or_else(|| format!("the schema has no action `{id}`"))?;
        Ok((id, ActionNode { ancestors: ancestors.cloned().collect(), uid: uid.clone() }))
    };
    ACTIONS.into_iter().map(node).collect()
}

impl<'b> PolicyInfo<'b> {
    pub fn id(&self) -> &'b str {
        &self.policy.id
    }

    pub fn path(&self) -> &'b str {
        &self.policy.path
    }

    pub fn line(&self) -> u32 {
        self.policy.line
    }

    /// Its source, annotations included.
    pub fn text(&self) -> &'b str {
        &self.policy.text
    }

    pub fn annotation(&self, name: &str) -> Option<&'b str> {
        self.policy.policy.annotation(name)
    }

    /// Names of all its annotations.
    pub fn annotations(&self) -> impl Iterator<Item = &'b str> {
        self.policy.policy.annotations().map(|(name, _)| name)
    }

    pub fn is_forbid(&self) -> bool {
        self.policy.is_forbid()
    }

    pub fn is_shadow(&self) -> bool {
        self.policy.shadow
    }

    /// Whether its scope names neither principal, action nor resource and nothing else limits it.
    pub fn matches_everything(&self) -> bool {
        use crate::index::Scope::Any;
        !self.policy.policy.has_non_scope_constraint()
            && self
                .bundle
                .index
                .scopes(self.position)
                .is_some_and(|s| s.principal == Any && s.resource == Any && s.any_action)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("commit", &self.commit)
            .field("digest", &self.digest)
            .field("policies", &self.policies.len())
            .finish_non_exhaustive()
    }
}
