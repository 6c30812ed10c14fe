//! A compiled bundle and its decisions.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use cedar_policy::{EntityUid, PolicyId};

use crate::cache::Cache;
use crate::compile::{CompiledPolicy, compile};
use crate::decide::{Candidates, Target};
use crate::end_users::{Issuer, KEYS};
use crate::entities::{self, ACTION, Teams};
use crate::index::{ActionNode, Index};
use crate::problem::Problem;
use crate::request::{ACTIONS, Action};
use crate::route::RouteTable;
use crate::schema::schema;
use crate::settings::Settings;
use crate::source::BundleSource;

/// One verified commit, compiled. Cheap to share behind an `Arc`; deciding takes `&self` from any thread.
pub struct Bundle {
    commit: String,
    digest: String,
    /// The digest of what was compiled, where that is a slice of the bundle.
    slice_digest: Option<String>,
    pub(crate) settings: Settings,
    /// JWK sets of issuers of end-user tokens, by path.
    keys: BTreeMap<String, String>,
    pub(crate) routes: BTreeMap<String, Arc<RouteTable>>,
    pub(crate) policies: Vec<Arc<CompiledPolicy>>,
    warnings: Vec<Problem>,
    ids: HashMap<PolicyId, usize>,
    pub(crate) index: Index,
    pub(crate) teams: Teams,
    /// In the order of [`ACTIONS`].
    pub(crate) actions: Vec<Arc<ActionNode>>,
    pub(crate) known: Cache<Candidates>,
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

impl Bundle {
    /// Compiles a bundle strictly, or says everything that is wrong with it.
    pub fn compile(source: &BundleSource) -> Result<Bundle, Vec<Problem>> {
        Self::compiled(source, source.digest(), None)
    }

    /// Compiles what [`Bundle::cut`] gave of the bundle with digest `whole`. Decisions name both digests.
    pub fn compile_slice(source: &BundleSource, whole: &str) -> Result<Bundle, Vec<Problem>> {
        Self::compiled(source, whole.to_owned(), Some(source.digest()))
    }

    fn compiled(source: &BundleSource, digest: String, slice_digest: Option<String>) -> Result<Bundle, Vec<Problem>> {
        let compiled = compile(source)?;
        let actions = action_nodes()
            .map_err(|why| vec![Problem::error("schema", &crate::Place::file("mesh.cedarschema"), why)])?;
        Ok(Bundle {
            commit: source.commit.clone(),
            digest,
            slice_digest,
            teams: Teams::new(&compiled.settings),
            settings: compiled.settings,
            keys: source
                .files
                .iter()
                .filter(|(path, _)| path.starts_with(KEYS))
                .map(|(path, text)| (path.clone(), text.clone()))
                .collect(),
            routes: compiled.routes.into_iter().map(|(service, table)| (service, Arc::new(table))).collect(),
            warnings: compiled.warnings,
            ids: compiled.policies.iter().enumerate().map(|(n, p)| (p.policy.id().clone(), n)).collect(),
            index: Index::new(compiled.policies.iter().map(|p| &p.policy)),
            policies: compiled.policies.into_iter().map(Arc::new).collect(),
            actions,
            known: Cache::default(),
        })
    }

    /// As [`BundleSource::digest`], of the whole bundle also where this is a slice of it.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The digest of what was compiled, where that is a slice of the bundle ([`Bundle::compile_slice`]).
    pub fn slice_digest(&self) -> Option<&str> {
        self.slice_digest.as_deref()
    }

    pub fn commit(&self) -> &str {
        &self.commit
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The JWK set of an issuer of end-user tokens.
    pub fn keys_of(&self, issuer: &Issuer) -> Option<&str> {
        self.keys.get(&issuer.keys_file).map(String::as_str)
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

    /// The declared route that a request to `service` falls on, as `signet.yaml` has it.
    pub fn template_of(&self, service: &str, action: &Action<'_>) -> Option<&str> {
        match crate::route::target(self.routes.get(service)?, action) {
            Target::Route(_, route) => Some(&route.template),
            Target::Whole | Target::Unknown => None,
        }
    }

    pub(crate) fn policy(&self, id: &str) -> Option<&CompiledPolicy> {
        self.ids.get(&PolicyId::new(id)).and_then(|position| self.policies.get(*position)).map(|policy| &**policy)
    }
}

fn action_nodes() -> Result<Vec<Arc<ActionNode>>, String> {
    let known = schema()?.action_entities().map_err(|e| e.to_string())?;
    let node = |id: &'static str| {
        let uid: EntityUid = entities::uid(&ACTION, id).ok_or("`Mesh::Action` is no type name")?;
        let ancestors = known.ancestors(&uid).ok_or_else(|| format!("the schema has no action `{id}`"))?;
        Ok(Arc::new(ActionNode { ancestors: ancestors.cloned().collect(), uid: uid.clone() }))
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

    /// As Cedar has it, with its `@id` as the id.
    pub fn cedar(&self) -> &'b cedar_policy::Policy {
        &self.policy.policy
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
