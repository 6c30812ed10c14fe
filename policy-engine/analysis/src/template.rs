//! Route templates as the analysis needs them: which requests fall on which, and a request that does.
//!
//! The engine's own table stays the judge: whatever is concluded here is asked of [`signet_policy::Bundle::route_of`]
//! before it is shown.

use std::collections::BTreeSet;

/// One segment of a path template, ordered from most to least specific as in the engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    Literal(String),
    One,
    Rest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Http { method: String, segments: Vec<Segment> },
    Grpc { service: String, method: String },
}

/// A declared route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// As declared.
    pub(crate) text: String,
    pub(crate) shape: Shape,
}

/// The methods that have an action of their own.
const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

impl Template {
    /// A declaration that the engine has accepted.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let shape = match text.split_once(' ') {
            Some((method, path)) => {
                let segments = path.strip_prefix('/')?.split('/').map(|part| {
                    match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                        Some(name) if name.starts_with('*') => Segment::Rest,
                        Some(_) => Segment::One,
                        None => Segment::Literal(part.to_owned()),
                    }
                });
                Shape::Http { method: method.to_owned(), segments: segments.collect() }
            }
            None => {
                let (service, method) = text.split_once('/')?;
                Shape::Grpc { service: service.to_owned(), method: method.to_owned() }
            }
        };
        Some(Self { text: text.to_owned(), shape })
    }
}

/// The routes of one service that an action's requests can fall on, in the order in which they are tried.
pub(crate) fn for_action(declared: &[String], action: &str) -> Vec<Template> {
    let all: Vec<Template> = declared.iter().filter_map(|text| Template::parse(text)).collect();
    let http = |wanted: &dyn Fn(&str) -> bool| {
        let mut found: Vec<Template> =
            all.iter().filter(|t| matches!(&t.shape, Shape::Http { method, .. } if wanted(method))).cloned().collect();
        found.sort_by(|a, b| match (&a.shape, &b.shape) {
            (Shape::Http { segments: a, .. }, Shape::Http { segments: b, .. }) => a.cmp(b),
            _ => std::cmp::Ordering::Equal,
        });
        found
    };
    match action.strip_prefix("http:") {
        Some("OTHER") => http(&|m| !METHODS.contains(&m)),
        // HEAD falls back to GET.
        Some("HEAD") => {
            let mut found = http(&|m| m == "HEAD");
            found.extend(http(&|m| m == "GET"));
            found
        }
        Some(method) => http(&|m| m == method),
        None if action == "grpc:call" => all.into_iter().filter(|t| matches!(t.shape, Shape::Grpc { .. })).collect(),
        None => Vec::new(),
    }
}

/// Whether requests of this action fall on routes.
pub(crate) fn has_routes(action: &str) -> bool {
    action.starts_with("http:") || action == "grpc:call"
}

/// What a request needs to fall on a route: a method and a path, or a gRPC service and a method.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    /// The HTTP method, or the gRPC service.
    pub(crate) first: String,
    /// The path, or the gRPC method.
    pub(crate) second: String,
}

