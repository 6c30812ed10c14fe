//! Which routes apply to whose calls of which service, in order of precedence (Gateway API 1.6, GEP-1294).
//!
//! Callers of a namespace that has routes of its own for a service (consumer routes) follow those alone; everybody else
//! follows the routes of the service's namespace (producer routes). GRPCRoutes win over HTTPRoutes for the same port.
//! Within the group that applies, matches are merged and sorted, so that a proxy takes the first that fits.

use std::cmp::Reverse;

use signet_api::control::{self as wire, OutboundService, RouteStatus, Routes};

use crate::model::{Backend, Desired, Match, Port, Route, Rule, Service, ServiceName, Target, World};

/// Gives each service of `outbound` the routes that apply to callers of `own_namespace`.
pub(super) fn attach(desired: &Desired, own_namespace: &str, outbound: &mut [OutboundService]) {
    if desired.routes.is_empty() {
        return;
    }
    let resolve =
        |backend: &Backend| backend.target.as_ref().and_then(|target| find(desired, outbound, target, backend));
    let mut attached = Vec::new();
    for (index, service) in outbound.iter().enumerate() {
        let routes = applying(desired, service, own_namespace);
        if service.protocol != "tcp" && !routes.is_empty() {
            attached.push((index, merged(&routes, &resolve)));
        }
    }
    for (index, routes) in attached {
        if let Some(service) = outbound.get_mut(index) {
            service.routes = Some(routes);
        }
    }
}

/// `<td>/<ns>/<name>` of what a reference leads to; none when there is no such service with such an HTTP port.
fn find(desired: &Desired, outbound: &[OutboundService], target: &Target, backend: &Backend) -> Option<String> {
    let local = |service: &&OutboundService| service.gateway.is_none() && is_named(service, target);
    let far = |service: &&OutboundService| {
        let host = target.name().clusterset_host();
        service.gateway.is_some() && service.hosts.contains(&host)
    };
    let fits = |service: &&OutboundService| service.port == u32::from(backend.port) && service.protocol != "tcp";
    let found = match target {
        Target::Service(_) => outbound.iter().filter(local).find(fits),
        Target::Import(name) => {
            let exported = desired.services.get(name).is_some_and(|service| service.exported);
            outbound
                .iter()
                .filter(far)
                .find(fits)
                .or_else(|| outbound.iter().filter(|s| exported && local(s)).find(fits))
        }
    };
    found.map(|service| service.service.clone())
}

fn is_named(service: &OutboundService, target: &Target) -> bool {
    ServiceName::of_qualified(&service.service).as_ref() == Some(target.name())
}

/// The routes that callers of `own_namespace` follow: one kind, one group.
fn applying<'d>(desired: &'d Desired, service: &OutboundService, own_namespace: &str) -> Vec<&'d Route> {
    let attached = |route: &&Route| {
        route.parents.iter().any(|(target, port)| {
            let kind = match target {
                Target::Service(_) => service.gateway.is_none(),
                Target::Import(name) => service.hosts.contains(&name.clusterset_host()),
            };
            kind && is_named(service, target) && port.is_none_or(|port| u32::from(port) == service.port)
        })
    };
    let namespace = service.service.split('/').nth(1).unwrap_or_default();
    let of = |namespace: &str| -> Vec<&'d Route> {
        desired.routes.iter().filter(|route| route.name.namespace == namespace).filter(attached).collect()
    };
    let mut routes = of(own_namespace);
    if routes.is_empty() && own_namespace != namespace {
        routes = of(namespace);
    }
    let first = routes.iter().map(|route| route.kind).min();
    routes.retain(|route| Some(route.kind) == first);
    routes
}

fn merged(routes: &[&Route], resolve: &dyn Fn(&Backend) -> Option<String>) -> Routes {
    let mut rules: Vec<&Rule> = Vec::new();
    let mut matches = Vec::new();
    for (rule, one) in sorted(routes) {
        let known = rules.iter().position(|known| std::ptr::eq(*known, rule));
        let index = known.unwrap_or_else(|| {
            rules.push(rule);
            rules.len() - 1
        });
        matches.push(wire::RouteMatch { rule: u32::try_from(index).unwrap_or(u32::MAX), ..one.wire.clone() });
    }
    Routes { rules: rules.into_iter().map(|rule| ruled(rule, resolve)).collect(), matches }
}

