//! Routes of a service as the control plane says them, ready to be applied: headers parsed, expressions compiled.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;
use signet_api::control as wire;

use super::{SnapshotError, port};

/// Compiled, one expression may take this much.
const MAX_REGEX: usize = 1 << 20;
/// Rules and matches of one service.
const MAX_ENTRIES: usize = 4096;

/// What applies to calls of one service.
#[derive(Debug)]
pub struct Routes {
    pub rules: Vec<Rule>,
    /// In order of precedence; `rule` is an index into `rules`.
    pub matches: Vec<Match>,
}

#[derive(Debug)]
pub struct Match {
    pub rule: usize,
    pub path: PathMatch,
    pub method: Option<Method>,
    pub headers: Vec<(HeaderName, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
}

#[derive(Debug)]
pub enum PathMatch {
    Exact(String),
    /// Without a slash at its end; empty for `/`.
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug)]
pub enum ValueMatch {
    Exact(String),
    Regex(Regex),
}

#[derive(Debug)]
pub struct Rule {
    /// `HTTPRoute/<ns>/<name>#<rule>`: for people and metrics.
    pub name: Arc<str>,
    pub request_headers: HeaderModifier,
    pub response_headers: HeaderModifier,
    pub redirect: Option<Redirect>,
    pub rewrite: Option<Rewrite>,
    pub mirrors: Vec<Mirror>,
    pub backends: Vec<Backend>,
    pub request_timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
    pub retry: Option<Retry>,
}

#[derive(Debug, Default)]
pub struct HeaderModifier {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

#[derive(Debug)]
pub enum PathModifier {
    Full(String),
    /// In place of the prefix that fitted.
    Prefix(String),
}

#[derive(Debug)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub port: Option<u16>,
    pub status: StatusCode,
    pub path: Option<PathModifier>,
}

