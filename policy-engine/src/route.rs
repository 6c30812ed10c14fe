//! Routes that `signet.yaml` declares for a service: path templates and gRPC methods.
//!
//! A template's segment is literal, `{name}` (exactly one segment, never empty) or, at the end, `{*name}` (one segment
//! or more). Templates match the normalised path; of several that match, the more literal one wins from the left, so
//! the order in the file does not matter. `HEAD` falls back to the `GET` route of the same path.

use crate::decide::Target;
use crate::path::normalise_path;
use crate::request::Action;

/// The routes of one service, most specific first.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    routes: Vec<Route>,
}

#[derive(Debug)]
pub(crate) struct Route {
    /// As declared: `GET /accounts/{id}`.
    pub(crate) template: String,
    /// `<service>#<template>`.
    pub(crate) id: String,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Http { method: String, segments: Vec<Segment> },
    Grpc { service: String, method: String },
}

/// Ordered from most to least specific, so that sorting templates sorts by precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    One,
    Rest,
}

impl RouteTable {
    /// Parses the declarations; on error gives the offending one and why.
    pub(crate) fn new(service: &str, declared: &[String]) -> Result<Self, (String, &'static str)> {
        let mut routes: Vec<Route> = Vec::with_capacity(declared.len());
        for template in declared {
            let kind = parse(template).map_err(|why| (template.clone(), why))?;
            if routes.iter().any(|r| r.kind == kind) {
                return Err((template.clone(), "another route of this service matches the same requests"));
            }
            routes.push(Route { template: template.clone(), id: format!("{service}#{template}"), kind });
        }
        routes.sort_by(|a, b| match (&a.kind, &b.kind) {
            (Kind::Http { segments: a, .. }, Kind::Http { segments: b, .. }) => a.cmp(b),
            _ => std::cmp::Ordering::Equal,
        });
        Ok(Self { routes })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    pub(crate) fn http(&self, method: &str, path: &str) -> Option<(usize, &Route)> {
        let find = |method: &str| {
            self.routes.iter().enumerate().find(|(_, r)| {
                matches!(&r.kind, Kind::Http { method: m, segments } if m == method && matches(segments, path))
            })
        };
        find(method).or_else(|| if method == "HEAD" { find("GET") } else { None })
    }

    pub(crate) fn grpc(&self, service: &str, method: &str) -> Option<(usize, &Route)> {
        self.routes
            .iter()
            .enumerate()
            .find(|(_, r)| matches!(&r.kind, Kind::Grpc { service: s, method: m } if s == service && m == method))
    }
}

/// What a request about the table's service is asked about.
pub(crate) fn target<'t>(table: &'t RouteTable, action: &Action<'_>) -> Target<'t> {
    let found = match action {
        Action::Http { method, path, .. } => table.http(method, path),
        Action::Grpc { service, method } => table.grpc(service, method),
        // Connections have no routes; the schema gives these actions the service itself.
        Action::TcpConnect { .. } | Action::GatewayForward { .. } | Action::EgressConnect { .. } => {
            return Target::Whole;
        }
    };
    found.map_or(Target::Unknown, |(position, route)| Target::Route(position, route))
}

fn parse(template: &str) -> Result<Kind, &'static str> {
    match template.split_once(' ') {
        Some((method, path)) => {
            if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
                return Err("the method is not in capitals");
            }
            Ok(Kind::Http { method: method.to_owned(), segments: parse_path(path)? })
        }
        None => {
            let (service, method) = template.split_once('/').ok_or("it has neither a method and a path nor a slash")?;
            let name =
                |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
            if !name(service) || !name(method) || method.contains('.') {
                return Err("it is not `package.Service/Method`");
            }
            Ok(Kind::Grpc { service: service.to_owned(), method: method.to_owned() })
        }
    }
}

