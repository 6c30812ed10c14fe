//! A concrete request: from the solver's model to something that a person can read and the engine can decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use cedar_policy::{EvalResult, Request as Model};
use serde::{Serialize, Serializer};
use signet_policy::{
    Action, BreakGlass, Claims, Issuer, Net, Principal, Request, normalise_path, split_id, split_spiffe_id,
};

use crate::symbolic::{Caller, Target};
use crate::template::Call;

mod grant;

/// Wednesday, 7 January 2026, noon UTC.
const NOON_US: i64 = 1_767_787_200_000_000;
const MINUTE_US: i64 = 60_000_000;
const NOON_MINUTE: i64 = 720;
const WEDNESDAY: i64 = 3;

/// A request that owns its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// A SPIFFE ID, or `unauthenticated`.
    pub principal: String,
    /// A Cedar action id: `http:GET`.
    pub action: String,
    /// `<trust domain>/<namespace>/<name>`, or the id of an external service.
    pub service: String,
    /// HTTP: the method as sent; gRPC: the method's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// HTTP: in normal form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// gRPC: the service, fully qualified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The end user on whose behalf the call is made, where a policy asks for one.
    #[serde(rename = "jwt", serialize_with = "claims", skip_serializing_if = "Option::is_none")]
    pub end_user: Option<Claims>,
    /// The grant that covers the call, where a policy asks for one.
    #[serde(serialize_with = "grant::serialize", skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<BreakGlass>,
    pub src_ip: IpAddr,
    pub dst_port: u16,
    /// RFC 3339, UTC.
    pub time: String,
    #[serde(skip)]
    pub(crate) time_us: i64,
}

impl Example {
    /// The question that the engine is asked. Clusters are what the identities say, as in the sidecar.
    pub fn request(&self) -> Request<'_> {
        let principal = match self.principal.as_str() {
            "unauthenticated" => Principal::Unauthenticated,
            id => Principal::Workload(id),
        };
        let src_cluster = split_spiffe_id(&self.principal).map_or("", |(td, _)| td);
        let dst_cluster = split_id(&self.service).map_or("", |(td, _, _)| td);
        let (method, sni) = (self.method.as_deref().unwrap_or_default(), self.sni.as_deref());
        let action = match self.action.as_str() {
            "grpc:call" => Action::Grpc { service: self.grpc_service.as_deref().unwrap_or_default(), method },
            "tcp:connect" => Action::TcpConnect { sni },
            "gateway:forward" => Action::GatewayForward { sni },
            "egress:connect" => Action::EgressConnect { sni },
            _ => Action::Http {
                method,
                path: self.path.as_deref().unwrap_or("/"),
                host: self.host.as_deref().unwrap_or_default(),
            },
        };
        let net = Net { src_ip: self.src_ip, src_cluster, dst_cluster, dst_port: self.dst_port };
        Request {
            principal,
            service: &self.service,
            action,
            net,
            end_user: self.end_user.as_ref(),
            break_glass: self.break_glass.as_ref(),
            time_us: self.time_us,
        }
    }

    /// `spiffe://.. http:GET <service> /path`, on one line.
    pub fn line(&self) -> String {
        let what = match (&self.grpc_service, &self.method, &self.path) {
            (Some(service), Some(method), _) => format!(" {service}/{method}"),
            (None, _, Some(path)) => format!(" {path}"),
            _ => String::new(),
        };
        let user = self.end_user.as_ref().map(user).unwrap_or_default();
        let grant = self.break_glass.as_ref().map(grant::words).unwrap_or_default();
        format!("{} {} {}{what}{user}{grant}", self.principal, self.action, self.service)
    }

    fn set_time(&mut self, time_us: i64) {
        self.time_us = time_us;
        let time = jiff::Timestamp::from_microsecond(time_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        self.time = time.to_string();
    }
}

/// ` for ada of https://login.example (groups tellers; acr mfa)`.
fn user(claims: &Claims) -> String {
    let list = |name: &str, set: &BTreeSet<String>| {
        let words: Vec<&str> = set.iter().map(String::as_str).collect();
        if words.is_empty() { None } else { Some(format!("{name} {}", words.join(" "))) }
    };
    let acr = claims.acr.as_ref().map(|acr| format!("acr {acr}"));
    let more: Vec<String> =
        [list("groups", &claims.groups), list("scopes", &claims.scopes), acr].into_iter().flatten().collect();
    let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join("; ")) };
    format!(" for {} of {}{more}", claims.subject, claims.issuer)
}

