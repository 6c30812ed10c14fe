//! The principal and the resource of the one request that is asked about, as strings.
//!
//! Everything that a policy can learn of an entity follows from its id and from `signet.yaml`, so entities need no place
//! in the model: `principal in Mesh::Namespace::"td/ns"` is a statement about two strings, and a team is a list of ids.
//! Impossible worlds (a workload in a namespace that its SPIFFE ID does not name) cannot even be written down.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy_core::ast::{EntityUID, Expr};
use signet_policy::{Settings, split_id, split_spiffe_id};

use super::fold::{all, and, any, eq, ite, not, one_of, text, variable};

/// What the principal of a request type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Workload,
    Unauthenticated,
}

/// What a request type's resource is, on one side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Any service.
    Service,
    /// Any route.
    Route,
    /// Any external service.
    External,
    /// This service, whole (`template` is `None`) or on one of its routes.
    Fixed { service: String, template: Option<String> },
    /// This external service.
    FixedExternal(String),
    /// Nothing that policies are asked about: the request is denied before.
    Denied,
}

/// The facts of one side: what its `signet.yaml` says.
pub(crate) struct Facts<'s> {
    settings: &'s Settings,
}

/// A service account's or a service's three names.
type Names<'a> = (&'a str, &'a str, &'a str);

impl<'s> Facts<'s> {
    pub(crate) fn new(settings: &'s Settings) -> Self {
        Self { settings }
    }

    /// Whether the workload that calls is `id`, a SPIFFE ID.
    pub(super) fn is_workload(&self, id: &str) -> Expr {
        let Some((td, account)) = split_spiffe_id(id) else { return Expr::val(false) };
        let td = eq(variable("p_td"), text(td));
        match account {
            Some((ns, sa)) => {
                all(vec![variable("p_account"), td, eq(variable("p_ns"), text(ns)), eq(variable("p_sa"), text(sa))])
            }
            None => {
                let path = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map_or("", |(_, p)| p);
                all(vec![not(variable("p_account")), td, eq(variable("p_path"), text(path))])
            }
        }
    }

    /// Whether the workload that calls is in `ancestor`.
    pub(super) fn workload_in(&self, ancestor: &EntityUID) -> Expr {
        let id: &str = ancestor.eid().as_ref();
        let parts = |names: &[(&str, &str)]| {
            let mut all_of = vec![variable("p_account")];
            all_of.extend(names.iter().map(|(name, value)| eq(variable(name), text(value))));
            all(all_of)
        };
        match kind(ancestor).as_str() {
            "Workload" => self.is_workload(id),
            "ServiceAccount" => match split_id(id) {
                Some((td, ns, sa)) => parts(&[("p_td", td), ("p_ns", ns), ("p_sa", sa)]),
                None => Expr::val(false),
            },
            "Namespace" => match id.split_once('/') {
                Some((td, ns)) => parts(&[("p_td", td), ("p_ns", ns)]),
                None => Expr::val(false),
            },
            "Cluster" | "TrustDomain" => parts(&[("p_td", id)]),
            "Team" => self.settings.teams.get(id).map_or(Expr::val(false), |team| self.any_workload(&team.workloads)),
            _ => Expr::val(false),
        }
    }

    fn any_workload(&self, members: &BTreeSet<String>) -> Expr {
        let (accounts, others): (Vec<_>, Vec<_>) =
            members.iter().map(|m| (m, account_of(m))).partition(|(_, account)| account.is_some());
        let accounts = accounts.into_iter().filter_map(|(_, account)| account);
        let listed = and(variable("p_account"), any_of(accounts, ["p_td", "p_ns", "p_sa"].map(variable)));
        let others = others.into_iter().map(|(id, _)| self.is_workload(id)).collect();
        any(vec![listed, any(others)])
    }

    /// An attribute of the calling workload.
    pub(super) fn workload_attribute(&self, name: &str) -> Option<Expr> {
        Some(match name {
            "trust_domain" | "cluster" => variable("p_td"),
            "namespace" => variable("p_ns"),
            "service_account" => variable("p_sa"),
            "env" => {
                let by_value =
                    grouped(self.settings.workloads.iter().filter_map(|(id, f)| Some((id, f.env?.as_str()))));
                self.listed_workloads(by_value, self.settings.defaults.env.as_str())
            }
            _ => return None,
        })
    }

