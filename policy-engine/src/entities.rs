//! Entities of a request: the principal, the resource and their ancestors, from identifiers and `signet.yaml` alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use cedar_policy_core::ast::{Entity, Literal, PartialValue, Value};

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

/// A principal or a resource and what it lies in: what scopes ask about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) uid: EntityUid,
    /// Direct and indirect: the lineage, the teams, and for a route its service.
    pub(crate) ancestors: Vec<EntityUid>,
    /// How many of `ancestors`, from the root down, each lie in all that come before them.
    lineage: usize,
}

impl Subject {
    fn alone(uid: EntityUid) -> Self {
        Self { uid, ancestors: Vec::new(), lineage: 0 }
    }

    /// Trust domain, cluster and namespace.
    fn push_namespace(&mut self, td: &str, ns: &str) -> Option<()> {
        self.ancestors.extend([uid(&TRUST_DOMAIN, td)?, uid(&CLUSTER, td)?]);
        self.push_last(uid(&NAMESPACE, &format!("{td}/{ns}"))?);
        Some(())
    }

    fn push_last(&mut self, uid: EntityUid) {
        self.ancestors.push(uid);
        self.lineage = self.ancestors.len();
    }

    fn push_teams<'t>(&mut self, teams: impl IntoIterator<Item = &'t String>) -> Option<()> {
        for team in teams {
            self.ancestors.push(uid(&TEAM, team)?);
        }
        Some(())
    }

    /// The entities of its ancestors, as far as these have no attributes.
    fn ancestor_entities(&self) -> impl Iterator<Item = Entity> {
        let lineage = self.ancestors.iter().take(self.lineage).enumerate();
        let placed = lineage.map(|(n, uid)| (uid, self.ancestors.get(..n).unwrap_or_default()));
        let teams = self.ancestors.iter().skip(self.lineage).map(|uid| (uid, &[][..]));
        placed.chain(teams).map(|(uid, above)| entity(uid, above, Attributes::new(), None))
    }
}