/// As `context.jwt` of the schema and of test cases.
fn claims<S: Serializer>(user: &Option<Claims>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Jwt<'a> {
        iss: &'a str,
        sub: &'a str,
        aud: &'a BTreeSet<String>,
        scopes: &'a BTreeSet<String>,
        groups: &'a BTreeSet<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        acr: Option<&'a str>,
    }
    let jwt = user.as_ref().map(|Claims { issuer, subject, audiences, scopes, groups, acr }| Jwt {
        iss: issuer,
        sub: subject,
        aud: audiences,
        scopes,
        groups,
        acr: acr.as_deref(),
    });
    jwt.serialize(serializer)
}

/// What an example is made for.
pub(crate) struct Wanted<'w> {
    pub(crate) caller: Caller,
    pub(crate) action: &'w str,
    pub(crate) target: &'w Target,
    /// A call that falls on the fixed target.
    pub(crate) call: Option<&'w Call>,
    /// A call that falls on a route of a service, for a target that the solver chose.
    pub(crate) call_for: &'w dyn Fn(&str, &str) -> Option<Call>,
    /// Names that people know: SPIFFE IDs and services.
    pub(crate) workloads: &'w [String],
    pub(crate) services: &'w [String],
    /// Who vouches for end users.
    pub(crate) issuers: &'w [Issuer],
}

/// What makes an end user readable.
const PLAIN_USER: [fn(&mut Claims); 4] = [
    |user| user.subject = "ada".to_owned(),
    |user| user.scopes.clear(),
    |user| user.groups.clear(),
    |user| user.acr = None,
];

/// The request that the model describes, made readable as far as `holds` stays true of it. Nothing when `holds` is true of
/// no request that the mesh can have.
pub(crate) fn example(model: &Model, wanted: &Wanted<'_>, holds: &dyn Fn(&Example) -> bool) -> Option<Example> {
    let mut found =
        candidates(model, wanted).into_iter().find(|candidate| is_possible(candidate, wanted) && holds(candidate))?;
    let segments = found.path.as_deref().map_or(0, |path| path.split('/').count());
    let mut attempt = |change: &dyn Fn(&mut Example)| {
        let mut other = found.clone();
        change(&mut other);
        if other != found && is_possible(&other, wanted) && holds(&other) {
            found = other;
            return true;
        }
        false
    };
    attempt(&|e| e.set_time(NOON_US));
    attempt(&|e| e.src_ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));
    attempt(&|e| e.dst_port = port(&e.action));
    attempt(&|e| e.sni = None);
    attempt(&|e| e.end_user = None);
    for change in PLAIN_USER {
        attempt(&|e| e.end_user.iter_mut().for_each(change));
    }
    attempt(&|e| e.break_glass = None);
    for change in grant::PLAIN {
        attempt(&|e| e.break_glass.iter_mut().for_each(change));
    }
    // Unknown names last, because the others narrow what is left.
    if wanted.caller == Caller::Workload {
        wanted.workloads.iter().any(|id| attempt(&|e| e.principal.clone_from(id)));
    }
    if matches!(wanted.target, Target::Service) {
        wanted.services.iter().any(|id| attempt(&|e| e.service.clone_from(id)));
    }
    attempt(&|e| e.host = e.host.is_some().then(|| host(&e.service)));
    for path in ["/", "/accounts/1"] {
        if matches!(wanted.target, Target::Service) && attempt(&|e| e.path = Some(path.to_owned())) {
            break;
        }
    }
    // On a route only its parameters can be something else.
    if matches!(wanted.target, Target::Route | Target::Fixed { .. }) {
        for position in 1..segments {
            attempt(&|e| e.path = e.path.as_deref().map(|path| with_segment(path, position, "1")));
        }
    }
    Some(found)
}

/// The path with another segment; before the first slash is segment 0.
fn with_segment(path: &str, position: usize, text: &str) -> String {
    let segments = path.split('/').enumerate();
    segments.map(|(at, old)| if at == position { text } else { old }).collect::<Vec<_>>().join("/")
}

/// Whether a sidecar could ask this: paths are in normal form, identifiers well-formed, end users vouched for, grants not
/// over.
fn is_possible(example: &Example, wanted: &Wanted<'_>) -> bool {
    let vouched = example.end_user.as_ref().is_none_or(|user| {
        let mut issuers = wanted.issuers.iter().filter(|i| i.issuer == user.issuer && i.serves(&example.service));
        issuers.any(|i| !i.audiences.is_disjoint(&user.audiences)) && !user.subject.is_empty()
    });
    let path = example.path.as_deref().is_none_or(|p| normalise_path(p).is_ok_and(|normal| normal == p));
    let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic());
    let method = example.method.as_deref().is_none_or(token);
    let name = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
    let grpc = example.grpc_service.as_deref().is_none_or(name);
    let word = |t: &Option<String>| t.as_deref().is_none_or(|t| t.bytes().all(|b| b.is_ascii_graphic()));
    let covered = example.break_glass.as_ref().is_none_or(|grant| {
        wanted.caller == Caller::Workload && !grant.ticket.is_empty() && example.time_us < grant.until_us
    });
    vouched && covered && path && method && grpc && word(&example.host) && word(&example.sni)
}

