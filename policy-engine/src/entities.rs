//! Entities of a request: the principal, the resource and their ancestors, from identifiers and `signet.yaml` alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use crate::request::Principal;
use crate::settings::{DataClass, Env, Settings, is_segment, is_trust_domain, split_id};

macro_rules! types {
    ($($name:ident = $text:literal),* $(,)?) => {
        $(pub(crate) static $name: LazyLock<Option<EntityTypeName>> = LazyLock::new(|| $text.parse().ok());)*
    };
}

types! {
    TRUST_DOMAIN = "Mesh::TrustDomain",
    CLUSTER = "Mesh::Cluster",
    NAMESPACE = "Mesh::Namespace",
    SERVICE_ACCOUNT = "Mesh::ServiceAccount",
    TEAM = "Mesh::Team",
    WORKLOAD = "Mesh::Workload",
    UNAUTHENTICATED = "Mesh::Unauthenticated",
    SERVICE = "Mesh::Service",
    EXTERNAL_SERVICE = "Mesh::ExternalService",
    ROUTE = "Mesh::Route",
    ENV = "Mesh::Env",
    DATA_CLASS = "Mesh::DataClass",
    ACTION = "Mesh::Action",
}

/// `None` only when a type name above were no Cedar name, which its test rules out; callers then deny.
pub(crate) fn uid(kind: &LazyLock<Option<EntityTypeName>>, id: &str) -> Option<EntityUid> {
    Some(EntityUid::from_type_name_and_id(LazyLock::force(kind).clone()?, EntityId::new(id)))
}

/// A principal or a resource with all that Cedar has to know about it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) uid: EntityUid,
    pub(crate) ancestors: HashSet<EntityUid>,
    pub(crate) entities: HashMap<EntityUid, Entity>,
}

type Attributes = HashMap<String, RestrictedExpression>;

/// Collects a subject and its ancestors from the roots down.
#[derive(Default)]
struct Family {
    ancestors: HashSet<EntityUid>,
    entities: HashMap<EntityUid, Entity>,
}

impl Family {
    fn ancestor(&mut self, uid: EntityUid, parents: &[EntityUid]) -> EntityUid {
        let entity = Entity::new_no_attrs(uid.clone(), parents.iter().cloned().collect());
        self.entities.insert(uid.clone(), entity);
        self.ancestors.insert(uid.clone());
        uid
    }

    /// TrustDomain, Cluster and Namespace; gives the namespace.
    fn namespace(&mut self, td: &str, ns: &str) -> Option<EntityUid> {
        let domain = self.ancestor(uid(&TRUST_DOMAIN, td)?, &[]);
        let cluster = self.ancestor(uid(&CLUSTER, td)?, &[domain]);
        Some(self.ancestor(uid(&NAMESPACE, &format!("{td}/{ns}"))?, &[cluster]))
    }

    fn teams<'t>(&mut self, teams: impl IntoIterator<Item = &'t String>) -> Option<Vec<EntityUid>> {
        teams.into_iter().map(|team| Some(self.ancestor(uid(&TEAM, team)?, &[]))).collect()
    }

    fn finish(
        mut self,
        uid: EntityUid,
        attributes: Attributes,
        tags: &BTreeMap<String, String>,
        parents: Vec<EntityUid>,
    ) -> Option<Subject> {
        let tags = tags.iter().map(|(k, v)| (k.clone(), RestrictedExpression::new_string(v.clone())));
        let entity = Entity::new_with_tags(uid.clone(), attributes, parents, tags).ok()?;
        self.entities.insert(uid.clone(), entity);
        Some(Subject { uid, ancestors: self.ancestors, entities: self.entities })
    }
}