    /// `if the caller is one of .. then value else ..`, for accounts only: `signet.yaml` knows no other workloads.
    fn listed_workloads(&self, by_value: BTreeMap<&str, Vec<&str>>, default: &str) -> Expr {
        by_value.into_iter().filter(|(value, _)| *value != default).fold(text(default), |otherwise, (value, ids)| {
            let test = and(
                variable("p_account"),
                any_of(ids.into_iter().filter_map(split_id), ["p_td", "p_ns", "p_sa"].map(variable)),
            );
            ite(test, text(value), otherwise)
        })
    }

    /// The workloads' tags: `(who, key, value)`.
    pub(super) fn workload_tags(&self) -> Vec<(Expr, &'s str, &'s str)> {
        let all_tags = self.settings.workloads.iter().flat_map(|(id, facts)| facts.tags.iter().map(move |t| (id, t)));
        let by_tag = grouped(all_tags.map(|(id, (key, value))| (id, (key.as_str(), value.as_str()))));
        by_tag
            .into_iter()
            .map(|((key, value), ids)| {
                let who = any_of(ids.into_iter().filter_map(split_id), ["p_td", "p_ns", "p_sa"].map(variable));
                (and(variable("p_account"), who), key, value)
            })
            .collect()
    }

    fn service_names(target: &Target) -> Option<[Expr; 3]> {
        match target {
            Target::Service | Target::Route => Some(["r_td", "r_ns", "r_name"].map(variable)),
            Target::Fixed { service, .. } => split_id(service).map(|(td, ns, name)| [td, ns, name].map(text)),
            Target::External | Target::FixedExternal(_) | Target::Denied => None,
        }
    }

    fn external_name(target: &Target) -> Option<Expr> {
        match target {
            Target::External => Some(variable("r_external")),
            Target::FixedExternal(id) => Some(text(id)),
            _ => None,
        }
    }

    fn template(target: &Target) -> Option<Expr> {
        match target {
            Target::Route => Some(variable("r_template")),
            Target::Fixed { template: Some(template), .. } => Some(text(template)),
            _ => None,
        }
    }