type Attributes = Vec<(&'static str, Value)>;

/// An entity of the evaluator. Given with all its ancestors, so that no transitive closure is left to be computed.
fn entity(
    uid: &EntityUid,
    ancestors: &[EntityUid],
    attributes: Attributes,
    tags: Option<&BTreeMap<String, String>>,
) -> Entity {
    Entity::new_with_attr_partial_value(
        uid.as_ref().clone(),
        attributes.into_iter().map(|(name, value)| (name.into(), PartialValue::Value(value))),
        Default::default(),
        ancestors.iter().map(|above| above.as_ref().clone()).collect(),
        tags.into_iter().flatten().map(|(k, v)| (k.as_str().into(), PartialValue::Value(Value::from(v.as_str())))),
    )
}

/// An action's entity and those of its groups.
pub(crate) fn action(uid: &EntityUid, groups: &[EntityUid]) -> Vec<Entity> {
    let plain = groups.iter().map(|group| entity(group, &[], Attributes::new(), None));
    plain.chain([entity(uid, groups, Attributes::new(), None)]).collect()
}

fn reference(kind: &LazyLock<Option<EntityTypeName>>, id: &str) -> Option<Value> {
    let uid = uid(kind, id)?;
    Some(Value::from(Literal::from(uid.as_ref().clone())))
}

fn env(value: Env) -> Option<Value> {
    reference(&ENV, value.as_str())
}

fn data_class(value: DataClass) -> Option<Value> {
    reference(&DATA_CLASS, value.as_str())
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

/// The principal and its ancestors; `None` when it is not a SPIFFE ID.
pub(crate) fn principal(teams: &Teams, principal: Principal<'_>) -> Option<Subject> {
    let id = match principal {
        Principal::Unauthenticated => return Some(Subject::alone(uid(&UNAUTHENTICATED, "plaintext")?)),
        Principal::Workload(id) => id,
    };
    let (td, account) = split_spiffe_id(id)?;
    let mut subject = Subject::alone(uid(&WORKLOAD, id)?);
    if let Some((ns, sa)) = account {
        subject.push_namespace(td, ns)?;
        subject.push_last(uid(&SERVICE_ACCOUNT, &format!("{td}/{ns}/{sa}"))?);
    }
    subject.push_teams(teams.0.get(id).into_iter().flatten())?;
    Some(subject)
}

/// The entities of [`principal`]'s answer.
pub(crate) fn principal_entities(
    settings: &Settings,
    principal: Principal<'_>,
    subject: &Subject,
) -> Option<Vec<Entity>> {
    let Principal::Workload(id) = principal else {
        return Some(vec![entity(&subject.uid, &[], Attributes::new(), None)]);
    };
    let (td, account) = split_spiffe_id(id)?;
    let facts = account.and_then(|(ns, sa)| settings.workloads.get(&format!("{td}/{ns}/{sa}")));
    let (ns, sa) = account.unwrap_or(("", ""));
    let attributes = vec![
        ("trust_domain", Value::from(td)),
        ("cluster", Value::from(td)),
        ("namespace", Value::from(ns)),
        ("service_account", Value::from(sa)),
        ("env", env(facts.and_then(|f| f.env).unwrap_or(settings.defaults.env))?),
    ];
    let own = entity(&subject.uid, &subject.ancestors, attributes, facts.map(|f| &f.tags));
    Some(subject.ancestor_entities().chain([own]).collect())
}

/// The service and its ancestors, or the route with the service above it.
pub(crate) fn service(settings: &Settings, id: &str, route: Option<&str>) -> Option<Subject> {
    let (td, ns, _) = split_id(id)?;
    let mut subject = Subject::alone(uid(&SERVICE, id)?);
    subject.push_namespace(td, ns)?;
    subject.push_teams(settings.services.get(id).into_iter().flat_map(|facts| &facts.teams))?;
    if let Some(route) = route {
        let service = std::mem::replace(&mut subject.uid, uid(&ROUTE, route)?);
        subject.ancestors.push(service);
    }
    Some(subject)
}

/// The entities of [`service`]'s answer; `template` is the route's where it is about one.
pub(crate) fn service_entities(
    settings: &Settings,
    id: &str,
    template: Option<&str>,
    subject: &Subject,
) -> Option<Vec<Entity>> {
    let (_, ns, _) = split_id(id)?;
    let facts = settings.services.get(id);
    let class = data_class(facts.and_then(|f| f.data_class).unwrap_or(settings.defaults.data_class))?;
    let attributes = vec![
        ("namespace", Value::from(ns)),
        ("env", env(facts.and_then(|f| f.env).unwrap_or(settings.defaults.env))?),
        ("data_class", class.clone()),
    ];
    let tags = facts.map(|f| &f.tags);
    let Some(template) = template else {
        let own = entity(&subject.uid, &subject.ancestors, attributes, tags);
        return Some(subject.ancestor_entities().chain([own]).collect());
    };
    let (service, above) = subject.ancestors.split_last()?;
    let whole = Subject { uid: service.clone(), ancestors: above.to_vec(), lineage: subject.lineage };
    let route = vec![("data_class", class), ("template", Value::from(template))];
    let own = [entity(service, above, attributes, tags), entity(&subject.uid, &subject.ancestors, route, None)];
    Some(whole.ancestor_entities().chain(own).collect())
}

/// An external service and its teams; `None` when `signet.yaml` does not declare it.
pub(crate) fn external(settings: &Settings, id: &str) -> Option<Subject> {
    let mut subject = Subject::alone(uid(&EXTERNAL_SERVICE, id)?);
    subject.push_teams(&settings.external_services.get(id)?.teams)?;
    Some(subject)
}

/// The entities of [`external`]'s answer.
pub(crate) fn external_entities(settings: &Settings, id: &str, subject: &Subject) -> Option<Vec<Entity>> {
    let facts = settings.external_services.get(id)?;
    let attributes = vec![
        ("host", Value::from(facts.host.as_str())),
        ("data_class", data_class(facts.data_class.unwrap_or(settings.defaults.data_class))?),
    ];
    let own = entity(&subject.uid, &subject.ancestors, attributes, None);
    Some(subject.ancestor_entities().chain([own]).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn settings() -> Settings {
        Settings::parse(
            "version: 1\nteams: {core: {workloads: [a.b/bank/web, 'spiffe://a.b/signet/gateway']}}\n\
             services: {a.b/bank/ledger: {teams: [core], data_class: restricted, routes: ['GET /a']}}\n\
             external_services: {rates: {host: rates.example, teams: [core]}}\n",
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
        let web = principal(&Teams::new(&s), Principal::Workload("spiffe://a.b/ns/bank/sa/web")).unwrap();
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
        let of = |id| names(&principal(&Teams::new(&s), Principal::Workload(id)).unwrap());
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
            assert!(principal(&Teams::new(&s), Principal::Workload(id)).is_none(), "{id}");
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
        let caller = |who: Principal<'_>| {
            let subject = principal(&Teams::new(&s), who).unwrap();
            principal_entities(&s, who, &subject).unwrap()
        };
        let called = |id: &str, route: Option<(&str, &str)>| {
            let subject = service(&s, id, route.map(|(id, _)| id)).unwrap();
            service_entities(&s, id, route.map(|(_, template)| template), &subject).unwrap()
        };
        let worlds = [
            caller(Principal::Workload("spiffe://a.b/ns/bank/sa/web")),
            caller(Principal::Workload("spiffe://a.b/signet/gateway")),
            caller(Principal::Unauthenticated),
            called("a.b/bank/ledger", Some(("a.b/bank/ledger#GET /a", "GET /a"))),
            called("a.b/bank/other", None),
            external_entities(&s, "rates", &external(&s, "rates").unwrap()).unwrap(),
        ];
        for world in worlds {
            let entities = world.into_iter().map(cedar_policy::Entity::from);
            cedar_policy::Entities::from_entities(entities, Some(schema)).unwrap();
        }
    }

    #[test]
    fn every_ancestor_of_an_ancestor_is_one() {
        let s = settings();
        let subject = service(&s, "a.b/bank/ledger", Some("a.b/bank/ledger#GET /a")).unwrap();
        let all = service_entities(&s, "a.b/bank/ledger", Some("GET /a"), &subject).unwrap();
        cedar_policy_core::entities::Entities::from_entities(
            all,
            None::<&cedar_policy_core::entities::NoEntitiesSchema>,
            cedar_policy_core::entities::TCComputation::EnforceAlreadyComputed,
            cedar_policy_core::extensions::Extensions::none(),
        )
        .unwrap();
    }
}
