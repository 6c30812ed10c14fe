//! Recorded traffic, decided again: which flows a change would flip.
//!
//! Reads the JSON Lines of an export, an object per record, and asks a bundle each decision of policy again with the
//! context that was recorded. Decisions that no policy made (a failed handshake, a service that is not exported) are not
//! replayed; neither are those of which something was erased or never recorded. Both are counted, so that nothing is
//! said to be unchanged that was not looked at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use signet_policy::{
    Action, Bundle, Claims, Decision, Effect, Net, Principal, Reason, Request, split_id, split_spiffe_id,
};

use crate::diff::Answer;

/// A record is at most 65,535 bytes and its openings, several times that as JSON.
const LINE_BYTES: u64 = 4 << 20;
/// More flows that flip than a person could read are counted together.
const MOST_FLIPS: usize = 10_000;

/// A line of an export, as far as a decision is concerned. Unknown columns are later versions' and are skipped.
#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) time: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) source_spiffe_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) destination_service: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) action: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) path: Option<Cow<'a, str>>,
    pub(crate) decision: Effect,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    source_address: Option<Cow<'a, str>>,
    #[serde(default = "one")]
    pub(crate) count: u64,
    #[serde(borrow, default)]
    context: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow, default)]
    erased: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) policy_ids: Vec<Cow<'a, str>>,
    /// What policies that are tried out would have answered.
    #[serde(default)]
    pub(crate) shadow_decision: Option<Effect>,
}

impl Line<'_> {
    /// Whether a policy decided: neither an event nor a denial for another cause.
    pub(crate) fn is_by_policy(&self) -> bool {
        self.kind == "decision" && by_policy(&self.reason)
    }

    /// HTTP: the method as it was sent.
    pub(crate) fn method(&self) -> Option<&str> {
        let sent = self.context.get("method").map(|method| &**method).filter(|method| !method.is_empty());
        sent.or_else(|| self.action.strip_prefix("http:"))
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.context.get("dst_port")?.parse().ok()
    }

    /// The answer of `bundle` to what was asked then, or the name of what the record lacks.
    pub(crate) fn decide(&self, bundle: &Bundle) -> Result<Decision, &'static str> {
        let claims = Claims::from_pairs(self.context.iter().map(|(name, value)| (&**name, &**value)))?;
        Ok(bundle.decide(&request(self, claims.as_ref())?))
    }
}

fn one() -> u64 {
    1
}

/// Why a line cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("cannot read the records")]
    Read(#[from] io::Error),
    #[error("line {line} of the records is no record of an export")]
    Line { line: u64, source: serde_json::Error },
    #[error("line {line} of the records is longer than {LINE_BYTES} bytes")]
    TooLong { line: u64 },
}

/// Recorded calls of one kind whose answer changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flip {
    /// A SPIFFE ID, or `unauthenticated`.
    pub source: String,
    /// `<trust domain>/<namespace>/<name>`.
    pub destination: String,
    pub action: String,
    /// What was recorded: `allow` or `deny`.
    pub was: &'static str,
    /// What the bundle answers to the last of them.
    pub now: Answer,
    /// How many calls.
    pub count: u64,
    /// RFC 3339, UTC.
    pub last_seen: String,
    /// The path, or the gRPC method, of the last of them.
    pub path: Option<String>,
}

/// What became of recorded traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Decisions that were made again.
    pub decided: u64,
    /// Calls that these stand for.
    pub calls: u64,
    /// Most calls first.
    pub flips: Vec<Flip>,
    /// Calls that flip and are in no row of `flips`, because there were too many rows.
    pub further_flips: u64,
    /// Records that no policy decided: events, refusals, denials for another cause.
    pub not_by_policy: u64,
    /// Records of which something was erased or is missing, by what.
    pub not_replayed: BTreeMap<String, u64>,
}

impl Replay {
    /// Calls that were allowed and would be denied, and those the other way round, as far as they are in `flips`.
    pub fn flipped(&self) -> (u64, u64) {
        let of = |was: &str| self.flips.iter().filter(|flip| flip.was == was).map(|flip| flip.count).sum();
        (of("allow"), of("deny"))
    }
}

/// Decides every record again under `bundle`.
///
/// # Errors
/// When the records cannot be read, or a line is no record.
pub fn replay(records: impl BufRead, bundle: &Bundle) -> Result<Replay, ReplayError> {
    let (mut found, mut flips) = (Replay::default(), BTreeMap::new());
    each(records, &mut |line| again(line, bundle, &mut found, &mut flips))?;
    found.flips = flips.into_values().collect();
    found.flips.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.source.cmp(&b.source)));
    Ok(found)
}

