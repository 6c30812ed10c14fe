//! From routes as they are written to routes that can be applied, or to an error that names the field.

use signet_api::control as wire;

use super::filters::{self, Filters};
use super::{BackendRef, GrpcMatch, GrpcRoute, HttpMatch, HttpRoute, Kind, MethodMatch, ParentRef, Retry, Timeouts};
use super::{PathMatch, ValueMatch};
use crate::manifests::ManifestError;
use crate::manifests::place::Place;
use crate::manifests::resolve::{check_label, name_of, port_number};
use crate::model::{Backend, Match, Route, RouteKind, Rule, ServiceName, Target};

/// HTTP methods that a match may name (the Gateway API's own list).
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Rules of one route, and matches of one rule.
const MAX_RULES: usize = 64;
/// Compiled, one expression may take this much.
const MAX_REGEX: usize = 1 << 20;
/// Attempts after the first that a rule may ask for.
const MAX_ATTEMPTS: i32 = 10;
const DEFAULT_ATTEMPTS: u32 = 2;
const DEFAULT_BACKOFF_MS: u64 = 25;

pub(in crate::manifests) fn http(place: &Place, route: &HttpRoute) -> Result<Route, ManifestError> {
    let name = name_of(place, &route.metadata)?;
    let written = route.spec.rules.as_deref().unwrap_or(&[]);
    bounded(place, "spec.rules", written.len())?;
    let mut rules = Vec::new();
    for (index, rule) in written.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        if rule.session_persistence.is_some() {
            return Err(unsupported(
                place,
                &format!("{at}.sessionPersistence"),
                "a TrafficPolicy with consistent hash",
            ));
        }
        bounded(place, &format!("{at}.matches"), rule.matches.len())?;
        let mut matches = Vec::new();
        for (number, written) in rule.matches.iter().enumerate() {
            matches.push(http_match(place, &format!("{at}.matches[{number}]"), written)?);
        }
        if matches.is_empty() {
            matches.push(http_match(place, &at, &HttpMatch::default())?);
        }
        let filters = filters::read(place, &format!("{at}.filters"), &rule.filters, &name)?;
        filters.fits_http(place, &at, &rule.matches, !rule.backend_refs.is_empty())?;
        let label = format!("HTTPRoute/{name}#{}", rule.name.clone().unwrap_or_else(|| index.to_string()));
        let backends = backends(place, &at, &rule.backend_refs, &name)?;
        let (request, backend) = timeouts(place, &at, rule.timeouts.as_ref())?;
        let mut rule = ruled(label, matches, filters, backends, retry(place, &at, rule.retry.as_ref())?);
        rule.action.request_timeout_ms = request;
        rule.action.backend_timeout_ms = backend;
        rules.push(rule);
    }
    if rules.is_empty() {
        let matches = vec![http_match(place, "spec", &HttpMatch::default())?];
        rules.push(ruled(format!("HTTPRoute/{name}#0"), matches, Filters::default(), Vec::new(), None));
    }
    let created = created(&route.metadata);
    Ok(Route { kind: RouteKind::Http, parents: parents(place, &route.spec.parent_refs, &name)?, name, created, rules })
}

pub(in crate::manifests) fn grpc(place: &Place, route: &GrpcRoute) -> Result<Route, ManifestError> {
    let name = name_of(place, &route.metadata)?;
    let written = route.spec.rules.as_deref().unwrap_or(&[]);
    bounded(place, "spec.rules", written.len())?;
    let mut rules = Vec::new();
    for (index, rule) in written.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        if rule.session_persistence.is_some() {
            return Err(unsupported(
                place,
                &format!("{at}.sessionPersistence"),
                "a TrafficPolicy with consistent hash",
            ));
        }
        bounded(place, &format!("{at}.matches"), rule.matches.len())?;
        let mut matches = Vec::new();
        for (number, written) in rule.matches.iter().enumerate() {
            matches.push(grpc_match(place, &format!("{at}.matches[{number}]"), written)?);
        }
        if matches.is_empty() {
            matches.push(grpc_match(place, &at, &GrpcMatch::default())?);
        }
        let filters = filters::read(place, &format!("{at}.filters"), &rule.filters, &name)?;
        filters.fits_grpc(place, &at)?;
        let label = format!("GRPCRoute/{name}#{}", rule.name.clone().unwrap_or_else(|| index.to_string()));
        rules.push(ruled(label, matches, filters, backends(place, &at, &rule.backend_refs, &name)?, None));
    }
    if rules.is_empty() {
        let matches = vec![grpc_match(place, "spec", &GrpcMatch::default())?];
        rules.push(ruled(format!("GRPCRoute/{name}#0"), matches, Filters::default(), Vec::new(), None));
    }
    let created = created(&route.metadata);
    Ok(Route { kind: RouteKind::Grpc, parents: parents(place, &route.spec.parent_refs, &name)?, name, created, rules })
}