/// Calls of the action among which every combination of routes that is possible occurs: for two lists of routes, one of
/// each side, requests that fall on the first (or on none), on the second (or on none), as far as there are any.
///
/// Segments that no template names are fresh, so that a more specific route catches such a call only where it catches all
/// calls of the same length that fall on both.
pub(crate) fn calls(action: &str, base: &[Template], head: &[Template]) -> BTreeSet<Call> {
    let mut found = BTreeSet::new();
    if action == "grpc:call" {
        for template in base.iter().chain(head) {
            if let Shape::Grpc { service, method } = &template.shape {
                found.insert(Call { first: service.clone(), second: method.clone() });
            }
        }
        found.insert(Call { first: "example.v1.Unlisted".to_owned(), second: "Call".to_owned() });
        return found;
    }
    let default = match action.strip_prefix("http:") {
        Some("OTHER") | None => "REPORT",
        Some(method) => method,
    };
    let longest = base.iter().chain(head).map(|t| http(t).map_or(0, |(_, s)| s.len())).max().unwrap_or(0) + 1;
    // What stands for "on no route" is a template that fits everything.
    let any = vec![Segment::Rest];
    let of = |list: &[Template]| -> Vec<(Option<String>, Vec<Segment>)> {
        let mut all: Vec<_> = list
            .iter()
            .filter_map(|t| http(t).map(|(method, segments)| (Some(method.to_owned()), segments.to_vec())))
            .collect();
        all.push((None, any.clone()));
        all
    };
    for (base_method, a) in of(base) {
        for (head_method, b) in of(head) {
            let method = match (&base_method, &head_method) {
                (Some(a), Some(b)) if a != b && action != "http:HEAD" => continue,
                _ if action == "http:HEAD" => "HEAD",
                (Some(m), _) | (None, Some(m)) => m,
                (None, None) => default,
            };
            for length in 1..=longest {
                if let Some(path) = common(&a, &b, length) {
                    found.insert(Call { first: method.to_owned(), second: path });
                }
            }
        }
    }
    found
}

pub(crate) fn http(template: &Template) -> Option<(&str, &[Segment])> {
    match &template.shape {
        Shape::Http { method, segments } => Some((method, segments)),
        Shape::Grpc { .. } => None,
    }
}

/// A path of `length` segments that fits both, all free segments fresh.
fn common(a: &[Segment], b: &[Segment], length: usize) -> Option<String> {
    let fits = |s: &[Segment]| match s.last() {
        Some(Segment::Rest) => s.len() <= length,
        _ => s.len() == length,
    };
    if !fits(a) || !fits(b) {
        return None;
    }
    let at = |s: &[Segment], n: usize| match s.get(n) {
        Some(Segment::Literal(text)) => Some(text.clone()),
        _ => None,
    };
    let mut path = String::new();
    for n in 0..length {
        let part = match (at(a, n), at(b, n)) {
            (Some(x), Some(y)) if x != y => return None,
            (Some(x), _) | (None, Some(x)) => x,
            (None, None) => format!("x{}", n + 1),
        };
        path.push('/');
        path.push_str(&part);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn list(declared: &[&str], action: &str) -> Vec<Template> {
        for_action(&declared.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), action)
    }

    fn texts(found: &[Template]) -> Vec<&str> {
        found.iter().map(|t| t.text.as_str()).collect()
    }

    #[test]
    fn routes_are_tried_in_the_engines_order() {
        let declared = ["GET /{*all}", "GET /a/{id}", "HEAD /a/b", "GET /a/b", "PURGE /x", "b.v1.P/Pay"];
        assert_eq!(texts(&list(&declared, "http:GET")), ["GET /a/b", "GET /a/{id}", "GET /{*all}"]);
        assert_eq!(texts(&list(&declared, "http:HEAD")), ["HEAD /a/b", "GET /a/b", "GET /a/{id}", "GET /{*all}"]);
        assert_eq!(texts(&list(&declared, "http:OTHER")), ["PURGE /x"]);
        assert_eq!(texts(&list(&declared, "grpc:call")), ["b.v1.P/Pay"]);
        assert!(list(&declared, "tcp:connect").is_empty());
    }

    #[test]
    fn calls_cover_every_pair_of_routes_that_can_meet() {
        let base = list(&["GET /a/{id}"], "http:GET");
        let head = list(&["GET /a/b", "GET /{*rest}"], "http:GET");
        let paths: Vec<String> = calls("http:GET", &base, &head).into_iter().map(|c| c.second).collect();
        for path in ["/a/b", "/a/x2", "/x1", "/x1/x2/x3"] {
            assert!(paths.contains(&path.to_owned()), "{path} in {paths:?}");
        }
    }
}
