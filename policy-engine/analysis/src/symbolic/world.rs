//! What every request is, whatever the policies say: the solver may only think of such.

use std::collections::HashSet;

use cedar_policy_core::ast::{BinaryOp, Expr, Name, Var};
use signet_policy::Issuer;

use super::fold::{all, and, any, eq, ite, like, not, or, pattern, reads, text, variable};
use super::subject::{Caller, Target};
use super::translate::Compiled;
use crate::template::{Segment, Shape, Template, http};

/// Variables whose values are bounded only where a policy reads them.
const BOUNDED: [&str; 8] = ["dst_port", "minute_of_day", "weekday", "now", "path", "method", "jwt", "break_glass"];

/// Which routes are tried before one of them is taken.
pub(crate) struct RouteRule<'t> {
    pub(crate) service: &'t str,
    /// In the order in which they are tried; the last is the one that is taken.
    pub(crate) tried: &'t [Template],
}

/// The conditions under which a request falls on a route, or on none.
pub(crate) enum Paths<'t> {
    /// Anything: the service declares no routes.
    Free,
    /// The last of these and none before it.
    Last(&'t [Template]),
    /// None of these.
    None(&'t [Template]),
}

/// What is asked about: one request type with its resource.
pub(crate) struct Question<'q> {
    pub(crate) caller: Caller,
    pub(crate) action: &'q str,
    pub(crate) target: &'q Target,
    /// Services that the symbolic service is none of.
    pub(crate) except: &'q [&'q str],
    /// Routes that the symbolic route is one of.
    pub(crate) routes: &'q [RouteRule<'q>],
    /// External services that the symbolic one is one of.
    pub(crate) external: &'q [&'q str],
    /// How the request falls on a fixed resource, on each side.
    pub(crate) paths: &'q [Paths<'q>],
    /// Who vouches for end users.
    pub(crate) issuers: &'q [Issuer],
}

/// What holds of every request of this type, as far as `policies` can notice. None of it can fail to evaluate.
pub(crate) fn world(question: &Question<'_>, policies: &[&[Compiled]]) -> Vec<Expr> {
    let read: HashSet<&str> = BOUNDED
        .into_iter()
        .filter(|name| policies.iter().flat_map(|p| p.iter()).any(|p| reads(&p.condition, name)))
        .collect();
    let mut holds = caller(question.caller);
    holds.extend(target(question, &read));
    holds.extend(question.paths.iter().map(|paths| falls(paths, question.action, &read)));
    let between = |name: &str, least: i64, most: i64| {
        and(Expr::lesseq(Expr::val(least), variable(name)), Expr::lesseq(variable(name), Expr::val(most)))
    };
    if read.contains("dst_port") {
        holds.push(between("dst_port", 1, 65_535));
    }
    if read.contains("minute_of_day") {
        holds.push(between("minute_of_day", 0, 1_439));
    }
    if read.contains("weekday") {
        holds.push(between("weekday", 1, 7));
    }
    if read.contains("now")
        && let Some((first, last)) = datetime("1970-01-01").zip(datetime("2999-12-31"))
    {
        holds.push(and(Expr::lesseq(first, variable("now")), Expr::less(variable("now"), last)));
    }
    if read.contains("jwt") {
        holds.push(end_user(question));
    }
    if read.contains("break_glass") {
        holds.extend(grant(read.contains("now")));
    }
    if read.contains("path") {
        let like_path = |parts: &[Option<&str>]| like(variable("path"), pattern(parts.iter().copied()));
        holds.push(like_path(&[Some("/"), None]));
        holds.push(not(like_path(&[None, Some("//"), None])));
        for dots in ["/.", "/.."] {
            holds.push(not(like_path(&[None, Some(dots)])));
            let inside = format!("{dots}/");
            holds.push(not(like_path(&[None, Some(&inside), None])));
        }
    }
    if read.contains("method") && question.action == "http:OTHER" {
        for method in ["", "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] {
            holds.push(not(eq(variable("method"), text(method))));
        }
    }
    holds
}

/// There is an end user only where a declared issuer of the service vouches for one, to one of its audiences.
fn end_user(question: &Question<'_>) -> Expr {
    let claim = |name: &str| Expr::get_attr(variable("jwt"), name.into());
    let vouched = question.issuers.iter().map(|issuer| {
        let service = match question.target {
            _ if issuer.services.is_empty() => Expr::val(true),
            Target::Fixed { service, .. } => Expr::val(issuer.serves(service)),
            _ => any(issuer.services.iter().map(|id| names(id)).collect()),
        };
        let audiences = Expr::set(issuer.audiences.iter().map(|audience| text(audience)));
        let to_us = Expr::binary_app(BinaryOp::ContainsAny, claim("aud"), audiences);
        all(vec![service, eq(claim("iss"), text(&issuer.issuer)), to_us])
    });
    let named = not(eq(claim("sub"), text("")));
    let vouched = and(any(vouched.collect()), named);
    // Not `or`: what reads the claims has to stand behind the guard.
    let has = Expr::has_attr(Expr::var(Var::Context), "jwt".into());
    ite(has, vouched, Expr::val(true))
}

/// A grant has a ticket and ends, after the request's time where a policy reads that.
fn grant(reads_now: bool) -> Option<Expr> {
    let part = |name: &str| Expr::get_attr(variable("break_glass"), name.into());
    let (first, last) = datetime("1970-01-02").zip(datetime("2999-12-31"))?;
    let mut holds =
        vec![not(eq(part("ticket"), text(""))), Expr::lesseq(first, part("until")), Expr::less(part("until"), last)];
    if reads_now {
        holds.push(Expr::less(variable("now"), part("until")));
    }
    let has = Expr::has_attr(Expr::var(Var::Context), "break_glass".into());
    Some(ite(has, all(holds), Expr::val(true)))
}