fn ruled(
    label: String,
    matches: Vec<Match>,
    filters: Filters,
    backends: Vec<Backend>,
    retry: Option<wire::Retry>,
) -> Rule {
    let action = wire::RouteRule {
        name: label,
        request_headers: filters.request_headers,
        response_headers: filters.response_headers,
        redirect: filters.redirect,
        rewrite: filters.rewrite,
        retry,
        ..wire::RouteRule::default()
    };
    Rule { matches, action, backends, mirrors: filters.mirrors }
}

fn created(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<i64> {
    metadata.creation_timestamp.as_ref().map(|time| time.0.as_second())
}

fn bounded(place: &Place, field: &str, count: usize) -> Result<(), ManifestError> {
    if count > MAX_RULES {
        return Err(place.error(field, format!("has more than {MAX_RULES} entries; split the route")));
    }
    Ok(())
}

pub(super) fn unsupported(place: &Place, field: &str, instead: &str) -> ManifestError {
    place.error(field, format!("is not supported; use {instead}, or take it out"))
}

fn parents(
    place: &Place,
    written: &[ParentRef],
    route: &ServiceName,
) -> Result<Vec<(Target, Option<u16>)>, ManifestError> {
    let mut parents = Vec::new();
    for (index, parent) in written.iter().enumerate() {
        let at = format!("spec.parentRefs[{index}]");
        let Some(kind) = parent.kind() else { continue };
        let target = target(place, &at, kind, &parent.name, parent.namespace.as_deref(), route)?;
        let port = parent.port.map(|port| port_number(place, &format!("{at}.port"), port)).transpose()?;
        parents.push((target, port));
    }
    Ok(parents)
}

fn target(
    place: &Place,
    at: &str,
    kind: Kind,
    name: &str,
    namespace: Option<&str>,
    route: &ServiceName,
) -> Result<Target, ManifestError> {
    check_label(place, &format!("{at}.name"), name)?;
    let namespace = namespace.unwrap_or(&route.namespace);
    check_label(place, &format!("{at}.namespace"), namespace)?;
    let name = ServiceName { namespace: namespace.to_owned(), name: name.to_owned() };
    Ok(match kind {
        Kind::Service => Target::Service(name),
        Kind::ServiceImport => Target::Import(name),
    })
}

fn backends(
    place: &Place,
    rule: &str,
    written: &[BackendRef],
    route: &ServiceName,
) -> Result<Vec<Backend>, ManifestError> {
    bounded(place, &format!("{rule}.backendRefs"), written.len())?;
    let each = written.iter().enumerate();
    each.map(|(index, reference)| backend(place, &format!("{rule}.backendRefs[{index}]"), reference, route)).collect()
}

pub(super) fn backend(
    place: &Place,
    at: &str,
    reference: &BackendRef,
    route: &ServiceName,
) -> Result<Backend, ManifestError> {
    let kind = Kind::read(reference.group.as_deref(), reference.kind.as_deref().unwrap_or("Service"));
    let target = match kind {
        // Gateway API: what cannot be resolved is no error of the manifest, its share is answered with one.
        None => None,
        Some(kind) => Some(target(place, at, kind, &reference.name, reference.namespace.as_deref(), route)?),
    };
    let port = match reference.port {
        Some(port) => port_number(place, &format!("{at}.port"), port)?,
        None => return Err(place.error(&format!("{at}.port"), "is missing; a reference to a service names its port")),
    };
    let weight = reference.weight.unwrap_or(1);
    let weight = u32::try_from(weight).ok().filter(|weight| *weight <= 1_000_000);
    let filters = filters::read(place, &format!("{at}.filters"), &reference.filters, route)?;
    filters.fits_backend(place, at)?;
    Ok(Backend {
        target,
        port,
        weight: weight.ok_or_else(|| place.error(&format!("{at}.weight"), "is not a weight: 0 to 1000000"))?,
        request_headers: filters.request_headers,
        response_headers: filters.response_headers,
    })
}

fn http_match(place: &Place, at: &str, written: &HttpMatch) -> Result<Match, ManifestError> {
    let (path, kind, length) = path_match(place, &format!("{at}.path"), written.path.as_ref())?;
    let method = written.method.clone().unwrap_or_default();
    if !method.is_empty() && !METHODS.contains(&method.as_str()) {
        return Err(place.error(&format!("{at}.method"), format!("`{method}` is not one of {}", METHODS.join(", "))));
    }
    let headers = values(place, &format!("{at}.headers"), &written.headers, true)?;
    let query = values(place, &format!("{at}.queryParams"), &written.query_params, false)?;
    Ok(Match {
        rank: [kind, length, usize::from(!method.is_empty()), headers.len(), query.len()],
        wire: wire::RouteMatch { rule: 0, path: Some(path), method, headers, query },
    })
}

/// The match, and its part in precedence: an exact path before an expression before a prefix, a longer prefix before a
/// shorter one. (Where expressions stand is left to implementations.)
fn path_match(
    place: &Place,
    at: &str,
    written: Option<&PathMatch>,
) -> Result<(wire::PathMatch, usize, usize), ManifestError> {
    use wire::path_match::Kind;
    let value = written.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let kind = written.and_then(|path| path.kind.as_deref()).unwrap_or("PathPrefix");
    let plain = |value: &str| {
        let normal = signet_policy::normalise_path(value).ok();
        if normal.as_deref() != Some(value) {
            let message =
                format!("`{value}` is not a normal path: absolute, no `//`, no dot segments, no needless `%`");
            return Err(place.error(&format!("{at}.value"), message));
        }
        Ok(value.to_owned())
    };
    let (kind, rank, length) = match kind {
        "Exact" => (Kind::Exact(plain(value)?), 3, 0),
        "PathPrefix" => {
            let trimmed = value.trim_end_matches('/');
            let prefix = if trimmed.is_empty() { "/" } else { trimmed };
            (Kind::Prefix(plain(prefix)?), 1, prefix.chars().count())
        }
        "RegularExpression" => (Kind::Regex(regex(place, &format!("{at}.value"), value)?), 2, 0),
        other => {
            let message = format!("`{other}` is not one of Exact, PathPrefix, RegularExpression");
            return Err(place.error(&format!("{at}.type"), message));
        }
    };
    Ok((wire::PathMatch { kind: Some(kind) }, rank, length))
}

fn regex(place: &Place, at: &str, value: &str) -> Result<String, ManifestError> {
    // Alone first: an unbalanced `)` must not close the group around it.
    let built = regex::RegexBuilder::new(value).size_limit(MAX_REGEX).build();
    match built {
        Ok(_) => Ok(value.to_owned()),
        Err(error) => {
            let last = error.to_string();
            let last = last.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(place.error(at, format!("`{value}` is not a regular expression of the RE2 kind: {last}")))
        }
    }
}

fn values(
    place: &Place,
    at: &str,
    written: &[ValueMatch],
    headers: bool,
) -> Result<Vec<wire::ValueMatch>, ManifestError> {
    bounded(place, at, written.len())?;
    let mut values: Vec<wire::ValueMatch> = Vec::new();
    for (index, value) in written.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let is_regex = match value.kind.as_deref() {
            None | Some("Exact") => false,
            Some("RegularExpression") => true,
            Some(other) => {
                let message = format!("`{other}` is not one of Exact, RegularExpression");
                return Err(place.error(&format!("{at}.type"), message));
            }
        };
        let name = match headers {
            true => filters::header_name(place, &format!("{at}.name"), &value.name)?,
            false => value.name.clone(),
        };
        if is_regex {
            regex(place, &format!("{at}.value"), &value.value)?;
        }
        // Gateway API: of entries with an equivalent name only the first counts.
        if !values.iter().any(|known| known.name == name) {
            values.push(wire::ValueMatch { name, value: value.value.clone(), regex: is_regex });
        }
    }
    Ok(values)
}