fn string(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn env(value: Env) -> Option<RestrictedExpression> {
    Some(RestrictedExpression::new_entity_uid(uid(&ENV, value.as_str())?))
}

fn data_class(value: DataClass) -> Option<RestrictedExpression> {
    Some(RestrictedExpression::new_entity_uid(uid(&DATA_CLASS, value.as_str())?))
}

/// A SPIFFE ID taken apart: trust domain, and namespace and service account when it has the shape of a workload's.
pub fn split_spiffe_id(id: &str) -> Option<(&str, Option<(&str, &str)>)> {
    let rest = id.strip_prefix("spiffe://")?;
    let (td, path) = rest.split_once('/').map_or((rest, None), |(td, path)| (td, Some(path)));
    if id.len() > 2048 || !is_trust_domain(td) || path.is_some_and(|p| !p.split('/').all(is_segment)) {
        return None;
    }
    let account = path.and_then(|p| p.strip_prefix("ns/")).and_then(|p| p.split_once("/sa/"));
    Some((td, account.filter(|(ns, sa)| !ns.contains('/') && !sa.contains('/'))))
}

/// Team membership by workload, as `signet.yaml` lists it the other way round.
#[derive(Debug, Default)]
pub(crate) struct Teams(HashMap<String, BTreeSet<String>>);

impl Teams {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut of: HashMap<String, BTreeSet<String>> = HashMap::new();
        for (name, team) in &settings.teams {
            for workload in &team.workloads {
                let id = match split_id(workload) {
                    Some((td, ns, sa)) => format!("spiffe://{td}/ns/{ns}/sa/{sa}"),
                    None => workload.clone(),
                };
                of.entry(id).or_default().insert(name.clone());
            }
        }
        Self(of)
    }
}

/// The principal's entities; `None` when it is not a SPIFFE ID.
pub(crate) fn principal(settings: &Settings, teams: &Teams, principal: Principal<'_>) -> Option<Subject> {
    let id = match principal {
        Principal::Unauthenticated => {
            return Family::default().finish(
                uid(&UNAUTHENTICATED, "plaintext")?,
                Attributes::new(),
                &BTreeMap::new(),
                vec![],
            );
        }
        Principal::Workload(id) => id,
    };
    let (td, account) = split_spiffe_id(id)?;
    let mut family = Family::default();
    let mut parents = family.teams(teams.0.get(id).into_iter().flatten())?;
    let mut facts = None;
    if let Some((ns, sa)) = account {
        let namespace = family.namespace(td, ns)?;
        let name = format!("{td}/{ns}/{sa}");
        parents.push(family.ancestor(uid(&SERVICE_ACCOUNT, &name)?, &[namespace]));
        facts = settings.workloads.get(&name);
    }
    let (ns, sa) = account.unwrap_or(("", ""));
    let attributes = Attributes::from([
        ("trust_domain".to_owned(), string(td)),
        ("cluster".to_owned(), string(td)),
        ("namespace".to_owned(), string(ns)),
        ("service_account".to_owned(), string(sa)),
        ("env".to_owned(), env(facts.and_then(|f| f.env).unwrap_or(settings.defaults.env))?),
    ]);
    let none = BTreeMap::new();
    family.finish(uid(&WORKLOAD, id)?, attributes, facts.map_or(&none, |f| &f.tags), parents)
}

/// The service's entities, or the route's with the service above it.
pub(crate) fn service(settings: &Settings, id: &str, route: Option<(&str, &str)>) -> Option<Subject> {
    let (td, ns, _) = split_id(id)?;
    let facts = settings.services.get(id);
    let class = facts.and_then(|f| f.data_class).unwrap_or(settings.defaults.data_class);
    let mut family = Family::default();
    let mut parents = family.teams(facts.into_iter().flat_map(|f| &f.teams))?;
    parents.push(family.namespace(td, ns)?);
    let attributes = Attributes::from([
        ("namespace".to_owned(), string(ns)),
        ("env".to_owned(), env(facts.and_then(|f| f.env).unwrap_or(settings.defaults.env))?),
        ("data_class".to_owned(), data_class(class)?),
    ]);
    let none = BTreeMap::new();
    let service = family.finish(uid(&SERVICE, id)?, attributes, facts.map_or(&none, |f| &f.tags), parents)?;
    let Some((route, template)) = route else { return Some(service) };
    let mut ancestors = service.ancestors;
    ancestors.insert(service.uid.clone());
    let attributes =
        Attributes::from([("data_class".to_owned(), data_class(class)?), ("template".to_owned(), string(template))]);
    Family { ancestors, entities: service.entities }.finish(uid(&ROUTE, route)?, attributes, &none, vec![service.uid])
}