fn datetime(day: &str) -> Option<Expr> {
    Some(Expr::call_extension_fn("datetime".parse::<Name>().ok()?, vec![text(day)]))
}

fn filled(name: &str) -> Expr {
    not(eq(variable(name), text("")))
}

/// A SPIFFE ID has a trust domain; one of an account has its names, and any other has none.
fn caller(caller: Caller) -> Vec<Expr> {
    match caller {
        Caller::Unauthenticated => Vec::new(),
        Caller::Workload => {
            let empty = |name: &str| eq(variable(name), text(""));
            let account = all(vec![variable("p_account"), filled("p_ns"), filled("p_sa"), empty("p_path")]);
            let other = all(vec![not(variable("p_account")), empty("p_ns"), empty("p_sa")]);
            vec![filled("p_td"), or(account, other)]
        }
    }
}

fn names(service: &str) -> Expr {
    match signet_policy::split_id(service) {
        Some((td, ns, name)) => all(vec![
            eq(variable("r_td"), text(td)),
            eq(variable("r_ns"), text(ns)),
            eq(variable("r_name"), text(name)),
        ]),
        None => Expr::val(false),
    }
}

fn target(question: &Question<'_>, read: &HashSet<&str>) -> Vec<Expr> {
    match question.target {
        Target::Service => {
            let mut holds: Vec<Expr> = ["r_td", "r_ns", "r_name"].map(filled).into();
            holds.push(not(any(question.except.iter().map(|id| names(id)).collect())));
            holds
        }
        Target::Route => {
            let routes = question.routes.iter().filter_map(|rule| {
                let taken = rule.tried.last()?;
                Some(all(vec![
                    eq(variable("r_template"), text(&taken.text)),
                    names(rule.service),
                    falls(&Paths::Last(rule.tried), question.action, read),
                ]))
            });
            vec![any(routes.collect())]
        }
        Target::External => vec![super::fold::one_of(variable("r_external"), question.external)],
        Target::Fixed { .. } | Target::FixedExternal(_) | Target::Denied => Vec::new(),
    }
}

fn falls(paths: &Paths<'_>, action: &str, read: &HashSet<&str>) -> Expr {
    let reads_path = read.contains("path") || action == "grpc:call";
    match paths {
        Paths::Free => Expr::val(true),
        Paths::Last(tried) => match tried.split_last() {
            Some((taken, before)) => {
                let mut holds = vec![matches(taken, action, read).0];
                if reads_path {
                    holds.extend(before.iter().filter_map(|t| exact(t, action, read)).map(not));
                }
                all(holds)
            }
            None => Expr::val(false),
        },
        Paths::None(declared) if reads_path => {
            all(declared.iter().filter_map(|t| exact(t, action, read)).map(not).collect())
        }
        Paths::None(_) => Expr::val(true),
    }
}

/// The condition of a route where it is exact, and so may be negated.
fn exact(template: &Template, action: &str, read: &HashSet<&str>) -> Option<Expr> {
    let (condition, exact) = matches(template, action, read);
    exact.then_some(condition)
}

/// When a request's path fits the template, and whether that is exact: it may be too wide, never too narrow.
fn matches(template: &Template, action: &str, read: &HashSet<&str>) -> (Expr, bool) {
    if let Shape::Grpc { service, method } = &template.shape {
        return (and(eq(variable("service"), text(service)), eq(variable("method"), text(method))), true);
    }
    let Some((method, segments)) = http(template) else { return (Expr::val(false), true) };
    let method = match action == "http:OTHER" && read.contains("method") {
        true => eq(variable("method"), text(method)),
        false => Expr::val(true),
    };
    if !read.contains("path") {
        // Nobody looks at the path: whether there is one at all was found out by trying.
        return (method, false);
    }
    let (path, exact) = path_matches(segments);
    (and(method, path), exact && (action != "http:OTHER" || read.contains("method")))
}

/// `like` knows no segments; they are told apart by the number of slashes, because no parameter holds one.
fn path_matches(segments: &[Segment]) -> (Expr, bool) {
    let mut parts: Vec<Option<&str>> = Vec::new();
    for segment in segments {
        parts.push(Some("/"));
        parts.push(match segment {
            Segment::Literal(text) => Some(text),
            Segment::One | Segment::Rest => None,
        });
    }
    let path = |parts: Vec<Option<&str>>| like(variable("path"), pattern(parts));
    let fits = path(parts);
    // As many slashes as `n`, or more.
    let slashes = |n: usize| path((0..n).flat_map(|_| [None, Some("/")]).chain([None]).collect());
    let ends_empty = || path(vec![None, Some("/")]);
    match segments.last() {
        Some(Segment::Rest) => {
            let fixed = segments.len();
            let only_slash = and(not(slashes(fixed + 1)), ends_empty());
            let one_then_literal = segments.iter().skip_while(|s| **s != Segment::One);
            let exact = !one_then_literal.into_iter().any(|s| matches!(s, Segment::Literal(_)));
            (and(fits, not(only_slash)), exact)
        }
        Some(Segment::One) => (all(vec![fits, not(slashes(segments.len() + 1)), not(ends_empty())]), true),
        _ => (and(fits, not(slashes(segments.len() + 1))), true),
    }
}