fn parse_path(path: &str) -> Result<Vec<Segment>, &'static str> {
    let rest = path.strip_prefix('/').ok_or("the path does not begin with `/`")?;
    let mut segments = Vec::new();
    for part in rest.split('/') {
        if segments.last() == Some(&Segment::Rest) {
            return Err("nothing may follow `{*name}`");
        }
        segments.push(match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            Some(name) if !is_name(name.strip_prefix('*').unwrap_or(name)) => return Err("a parameter has no name"),
            Some(name) if name.starts_with('*') => Segment::Rest,
            Some(_) => Segment::One,
            None if part.contains(['{', '}', '*']) => return Err("a parameter has to fill its segment"),
            None => Segment::Literal(part.to_owned()),
        });
    }
    // A literal that is not in normal form could never match.
    let sample: String = segments
        .iter()
        .map(|s| if let Segment::Literal(text) = s { format!("/{text}") } else { "/x".to_owned() })
        .collect();
    match normalise_path(&sample) {
        Ok(normal) if normal == sample => Ok(segments),
        _ => Err("the path is not in normal form, so nothing could match it"),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn matches(segments: &[Segment], path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let mut parts = path.split('/');
    for segment in segments {
        match (segment, parts.next()) {
            (Segment::Literal(text), Some(part)) if text == part => {}
            (Segment::One, Some(part)) if !part.is_empty() => {}
            (Segment::Rest, Some(part)) => return !part.is_empty(),
            _ => return false,
        }
    }
    parts.next().is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn table(declared: &[&str]) -> RouteTable {
        let declared: Vec<String> = declared.iter().map(|s| (*s).to_owned()).collect();
        RouteTable::new("td/ns/s", &declared).unwrap()
    }

    #[test]
    fn the_most_literal_template_wins_whatever_the_order() {
        let declared =
            ["GET /{*rest}", "GET /accounts/{id}", "GET /accounts/me", "GET /accounts/{id}/entries", "GET /"];
        for declared in [declared.to_vec(), declared.iter().rev().copied().collect()] {
            let table = table(&declared);
            let cases = [
                ("/accounts/me", Some("GET /accounts/me")),
                ("/accounts/1", Some("GET /accounts/{id}")),
                ("/accounts/1/entries", Some("GET /accounts/{id}/entries")),
                ("/accounts/1/other", Some("GET /{*rest}")),
                ("/", Some("GET /")),
            ];
            for (path, want) in cases {
                assert_eq!(table.http("GET", path).map(|(_, r)| r.template.as_str()), want, "{path}");
            }
        }
    }

    #[test]
    fn parameters_match_exactly_one_segment() {
        let table = table(&["GET /users/{id}/orders"]);
        for path in ["/users//orders", "/users/1/2/orders", "/users/1/orders/", "/users/1", "/Users/1/orders"] {
            assert!(table.http("GET", path).is_none(), "{path}");
        }
        let (_, route) = table.http("GET", "/users/1/orders").unwrap();
        assert_eq!(route.id, "td/ns/s#GET /users/{id}/orders");
        assert!(table.http("POST", "/users/1/orders").is_none());
        assert!(table.http("HEAD", "/users/1/orders").is_some());
    }

    #[test]
    fn grpc_methods_match_by_name() {
        let table = table(&["bank.v1.Payments/Pay"]);
        assert!(table.grpc("bank.v1.Payments", "Pay").is_some());
        assert!(table.grpc("bank.v1.Payments", "Refund").is_none());
        assert!(table.http("POST", "/bank.v1.Payments/Pay").is_none());
    }

    #[test]
    fn malformed_templates_are_refused() {
        let bad = [
            "",
            "GET",
            "get /a",
            "GET a",
            "GET /a//b",
            "GET /a/../b",
            "GET /{}",
            "GET /x{id}",
            "GET /{*r}/b",
            "A/b.C",
            "GET /a b",
            "/a/b",
        ];
        for template in bad {
            assert!(RouteTable::new("s", &[template.to_owned()]).is_err(), "{template}");
        }
        assert!(RouteTable::new("s", &["GET /{a}".to_owned(), "GET /{b}".to_owned()]).is_err());
    }
}