/// An external service's entities; `None` when `signet.yaml` does not declare it.
pub(crate) fn external(settings: &Settings, id: &str) -> Option<Subject> {
    let facts = settings.external_services.get(id)?;
    let mut family = Family::default();
    let parents = family.teams(&facts.teams)?;
    let attributes = Attributes::from([
        ("host".to_owned(), string(&facts.host)),
        ("data_class".to_owned(), data_class(facts.data_class.unwrap_or(settings.defaults.data_class))?),
    ]);
    family.finish(uid(&EXTERNAL_SERVICE, id)?, attributes, &BTreeMap::new(), parents)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn settings() -> Settings {
        Settings::parse(
            "version: 1\nteams: {core: {workloads: [a.b/bank/web, 'spiffe://a.b/signet/gateway']}}\n\
             services: {a.b/bank/ledger: {teams: [core], data_class: restricted, routes: ['GET /a']}}\n",
            &BTreeMap::new(),
        )
        .unwrap()
        .0
    }

    fn names(subject: &Subject) -> Vec<String> {
        let mut names: Vec<String> = subject.ancestors.iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn every_type_of_the_schema_is_known() {
        let all = [
            &TRUST_DOMAIN,
            &CLUSTER,
            &NAMESPACE,
            &SERVICE_ACCOUNT,
            &TEAM,
            &WORKLOAD,
            &UNAUTHENTICATED,
            &SERVICE,
            &EXTERNAL_SERVICE,
            &ROUTE,
            &ENV,
            &DATA_CLASS,
            &ACTION,
        ];
        let known: Vec<String> = crate::schema::schema().unwrap().entity_types().map(ToString::to_string).collect();
        for kind in all {
            let name = LazyLock::force(kind).as_ref().unwrap().to_string();
            assert!(name == "Mesh::Action" || known.contains(&name), "{name}");
        }
    }

    #[test]
    fn workload_descends_from_its_account_namespace_cluster_domain_and_teams() {
        let s = settings();
        let web = principal(&s, &Teams::new(&s), Principal::Workload("spiffe://a.b/ns/bank/sa/web")).unwrap();
        let want = [
            r#"Mesh::Cluster::"a.b""#,
            r#"Mesh::Namespace::"a.b/bank""#,
            r#"Mesh::ServiceAccount::"a.b/bank/web""#,
            r#"Mesh::Team::"core""#,
            r#"Mesh::TrustDomain::"a.b""#,
        ];
        assert_eq!(names(&web), want);
    }

    #[test]
    fn other_shapes_have_no_namespace_above_them() {
        let s = settings();
        let of = |id| names(&principal(&s, &Teams::new(&s), Principal::Workload(id)).unwrap());
        for id in [
            "spiffe://a.b",
            "spiffe://a.b/ns/bank/proxy/web",
            "spiffe://a.b/ns/bank/sa/web/x",
            "spiffe://a.b/x/ns/bank/sa/web",
        ] {
            assert!(of(id).is_empty(), "{id}");
        }
        assert_eq!(of("spiffe://a.b/signet/gateway"), [r#"Mesh::Team::"core""#]);
    }

    #[test]
    fn malformed_identifiers_have_no_entities() {
        let s = settings();
        for id in [
            "",
            "web",
            "spiffe://",
            "spiffe://A.B/x",
            "spiffe://a.b/",
            "spiffe://a.b//x",
            "spiffe://a.b/../x",
            "http://a.b/x",
        ] {
            assert!(principal(&s, &Teams::new(&s), Principal::Workload(id)).is_none(), "{id}");
        }
        for id in ["", "ledger", "a.b/bank", "a.b/bank/ledger/x", "a.b//ledger", "a.b/../ledger"] {
            assert!(service(&s, id, None).is_none(), "{id}");
        }
        assert!(external(&s, "nobody").is_none());
    }

    #[test]
    fn entities_conform_to_the_schema() {
        let s = settings();
        let schema = crate::schema::schema().unwrap();
        let subjects = [
            principal(&s, &Teams::new(&s), Principal::Workload("spiffe://a.b/ns/bank/sa/web")),
            principal(&s, &Teams::new(&s), Principal::Workload("spiffe://a.b/signet/gateway")),
            principal(&s, &Teams::new(&s), Principal::Unauthenticated),
            service(&s, "a.b/bank/ledger", Some(("a.b/bank/ledger#GET /a", "GET /a"))),
            service(&s, "a.b/bank/other", None),
        ];
        for subject in subjects {
            let entities = subject.unwrap().entities.into_values();
            cedar_policy::Entities::from_entities(entities, Some(schema)).unwrap();
        }
    }
}