/// Does `what` with every line of an export.
pub(crate) fn each(mut records: impl BufRead, what: &mut dyn FnMut(&Line<'_>)) -> Result<(), ReplayError> {
    let (mut buffer, mut number) = (Vec::new(), 0_u64);
    loop {
        buffer.clear();
        number += 1;
        let read = records.by_ref().take(LINE_BYTES + 1).read_until(b'\n', &mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 > LINE_BYTES {
            return Err(ReplayError::TooLong { line: number });
        }
        let text = buffer.trim_ascii();
        if !text.is_empty() {
            what(&serde_json::from_slice(text).map_err(|source| ReplayError::Line { line: number, source })?);
        }
    }
}

type Flips = BTreeMap<(String, String, String, &'static str), Flip>;

fn again(line: &Line<'_>, bundle: &Bundle, found: &mut Replay, flips: &mut Flips) {
    if !line.is_by_policy() {
        found.not_by_policy += 1;
        return;
    }
    let decision = match line.decide(bundle) {
        Ok(decision) => decision,
        Err(missing) => {
            let erased = line.erased.iter().any(|name| name == missing);
            let why = if erased { format!("{missing} was erased") } else { format!("{missing} is not recorded") };
            *found.not_replayed.entry(why).or_default() += 1;
            return;
        }
    };
    found.decided += 1;
    found.calls += line.count;
    if decision.effect == line.decision {
        return;
    }
    let source = line.source_spiffe_id.as_deref().unwrap_or("unauthenticated");
    let key =
        (source.to_owned(), line.destination_service.to_string(), line.action.to_string(), line.decision.as_str());
    if flips.len() >= MOST_FLIPS && !flips.contains_key(&key) {
        found.further_flips += line.count;
        return;
    }
    let (source, destination, action, _) = key.clone();
    let plain = |path: &Cow<'_, str>| path.trim_start_matches('/').to_owned();
    let path = line.path.as_ref().map(|path| if action == "grpc:call" { plain(path) } else { path.to_string() });
    let last_seen = line.time.to_string();
    let flip = flips.entry(key).or_insert_with(|| Flip {
        source,
        destination,
        action,
        was: line.decision.as_str(),
        now: Answer::from(decision.clone()),
        count: 0,
        last_seen: String::new(),
        path: None,
    });
    flip.count += line.count;
    // Times of an export have one length, so that they are in order as text.
    if flip.last_seen <= last_seen {
        flip.last_seen = last_seen;
        flip.path = path;
        flip.now = decision.into();
    }
}

/// Whether the engine gave this reason.
fn by_policy(reason: &str) -> bool {
    [Reason::Permitted, Reason::Forbidden, Reason::NoPermit, Reason::PolicyError, Reason::UnknownRoute]
        .iter()
        .any(|known| known.as_str() == reason)
}

/// The request that was decided, or the name of what it lacks.
fn request<'l>(line: &'l Line<'_>, end_user: Option<&'l Claims>) -> Result<Request<'l>, &'static str> {
    let named = |name: &str| line.context.get(name).map(|value| &**value).filter(|value| !value.is_empty());
    let sni = named("sni");
    let action = match &*line.action {
        "grpc:call" => {
            let path = || line.path.as_deref()?.trim_start_matches('/').rsplit_once('/');
            let (service, method) = named("service").zip(named("method")).or_else(path).ok_or("method")?;
            Action::Grpc { service, method }
        }
        "tcp:connect" => Action::TcpConnect { sni },
        "gateway:forward" => Action::GatewayForward { sni },
        "egress:connect" => Action::EgressConnect { sni },
        http => {
            let declared = http.strip_prefix("http:").ok_or("action")?;
            let path = named("path").or(line.path.as_deref()).ok_or("path")?;
            Action::Http { method: named("method").unwrap_or(declared), path, host: named("host").unwrap_or_default() }
        }
    };
    let address = || line.source_address.as_deref()?.parse::<SocketAddr>().ok().map(|address| address.ip());
    let src_ip = named("src_ip").and_then(|ip| ip.parse::<IpAddr>().ok()).or_else(address).ok_or("src_ip")?;
    let dst_port = named("dst_port").and_then(|port| port.parse().ok()).ok_or("dst_port")?;
    let time: jiff::Timestamp = line.time.parse().map_err(|_| "time")?;
    let source = line.source_spiffe_id.as_deref();
    let src_cluster = || source.and_then(split_spiffe_id).map_or("", |(domain, _)| domain);
    let dst_cluster = || split_id(&line.destination_service).map_or("", |(domain, _, _)| domain);
    Ok(Request {
        principal: source.map_or(Principal::Unauthenticated, Principal::Workload),
        service: &line.destination_service,
        action,
        net: Net {
            src_ip,
            src_cluster: named("src_cluster").unwrap_or_else(src_cluster),
            dst_cluster: named("dst_cluster").unwrap_or_else(dst_cluster),
            dst_port,
        },
        end_user,
        time_us: time.as_microsecond(),
    })
}

#[cfg(test)]
mod tests;