fn grpc_match(place: &Place, at: &str, written: &GrpcMatch) -> Result<Match, ManifestError> {
    let headers = values(place, &format!("{at}.headers"), &written.headers, true)?;
    let (path, service, method) = match &written.method {
        None => (wire::path_match::Kind::Prefix("/".to_owned()), 0, 0),
        Some(method) => method_match(place, &format!("{at}.method"), method)?,
    };
    Ok(Match {
        rank: [service, method, headers.len(), 0, 0],
        wire: wire::RouteMatch {
            path: Some(wire::PathMatch { kind: Some(path) }),
            method: String::new(),
            headers,
            ..wire::RouteMatch::default()
        },
    })
}

fn method_match(
    place: &Place,
    at: &str,
    written: &MethodMatch,
) -> Result<(wire::path_match::Kind, usize, usize), ManifestError> {
    use wire::path_match::Kind;
    let service = written.service.as_deref().filter(|text| !text.is_empty());
    let method = written.method.as_deref().filter(|text| !text.is_empty());
    if service.is_none() && method.is_none() {
        return Err(place.error(at, "names neither a service nor a method; name one"));
    }
    let count = |text: Option<&str>| text.map_or(0, |text| text.chars().count());
    let kind = match written.kind.as_deref() {
        None | Some("Exact") => {
            for (field, text) in [("service", service), ("method", method)] {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || (c == '.' && field == "service");
                if let Some(text) = text.filter(|text| !text.chars().all(plain)) {
                    let message = format!("`{text}` is not the name of a gRPC {field}");
                    return Err(place.error(&format!("{at}.{field}"), message));
                }
            }
            match (service, method) {
                (Some(service), Some(method)) => Kind::Exact(format!("/{service}/{method}")),
                (Some(service), None) => Kind::Prefix(format!("/{service}")),
                (None, method) => Kind::Regex(format!("/[^/]+/{}", method.unwrap_or_default())),
            }
        }
        Some("RegularExpression") => {
            let part = |field: &str, text: Option<&str>| match text {
                Some(text) => regex(place, &format!("{at}.{field}"), text).map(|text| format!("(?:{text})")),
                None => Ok("[^/]+".to_owned()),
            };
            Kind::Regex(format!("/{}/{}", part("service", service)?, part("method", method)?))
        }
        Some(other) => {
            let message = format!("`{other}` is not one of Exact, RegularExpression");
            return Err(place.error(&format!("{at}.type"), message));
        }
    };
    Ok((kind, count(service), count(method)))
}