#[derive(Debug)]
pub struct Rewrite {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

#[derive(Debug)]
pub struct Mirror {
    pub backend: Backend,
    pub numerator: u32,
    pub denominator: u32,
}

#[derive(Debug)]
pub struct Backend {
    /// `None`: could not be resolved; its share is answered 500.
    pub service: Option<Arc<str>>,
    pub port: u16,
    pub weight: u32,
    pub request_headers: HeaderModifier,
    pub response_headers: HeaderModifier,
}

#[derive(Debug)]
pub struct Retry {
    /// After the first.
    pub attempts: u32,
    pub codes: Vec<StatusCode>,
    /// Before the second attempt.
    pub backoff: Duration,
}

fn wrong(field: String, value: impl Into<String>, expected: &'static str) -> SnapshotError {
    SnapshotError::Field { field, value: value.into(), expected }
}

pub(super) fn routes(at: &str, w: &wire::Routes) -> Result<Routes, SnapshotError> {
    if w.rules.len() > MAX_ENTRIES || w.matches.len() > MAX_ENTRIES {
        return Err(wrong(at.to_owned(), w.matches.len().to_string(), "a number of rules and matches up to 4096"));
    }
    let rules: Vec<Rule> =
        w.rules.iter().enumerate().map(|(i, r)| rule(&format!("{at}.rules[{i}]"), r)).collect::<Result<_, _>>()?;
    let mut matches = Vec::with_capacity(w.matches.len());
    for (i, m) in w.matches.iter().enumerate() {
        let at = format!("{at}.matches[{i}]");
        let rule = usize::try_from(m.rule).ok().filter(|rule| *rule < rules.len());
        let rule = rule.ok_or_else(|| wrong(format!("{at}.rule"), m.rule.to_string(), "the index of a rule"))?;
        matches.push(one_match(&at, rule, m)?);
    }
    Ok(Routes { rules, matches })
}

fn one_match(at: &str, rule: usize, w: &wire::RouteMatch) -> Result<Match, SnapshotError> {
    use wire::path_match::Kind;
    let path = match w.path.as_ref().and_then(|path| path.kind.as_ref()) {
        None => PathMatch::Prefix(String::new()),
        Some(Kind::Exact(path)) => PathMatch::Exact(path.clone()),
        Some(Kind::Prefix(path)) => PathMatch::Prefix(path.trim_end_matches('/').to_owned()),
        Some(Kind::Regex(text)) => PathMatch::Regex(regex(&format!("{at}.path.regex"), text)?),
    };
    let method = match w.method.as_str() {
        "" => None,
        text => Some(
            Method::from_bytes(text.as_bytes()).map_err(|_| wrong(format!("{at}.method"), text, "an HTTP method"))?,
        ),
    };
    let value = |field: String, v: &wire::ValueMatch| match v.regex {
        true => regex(&field, &v.value).map(ValueMatch::Regex),
        false => Ok(ValueMatch::Exact(v.value.clone())),
    };
    let mut headers = Vec::new();
    for (i, v) in w.headers.iter().enumerate() {
        let at = format!("{at}.headers[{i}]");
        headers.push((header_name(&at, &v.name)?, value(at, v)?));
    }
    let mut query = Vec::new();
    for (i, v) in w.query.iter().enumerate() {
        query.push((v.name.clone(), value(format!("{at}.query[{i}]"), v)?));
    }
    Ok(Match { rule, path, method, headers, query })
}

/// Of the whole value. Linear in its length, whatever the expression.
fn regex(field: &str, text: &str) -> Result<Regex, SnapshotError> {
    let build = |text: &str| regex::RegexBuilder::new(text).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build();
    // Alone first: an unbalanced `)` must not close the group around it.
    let built = build(text).and_then(|_| build(&format!("^(?:{text})$")));
    built.map_err(|_| wrong(field.to_owned(), text, "a regular expression of the RE2 kind"))
}

fn rule(at: &str, w: &wire::RouteRule) -> Result<Rule, SnapshotError> {
    let millis = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    let each = w.backends.iter().enumerate();
    let backends = each.map(|(i, b)| backend(&format!("{at}.backends[{i}]"), b)).collect::<Result<_, _>>()?;
    let each = w.mirrors.iter().enumerate();
    Ok(Rule {
        name: Arc::from(w.name.as_str()),
        request_headers: modifier(&format!("{at}.request_headers"), w.request_headers.as_ref())?,
        response_headers: modifier(&format!("{at}.response_headers"), w.response_headers.as_ref())?,
        redirect: w.redirect.as_ref().map(|r| redirect(&format!("{at}.redirect"), r)).transpose()?,
        rewrite: w.rewrite.as_ref().map(|r| Rewrite { hostname: text(&r.hostname), path: path(r.path.as_ref()) }),
        mirrors: each.map(|(i, m)| mirror(&format!("{at}.mirrors[{i}]"), m)).collect::<Result<_, _>>()?,
        backends,
        request_timeout: millis(w.request_timeout_ms),
        backend_timeout: millis(w.backend_timeout_ms),
        retry: w.retry.as_ref().map(|r| retry(&format!("{at}.retry"), r)).transpose()?,
    })
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn path(w: Option<&wire::PathModifier>) -> Option<PathModifier> {
    use wire::path_modifier::Kind;
    Some(match w?.kind.as_ref()? {
        Kind::Full(path) => PathModifier::Full(path.clone()),
        Kind::Prefix(path) => PathModifier::Prefix(path.clone()),
    })
}

fn redirect(at: &str, w: &wire::Redirect) -> Result<Redirect, SnapshotError> {
    let status = u16::try_from(w.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(StatusCode::is_redirection);
    Ok(Redirect {
        scheme: text(&w.scheme),
        hostname: text(&w.hostname),
        port: if w.port == 0 { None } else { Some(port(at, "port", w.port)?) },
        status: status.ok_or_else(|| wrong(format!("{at}.status"), w.status.to_string(), "a status of a redirect"))?,
        path: path(w.path.as_ref()),
    })
}

fn mirror(at: &str, w: &wire::Mirror) -> Result<Mirror, SnapshotError> {
    if w.denominator == 0 || w.numerator > w.denominator {
        return Err(wrong(at.to_owned(), format!("{}/{}", w.numerator, w.denominator), "a share"));
    }
    let to = w.backend.as_ref().ok_or_else(|| wrong(format!("{at}.backend"), "", "a backend"))?;
    let to = backend(&format!("{at}.backend"), to)?;
    Ok(Mirror { backend: to, numerator: w.numerator, denominator: w.denominator })
}

fn backend(at: &str, w: &wire::Backend) -> Result<Backend, SnapshotError> {
    Ok(Backend {
        service: Some(w.service.as_str()).filter(|service| !service.is_empty()).map(Arc::from),
        port: port(at, "port", w.port)?,
        weight: w.weight,
        request_headers: modifier(&format!("{at}.request_headers"), w.request_headers.as_ref())?,
        response_headers: modifier(&format!("{at}.response_headers"), w.response_headers.as_ref())?,
    })
}

fn retry(at: &str, w: &wire::Retry) -> Result<Retry, SnapshotError> {
    let mut codes = Vec::new();
    for code in &w.codes {
        let status = u16::try_from(*code).ok().and_then(|code| StatusCode::from_u16(code).ok());
        codes.push(status.ok_or_else(|| wrong(format!("{at}.codes"), code.to_string(), "a status"))?);
    }
    Ok(Retry { attempts: w.attempts.min(10), codes, backoff: Duration::from_millis(w.backoff_ms) })
}

fn header_name(at: &str, name: &str) -> Result<HeaderName, SnapshotError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(format!("{at}.name"), name, "the name of a header"))
}

fn modifier(at: &str, w: Option<&wire::HeaderModifier>) -> Result<HeaderModifier, SnapshotError> {
    let Some(w) = w else { return Ok(HeaderModifier::default()) };
    let pairs = |list: &[wire::Header]| {
        let read = list.iter().map(|h| {
            let value = HeaderValue::from_str(&h.value);
            let value = value.map_err(|_| wrong(format!("{at}.value"), &h.value, "the value of a header"))?;
            Ok((header_name(at, &h.name)?, value))
        });
        read.collect::<Result<Vec<_>, SnapshotError>>()
    };
    let remove = w.remove.iter().map(|name| header_name(at, name)).collect::<Result<_, _>>()?;
    Ok(HeaderModifier { set: pairs(&w.set)?, add: pairs(&w.add)?, remove })
}