/// What the model says, with names that the mesh could have in place of the solver's inventions: equal ones stay equal.
fn candidates(model: &Model, wanted: &Wanted<'_>) -> Vec<Example> {
    let values = &Values(model);
    let mut domains = Names::new("example.org");
    let (mut namespaces, mut names) = (Names::new("any"), Names::new("any"));
    let principal = match wanted.caller {
        Caller::Unauthenticated => "unauthenticated".to_owned(),
        Caller::Workload => {
            let td = domains.valid(&values.text("p_td"), |t| split_spiffe_id(&format!("spiffe://{t}")).is_some());
            if values.flag("p_account") {
                let ns = namespaces.valid(&values.text("p_ns"), is_segment);
                let sa = names.valid(&values.text("p_sa"), is_segment);
                format!("spiffe://{td}/ns/{ns}/sa/{sa}")
            } else {
                let path = values.text("p_path");
                let id = format!("spiffe://{td}/{path}");
                match split_spiffe_id(&id) {
                    Some((_, None)) => id,
                    _ if path.is_empty() => format!("spiffe://{td}"),
                    _ => format!("spiffe://{td}/other"),
                }
            }
        }
    };
    let service = match wanted.target {
        Target::Fixed { service, .. } => service.clone(),
        Target::FixedExternal(id) => id.clone(),
        Target::External => values.text("r_external"),
        Target::Service | Target::Route | Target::Denied => {
            let td = domains.valid(&values.text("r_td"), |t| split_spiffe_id(&format!("spiffe://{t}")).is_some());
            let ns = namespaces.valid(&values.text("r_ns"), is_segment);
            let name = names.valid(&values.text("r_name"), is_segment);
            format!("{td}/{ns}/{name}")
        }
    };
    let call = match wanted.target {
        Target::Route => (wanted.call_for)(&service, &values.text("r_template")),
        _ => wanted.call.cloned(),
    };
    let call = |part: fn(&Call) -> &String| call.as_ref().map(|c| part(c).clone());
    let mut example = Example {
        principal,
        action: wanted.action.to_owned(),
        method: None,
        path: None,
        host: None,
        grpc_service: None,
        sni: None,
        end_user: values.end_user(),
        break_glass: None,
        src_ip: values.address(),
        dst_port: u16::try_from(values.long("dst_port")).ok().filter(|p| *p > 0).unwrap_or_else(|| port(wanted.action)),
        time: String::new(),
        time_us: 0,
        service,
    };
    // What a policy reads is the model's; what none reads, or could not be, is the route's.
    let mut texts = vec![example.clone()];
    if wanted.action == "grpc:call" {
        let own = (values.text("service"), values.text("method"));
        let given = (call(|c| &c.first), call(|c| &c.second));
        texts.clear();
        for (service, method) in [own.clone(), (given.0.unwrap_or(own.0), given.1.unwrap_or(own.1))] {
            let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
            example.grpc_service = Some(or(service, "example.v1.Any"));
            example.method = Some(or(method, "Call"));
            texts.push(example.clone());
        }
    } else if let Some(method) = wanted.action.strip_prefix("http:") {
        texts.clear();
        let own_method = if method == "OTHER" { values.text("method") } else { method.to_owned() };
        let host = Some(values.text("host")).filter(|h| !h.is_empty()).unwrap_or_else(|| host(&example.service));
        let other_method =
            if method == "OTHER" { call(|c| &c.first).unwrap_or("REPORT".to_owned()) } else { method.to_owned() };
        let other_path = call(|c| &c.second).unwrap_or_else(|| "/".to_owned());
        for method in [&own_method, &other_method] {
            for path in [&values.text("path"), &other_path] {
                example.method = Some(method.clone());
                example.path = Some(path.clone());
                example.host = Some(host.clone());
                texts.push(example.clone());
            }
        }
    } else {
        example.sni = values.optional("sni");
        texts = vec![example.clone()];
    }
    let (weekday, minute) = (values.long("weekday"), values.long("minute_of_day"));
    let weekday = if (1..=7).contains(&weekday) { weekday } else { WEDNESDAY };
    let minute = if (0..1440).contains(&minute) { minute } else { NOON_MINUTE };
    let by_clock = NOON_US + ((weekday - WEDNESDAY) * 1440 + minute - NOON_MINUTE) * MINUTE_US;
    let times: Vec<i64> = [Some(by_clock), values.now()].into_iter().flatten().collect();
    texts
        .into_iter()
        .flat_map(|text| {
            times.iter().flat_map(move |time| {
                let mut example = text.clone();
                example.set_time(*time);
                let grants = grant::of_model(values.value("break_glass"), *time).into_iter();
                grants.map(move |break_glass| Example { break_glass, ..example.clone() })
            })
        })
        .collect()
}

