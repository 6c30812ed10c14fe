//! Recorded traffic as an analysis sees it: one decision at a time, with the context that was recorded.
//!
//! Where it comes from is the caller's: [`JsonLines`] reads exports, and the command line reads the audit store.

mod json;

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};

use signet_policy::{
    Action, BreakGlass, Bundle, Claims, Decision, Effect, Net, Principal, Reason, Request, split_id, split_spiffe_id,
};

pub use json::JsonLines;

/// A record, as far as a decision is concerned.
#[derive(Clone, Debug)]
pub struct Recorded<'a> {
    /// `decision`, or another kind, which no policy decided.
    pub kind: Cow<'a, str>,
    /// Unix microseconds.
    pub time_us: i64,
    /// `None` for a caller without an identity.
    pub source_spiffe_id: Option<Cow<'a, str>>,
    /// `<trust domain>/<namespace>/<name>`.
    pub destination_service: Cow<'a, str>,
    /// A Cedar action id.
    pub action: Cow<'a, str>,
    /// Without query; of gRPC the method.
    pub path: Option<Cow<'a, str>>,
    pub decision: Effect,
    /// Why, as the record says it.
    pub reason: Cow<'a, str>,
    /// `ip:port`.
    pub source_address: Option<Cow<'a, str>>,
    /// How many calls it stands for.
    pub count: u64,
    /// Every value that was recorded, by name.
    pub context: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Names of values that were erased.
    pub erased: Vec<Cow<'a, str>>,
    /// `@id`s of the policies that determined it.
    pub policy_ids: Vec<Cow<'a, str>>,
    /// What policies that are tried out would have answered, where that differs.
    pub shadow_decision: Option<Effect>,
}

/// Why recorded traffic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("cannot read the records")]
    Read(#[from] io::Error),
    #[error("line {line} of the records is no record of an export")]
    Line { line: u64, source: serde_json::Error },
    #[error("line {line} of the records is longer than {bytes} bytes")]
    TooLong { line: u64, bytes: u64 },
}

/// Where recorded traffic comes from.
pub trait Records {
    /// Gives every record to `what` once, in any order.
    ///
    /// # Errors
    /// When not all of them could be read; then nothing may be said of the whole.
    fn each(self, what: &mut dyn FnMut(&Recorded<'_>)) -> Result<(), RecordsError>;
}

impl Recorded<'_> {
    /// Whether a policy decided: neither an event nor a denial for another cause.
    pub(crate) fn is_by_policy(&self) -> bool {
        const OF_THE_ENGINE: [Reason; 5] =
            [Reason::Permitted, Reason::Forbidden, Reason::NoPermit, Reason::PolicyError, Reason::UnknownRoute];
        self.kind == "decision" && OF_THE_ENGINE.iter().any(|known| known.as_str() == self.reason)
    }

    /// HTTP: the method as it was sent.
    pub(crate) fn method(&self) -> Option<&str> {
        self.named("method").or_else(|| self.action.strip_prefix("http:"))
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.named("dst_port")?.parse().ok()
    }

    /// The answer of `bundle` to what was asked then, or the name of what the record lacks.
    pub(crate) fn decide(&self, bundle: &Bundle) -> Result<Decision, &'static str> {
        let pairs = || self.context.iter().map(|(name, value)| (&**name, &**value));
        let (claims, grant) = (Claims::from_pairs(pairs())?, BreakGlass::from_pairs(pairs())?);
        Ok(bundle.decide(&Request { break_glass: grant.as_ref(), ..self.request(claims.as_ref())? }))
    }

    /// A value of the context. One that was erased reads as empty, so that an empty one counts as absent.
    fn named(&self, name: &str) -> Option<&str> {
        let found = self.context.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// The request that was decided, or the name of what it lacks.
    fn request<'l>(&'l self, end_user: Option<&'l Claims>) -> Result<Request<'l>, &'static str> {
        let sni = self.named("sni");
        let action = match &*self.action {
            "grpc:call" => {
                let path = || self.path.as_deref()?.trim_start_matches('/').rsplit_once('/');
                let named = self.named("service").zip(self.named("method"));
                let (service, method) = named.or_else(path).ok_or("method")?;
                Action::Grpc { service, method }
            }
            "tcp:connect" => Action::TcpConnect { sni },
            "gateway:forward" => Action::GatewayForward { sni },
            "egress:connect" => Action::EgressConnect { sni },
            _ => {
                let method = self.method().ok_or("action")?;
                let path = self.named("path").or(self.path.as_deref()).ok_or("path")?;
                Action::Http { method, path, host: self.named("host").unwrap_or_default() }
            }
        };
        let address = || self.source_address.as_deref()?.parse::<SocketAddr>().ok().map(|address| address.ip());
        let src_ip = self.named("src_ip").and_then(|ip| ip.parse::<IpAddr>().ok()).or_else(address).ok_or("src_ip")?;
        let source = self.source_spiffe_id.as_deref();
        let src_cluster = || source.and_then(split_spiffe_id).map_or("", |(domain, _)| domain);
        let dst_cluster = || split_id(&self.destination_service).map_or("", |(domain, _, _)| domain);
        Ok(Request {
            principal: source.map_or(Principal::Unauthenticated, Principal::Workload),
            service: &self.destination_service,
            action,
            net: Net {
                src_ip,
                src_cluster: self.named("src_cluster").unwrap_or_else(src_cluster),
                dst_cluster: self.named("dst_cluster").unwrap_or_else(dst_cluster),
                dst_port: self.port().ok_or("dst_port")?,
            },
            end_user,
            break_glass: None,
            time_us: self.time_us,
        })
    }
}

/// RFC 3339 in UTC with microseconds, as exports write times; the nearest there is for a nonsensical clock.
pub(crate) fn rfc3339(time_us: i64) -> String {
    let nearest = if time_us < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    format!("{:.6}", jiff::Timestamp::from_microsecond(time_us).unwrap_or(nearest))
}