/// All matches, the first that fits first: by rank, then the oldest route, then the first by name, then the first of it.
fn sorted<'r>(routes: &[&'r Route]) -> Vec<(&'r Rule, &'r Match)> {
    let mut routes: Vec<&Route> = routes.to_vec();
    routes.sort_by_key(|route| (route.created.unwrap_or(i64::MAX), route.name.to_string()));
    let rules = routes.into_iter().flat_map(|route| &route.rules);
    let mut all: Vec<_> = rules.flat_map(|rule| rule.matches.iter().map(move |one| (rule, one))).collect();
    // Stable: what is equal in rank stays in the order above.
    all.sort_by_key(|(_, one)| Reverse(one.rank));
    all
}

fn ruled(rule: &Rule, resolve: &dyn Fn(&Backend) -> Option<String>) -> wire::RouteRule {
    let backend = |backend: &Backend| wire::Backend {
        service: resolve(backend).unwrap_or_default(),
        port: u32::from(backend.port),
        weight: backend.weight,
        request_headers: backend.request_headers.clone(),
        response_headers: backend.response_headers.clone(),
    };
    let mut action = rule.action.clone();
    action.backends = rule.backends.iter().map(backend).collect();
    let mirrors = rule.mirrors.iter().map(|(to, numerator, denominator)| wire::Mirror {
        backend: Some(backend(to)),
        numerator: *numerator,
        denominator: *denominator,
    });
    action.mirrors = mirrors.collect();
    action
}

/// For people: what applies to callers of the service's own namespace and, by namespace, to others.
pub(super) fn status(world: &World, desired: &Desired, service: &Service, port: &Port) -> Vec<RouteStatus> {
    let described = OutboundService {
        service: service.name.qualified(&world.trust_domain),
        hosts: if service.exported { vec![service.name.clusterset_host()] } else { Vec::new() },
        port: u32::from(port.port),
        ..OutboundService::default()
    };
    let mut namespaces: Vec<&str> = desired.routes.iter().map(|route| route.name.namespace.as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut status = Vec::new();
    for namespace in namespaces {
        let own = namespace == service.name.namespace;
        let routes = applying(desired, &described, namespace);
        if !own && routes.iter().all(|route| route.name.namespace != namespace) {
            continue;
        }
        status.extend(sorted(&routes).into_iter().map(|(rule, one)| RouteStatus {
            rule: rule.action.name.clone(),
            namespace: if own { String::new() } else { namespace.to_owned() },
            r#match: shown_match(&one.wire),
            action: shown_action(rule),
        }));
    }
    status
}

fn shown_match(one: &wire::RouteMatch) -> String {
    use wire::path_match::Kind;
    let path = match one.path.as_ref().and_then(|path| path.kind.as_ref()) {
        Some(Kind::Exact(path)) => path.clone(),
        Some(Kind::Prefix(path)) if path == "/" => "/*".to_owned(),
        Some(Kind::Prefix(path)) => format!("{path}/*"),
        Some(Kind::Regex(path)) => format!("~{path}"),
        None => "/*".to_owned(),
    };
    let method = if one.method.is_empty() { "*" } else { &one.method };
    let mut text = format!("{method} {path}");
    for value in &one.headers {
        text.push_str(&format!(" {}{}{}", value.name, if value.regex { "~" } else { ": " }, value.value));
    }
    for value in &one.query {
        text.push_str(&format!(" ?{}{}{}", value.name, if value.regex { "~" } else { "=" }, value.value));
    }
    text
}

fn shown_action(rule: &Rule) -> String {
    if let Some(redirect) = &rule.action.redirect {
        return format!("redirect {}", redirect.status);
    }
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let shown = rule.backends.iter().map(|backend| {
        let name = backend.target.as_ref().map_or_else(|| "?".to_owned(), |target| target.name().to_string());
        let share = (u64::from(backend.weight) * 100).checked_div(total).unwrap_or(0);
        format!("{name}:{} {share}%", backend.port)
    });
    shown.collect::<Vec<_>>().join(", ")
}