fn timeouts(place: &Place, rule: &str, written: Option<&Timeouts>) -> Result<(u64, u64), ManifestError> {
    let Some(written) = written else { return Ok((0, 0)) };
    let read = |field: &str, text: Option<&str>| match text {
        None => Ok(0),
        Some(text) => duration_ms(place, &format!("{rule}.timeouts.{field}"), text),
    };
    let (request, backend) =
        (read("request", written.request.as_deref())?, read("backendRequest", written.backend_request.as_deref())?);
    if request > 0 && backend > request {
        let message = "is longer than `request`, which covers all attempts";
        return Err(place.error(&format!("{rule}.timeouts.backendRequest"), message));
    }
    Ok((request, backend))
}

fn retry(place: &Place, rule: &str, written: Option<&Retry>) -> Result<Option<wire::Retry>, ManifestError> {
    let Some(written) = written else { return Ok(None) };
    let mut codes = Vec::new();
    for (index, code) in written.codes.iter().enumerate() {
        let valid = u32::try_from(*code).ok().filter(|code| (400..=599).contains(code));
        let at = format!("{rule}.retry.codes[{index}]");
        codes.push(valid.ok_or_else(|| place.error(&at, format!("`{code}` is not a status of an error: 400 to 599")))?);
    }
    let attempts = match written.attempts {
        None => DEFAULT_ATTEMPTS,
        Some(attempts) => u32::try_from(attempts).ok().filter(|_| attempts <= MAX_ATTEMPTS).ok_or_else(|| {
            let message = format!("`{attempts}` is not a number of attempts: 0 to {MAX_ATTEMPTS}");
            place.error(&format!("{rule}.retry.attempts"), message)
        })?,
    };
    let backoff_ms = match &written.backoff {
        None => DEFAULT_BACKOFF_MS,
        Some(text) => duration_ms(place, &format!("{rule}.retry.backoff"), text)?,
    };
    Ok(Some(wire::Retry { attempts, codes, backoff_ms }))
}

/// GEP-2257: up to four numbers of up to five digits, each with `h`, `m`, `s` or `ms`. Zero switches a timeout off.
pub(in crate::manifests) fn duration_ms(place: &Place, at: &str, text: &str) -> Result<u64, ManifestError> {
    let wrong = || place.error(at, format!("`{text}` is not a duration like `1m30s` or `250ms` (GEP-2257)"));
    let mut total = 0_u64;
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        if number.is_empty() || number.len() > 5 {
            return Err(wrong());
        }
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let unit = units.iter().find_map(|(unit, ms)| after.strip_prefix(unit).map(|after| (after, ms)));
        let (after, ms) = unit.ok_or_else(wrong)?;
        total += number.parse::<u64>().map_err(|_| wrong())? * ms;
        rest = after;
        if rest.is_empty() {
            return Ok(total);
        }
    }
    Err(wrong())
}