    /// Whether the resource is in one of the services.
    fn in_services<'a>(target: &Target, ids: impl IntoIterator<Item = &'a str>) -> Expr {
        match Self::service_names(target) {
            Some(names) => any_of(ids.into_iter().filter_map(split_id), names),
            None => Expr::val(false),
        }
    }

    /// Whether the resource is `id`.
    pub(super) fn is_resource(&self, target: &Target, uid: &EntityUID) -> Expr {
        let id: &str = uid.eid().as_ref();
        match (kind(uid).as_str(), Self::template(target)) {
            ("Service", None) => Self::in_services(target, [id]),
            ("Route", Some(template)) => match id.split_once('#') {
                Some((service, declared)) => and(Self::in_services(target, [service]), eq(template, text(declared))),
                None => Expr::val(false),
            },
            ("ExternalService", None) => {
                Self::external_name(target).map_or(Expr::val(false), |name| eq(name, text(id)))
            }
            _ => Expr::val(false),
        }
    }

    /// Whether the resource is in `ancestor`, itself included.
    pub(super) fn resource_in(&self, target: &Target, ancestor: &EntityUID) -> Expr {
        let id: &str = ancestor.eid().as_ref();
        let named = |position: &[(usize, &str)]| match Self::service_names(target) {
            Some(names) => {
                all(position.iter().filter_map(|(n, v)| Some(eq(names.get(*n)?.clone(), text(v)))).collect())
            }
            None => Expr::val(false),
        };
        match kind(ancestor).as_str() {
            "Service" => Self::in_services(target, [id]),
            "Namespace" => match id.split_once('/') {
                Some((td, ns)) => named(&[(0, td), (1, ns)]),
                None => Expr::val(false),
            },
            "Cluster" | "TrustDomain" => named(&[(0, id)]),
            "Team" => {
                let services = self.settings.services.iter().filter(|(_, f)| f.teams.contains(id));
                let external = self.settings.external_services.iter().filter(|(_, f)| f.teams.contains(id));
                let external: Vec<&str> = external.map(|(id, _)| id.as_str()).collect();
                let outside = Self::external_name(target).map_or(Expr::val(false), |name| one_of(name, &external));
                any(vec![Self::in_services(target, services.map(|(id, _)| id.as_str())), outside])
            }
            _ => self.is_resource(target, ancestor),
        }
    }

    /// An attribute of the resource.
    pub(super) fn resource_attribute(&self, target: &Target, name: &str) -> Option<Expr> {
        let s = self.settings;
        if let Some(id) = Self::external_name(target) {
            let (default, by_value) = match name {
                "host" => ("", grouped(s.external_services.iter().map(|(id, f)| (id, f.host.as_str())))),
                "data_class" => {
                    let default = s.defaults.data_class;
                    let of = s.external_services.iter();
                    (default.as_str(), grouped(of.map(|(id, f)| (id, f.data_class.unwrap_or(default).as_str()))))
                }
                _ => return None,
            };
            return Some(
                by_value
                    .into_iter()
                    .filter(|(value, _)| *value != default)
                    .fold(text(default), |otherwise, (value, ids)| {
                        ite(one_of(id.clone(), &ids), text(value), otherwise)
                    }),
            );
        }
        let on_route = Self::template(target).is_some();
        let (default, by_value) = match (name, on_route) {
            ("template", true) => return Self::template(target),
            ("namespace", false) => return Self::service_names(target).map(|[_, ns, _]| ns),
            ("env", false) => {
                let listed = s.services.iter().filter_map(|(id, f)| Some((id, f.env?.as_str())));
                (s.defaults.env.as_str(), grouped(listed))
            }
            ("data_class", _) => {
                let listed = s.services.iter().filter_map(|(id, f)| Some((id, f.data_class?.as_str())));
                (s.defaults.data_class.as_str(), grouped(listed))
            }
            _ => return None,
        };
        Some(
            by_value
                .into_iter()
                .filter(|(value, _)| *value != default)
                .fold(text(default), |otherwise, (value, ids)| {
                    ite(Self::in_services(target, ids), text(value), otherwise)
                }),
        )
    }

    /// The services' tags: `(which, key, value)`; routes and external services have none.
    pub(super) fn resource_tags(&self, target: &Target) -> Vec<(Expr, &'s str, &'s str)> {
        if Self::template(target).is_some() {
            return Vec::new();
        }
        let all_tags = self.settings.services.iter().flat_map(|(id, facts)| facts.tags.iter().map(move |t| (id, t)));
        let by_tag = grouped(all_tags.map(|(id, (key, value))| (id, (key.as_str(), value.as_str()))));
        by_tag.into_iter().map(|((key, value), ids)| (Self::in_services(target, ids), key, value)).collect()
    }
}

impl Target {
    /// The name of its entity type without the namespace.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Target::Service | Target::Fixed { template: None, .. } => "Service",
            Target::Route | Target::Fixed { template: Some(_), .. } => "Route",
            Target::External | Target::FixedExternal(_) => "ExternalService",
            Target::Denied => "",
        }
    }
}

/// The type of an entity without the namespace `Mesh`; types of other namespaces are nobody's.
pub(super) fn kind(uid: &EntityUID) -> String {
    uid.entity_type().to_string().strip_prefix("Mesh::").unwrap_or("").to_owned()
}

fn account_of(member: &str) -> Option<Names<'_>> {
    match split_id(member) {
        Some(names) => Some(names),
        None => split_spiffe_id(member).and_then(|(td, account)| account.map(|(ns, sa)| (td, ns, sa))),
    }
}

/// Whether the three names are one of `ids`; ids of one namespace share their first two comparisons.
fn any_of<'a>(ids: impl IntoIterator<Item = Names<'a>>, [first, second, third]: [Expr; 3]) -> Expr {
    let mut by_namespace: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (td, ns, name) in ids {
        by_namespace.entry((td, ns)).or_default().push(name);
    }
    any(by_namespace
        .into_iter()
        .map(|((td, ns), names)| {
            all(vec![eq(first.clone(), text(td)), eq(second.clone(), text(ns)), one_of(third.clone(), &names)])
        })
        .collect())
}

fn grouped<'a, V: Ord>(pairs: impl Iterator<Item = (&'a String, V)>) -> BTreeMap<V, Vec<&'a str>> {
    let mut by_value: BTreeMap<V, Vec<&str>> = BTreeMap::new();
    for (id, value) in pairs {
        by_value.entry(value).or_default().push(id);
    }
    by_value
}