fn is_segment(text: &str) -> bool {
    split_id(&format!("example.org/{text}/x")).is_some()
}

fn port(action: &str) -> u16 {
    match action {
        "grpc:call" => 50_051,
        "tcp:connect" | "gateway:forward" => 5432,
        "egress:connect" => 443,
        _ => 80,
    }
}

fn host(service: &str) -> String {
    split_id(service).map_or(service.to_owned(), |(_, ns, name)| format!("{name}.{ns}.svc.cluster.local"))
}

/// Readable names for what the solver made up.
struct Names {
    word: &'static str,
    known: BTreeMap<String, String>,
}

impl Names {
    fn new(word: &'static str) -> Self {
        Self { word, known: BTreeMap::new() }
    }

    fn valid(&mut self, text: &str, is_valid: impl Fn(&str) -> bool) -> String {
        if is_valid(text) {
            return text.to_owned();
        }
        let number = self.known.len();
        let word = self.word;
        let name = || if number == 0 { word.to_owned() } else { format!("n{number}.{word}") };
        self.known.entry(text.to_owned()).or_insert_with(name).clone()
    }
}

/// The variables of a model.
struct Values<'m>(&'m Model);

impl Values<'_> {
    fn value(&self, name: &str) -> Option<EvalResult> {
        self.0.context()?.get(name)
    }

    fn optional(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(EvalResult::String(text)) => Some(text),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> String {
        self.optional(name).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(EvalResult::Bool(true)))
    }

    fn long(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(EvalResult::Long(value)) => value,
            _ => 0,
        }
    }

    /// `context.jwt`.
    fn end_user(&self) -> Option<Claims> {
        let Some(EvalResult::Record(jwt)) = self.value("jwt") else { return None };
        let text = |name: &str| match jwt.get(name) {
            Some(EvalResult::String(text)) => Some(text.clone()),
            _ => None,
        };
        let set = |name: &str| -> BTreeSet<String> {
            let Some(EvalResult::Set(set)) = jwt.get(name) else { return BTreeSet::new() };
            let items = set.iter().filter_map(|item| match item {
                EvalResult::String(text) => Some(text.clone()),
                _ => None,
            });
            items.collect()
        };
        Some(Claims {
            issuer: text("iss")?,
            subject: text("sub")?,
            audiences: set("aud"),
            scopes: set("scopes"),
            groups: set("groups"),
            acr: text("acr"),
        })
    }

    /// `ip("10.0.0.0/8")`: the first address of the range.
    fn address(&self) -> IpAddr {
        let text = match self.value("src_ip") {
            Some(EvalResult::ExtensionValue(text)) => text,
            _ => String::new(),
        };
        let quoted = text.split('"').nth(1).unwrap_or_default();
        let address = quoted.split('/').next().unwrap_or_default();
        address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)))
    }

    fn now(&self) -> Option<i64> {
        datetime_us(&self.value("now")?)
    }
}

/// `(datetime("1970-01-01")).offset(duration("1234ms"))`, as microseconds.
fn datetime_us(value: &EvalResult) -> Option<i64> {
    let EvalResult::ExtensionValue(text) = value else { return None };
    let quoted = text.split('"').find_map(|part| part.strip_suffix("ms")?.parse::<i64>().ok())?;
    quoted.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inventions_become_names_that_the_mesh_could_have() {
        let mut names = Names::new("any");
        assert_eq!(names.valid("\u{1}", is_segment), "any");
        assert_eq!(names.valid("ledger", is_segment), "ledger");
        assert_eq!(names.valid("a b", is_segment), "n1.any");
        assert_eq!(names.valid("\u{1}", is_segment), "any");
    }

    #[test]
    fn noon_is_a_wednesday() {
        let time = jiff::Timestamp::from_microsecond(NOON_US).map(|t| t.to_string());
        assert_eq!(time.ok().as_deref(), Some("2026-01-07T12:00:00Z"));
    }
}
