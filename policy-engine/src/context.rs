//! The `context` of a request: only the attributes that the policies at hand read, because building it costs more than
//! evaluating most policies.

use std::net::IpAddr;
use std::sync::LazyLock;

use cedar_policy_core::ast::{Context, ExtensionFunction, Literal, Name, PartialValue, Value, ValueKind};
use cedar_policy_core::extensions::Extensions;

use crate::break_glass::BreakGlass;
use crate::claims::Claims;
use crate::reads::Reads;
use crate::request::{Action, Request};

const MINUTE_US: i64 = 60_000_000;
const DAY_MINUTES: i64 = 24 * 60;

type Pairs = Vec<(&'static str, Value)>;

/// Builds what `reads` asks for, as Cedar values and not as expressions to be evaluated first. `None` when a value is out
/// of Cedar's range (a year past 9999); callers deny.
pub(crate) fn build(request: &Request<'_>, reads: Reads) -> Option<Context> {
    if reads.is_none() {
        return Some(Context::empty());
    }
    let mut pairs = Pairs::with_capacity(6);
    let mut add = |reads_it: Reads, name: &'static str, value: &str| {
        if reads.has(reads_it) {
            pairs.push((name, Value::from(value)));
        }
    };
    match request.action {
        Action::Http { method, path, host } => {
            add(Reads::METHOD, "method", method);
            add(Reads::PATH, "path", path);
            add(Reads::HOST, "host", host);
        }
        Action::Grpc { service, method } => {
            add(Reads::SERVICE, "service", service);
            add(Reads::METHOD, "method", method);
        }
        Action::TcpConnect { sni } | Action::GatewayForward { sni } | Action::EgressConnect { sni } => {
            if let Some(sni) = sni {
                add(Reads::SNI, "sni", sni);
            }
        }
    }
    if reads.has(Reads::NET) {
        pairs.push(("net", net(request, reads)?));
    }
    if reads.has(Reads::CLOCK) {
        pairs.push(("clock", clock(request.time_us, reads)?));
    }
    if let Some(claims) = end_user(request).filter(|_| reads.has(Reads::JWT)) {
        pairs.push(("jwt", claims.value()));
    }
    if let Some(grant) = break_glass(request).filter(|_| reads.has(Reads::BREAK_GLASS)) {
        pairs.push(("break_glass", grant.value()?));
    }
    match Value::record(pairs, None).value {
        ValueKind::Record(record) => Some(Context::Value(record)),
        _ => None,
    }
}

/// Only calls have end users: a connection has no place for a token that the mesh could read.
fn end_user<'a>(request: &Request<'a>) -> Option<&'a Claims> {
    request.end_user.filter(|_| matches!(request.action, Action::Http { .. } | Action::Grpc { .. }))
}

/// The grant that covers the call at its time.
pub(crate) fn break_glass<'a>(request: &Request<'a>) -> Option<&'a BreakGlass> {
    request.break_glass.filter(|grant| request.time_us < grant.until_us)
}

fn net(request: &Request<'_>, reads: Reads) -> Option<Value> {
    let net = &request.net;
    let mut fields = Pairs::with_capacity(4);
    if reads.has(Reads::SRC_IP) {
        fields.push(("src_ip", ip(net.src_ip)?));
    }
    if reads.has(Reads::SRC_CLUSTER) {
        fields.push(("src_cluster", Value::from(net.src_cluster)));
    }
    if reads.has(Reads::DST_CLUSTER) {
        fields.push(("dst_cluster", Value::from(net.dst_cluster)));
    }
    if reads.has(Reads::DST_PORT) {
        fields.push(("dst_port", long(i64::from(net.dst_port))));
    }
    Some(Value::record(fields, None))
}

fn clock(time_us: i64, reads: Reads) -> Option<Value> {
    let mut fields = Pairs::with_capacity(3);
    if reads.has(Reads::NOW) {
        fields.push(("now", datetime(time_us)?));
    }
    if reads.has(Reads::MINUTE_OF_DAY) {
        fields.push(("minute_of_day", long(minute_of_day(time_us))));
    }
    if reads.has(Reads::WEEKDAY) {
        fields.push(("weekday", long(weekday_at(time_us))));
    }
    Some(Value::record(fields, None))
}

fn long(value: i64) -> Value {
    Value::from(Literal::from(value))
}

/// A constructor of Cedar's extensions by name.
fn function(name: &str) -> Option<&'static ExtensionFunction> {
    let name: Name = name.parse().ok()?;
    Extensions::all_available().func(&name).ok()
}

fn ip(address: IpAddr) -> Option<Value> {
    static IP: LazyLock<Option<&'static ExtensionFunction>> = LazyLock::new(|| function("ip"));
    call(*IP, Value::from(address.to_canonical().to_string()))
}

pub(crate) fn datetime(time_us: i64) -> Option<Value> {
    static DATETIME: LazyLock<Option<&'static ExtensionFunction>> = LazyLock::new(|| function("datetime"));
    call(*DATETIME, Value::from(rfc3339_ms(time_us)?))
}

fn call(function: Option<&ExtensionFunction>, argument: Value) -> Option<Value> {
    match function?.call(&[argument]).ok()? {
        PartialValue::Value(value) => Some(value),
        PartialValue::Residual(_) => None,
    }
}

/// Whether decisions may be remembered by [`write_key`]: not where the clock is read to the millisecond.
pub(crate) fn is_memorable(reads: Reads) -> bool {
    !reads.has(Reads::NOW)
}

/// Writes every value that `reads` names into `key`. INVARIANT: among requests of one action, equal keys mean equal
/// contexts of [`build`], where [`is_memorable`].
pub(crate) fn write_key(request: &Request<'_>, reads: Reads, key: &mut Vec<u8>) {
    let mut text = |reads_it: Reads, value: &str| {
        if reads.has(reads_it) {
            key.extend_from_slice(&value.len().to_le_bytes());
            key.extend_from_slice(value.as_bytes());
        }
    };
    let net = &request.net;
    match request.action {
        Action::Http { method, path, host } => {
            text(Reads::METHOD, method);
            text(Reads::PATH, path);
            text(Reads::HOST, host);
        }
        Action::Grpc { service, method } => {
            text(Reads::SERVICE, service);
            text(Reads::METHOD, method);
        }
        Action::TcpConnect { sni } | Action::GatewayForward { sni } | Action::EgressConnect { sni } => {
            // An absent name is not an empty one.
            text(Reads::SNI, if sni.is_some() { "some" } else { "none" });
            text(Reads::SNI, sni.unwrap_or(""));
        }
    }
    text(Reads::SRC_CLUSTER, net.src_cluster);
    text(Reads::DST_CLUSTER, net.dst_cluster);
    if reads.has(Reads::JWT) {
        let claims = end_user(request);
        text(Reads::JWT, if claims.is_some() { "some" } else { "none" });
        if let Some(claims) = claims {
            claims.write_key(|part| text(Reads::JWT, part));
        }
    }
    if reads.has(Reads::BREAK_GLASS) {
        let grant = break_glass(request);
        text(Reads::BREAK_GLASS, if grant.is_some() { "some" } else { "none" });
        if let Some(grant) = grant {
            grant.write_key(|part| text(Reads::BREAK_GLASS, part));
        }
    }
    if reads.has(Reads::SRC_IP) {
        // As IPv6 every address has one form; `build` takes the canonical one.
        let address = match net.src_ip.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        key.extend_from_slice(&address.octets());
    }
    if reads.has(Reads::DST_PORT) {
        key.extend_from_slice(&net.dst_port.to_le_bytes());
    }
    if reads.has(Reads::MINUTE_OF_DAY) {
        key.extend_from_slice(&minute_of_day(request.time_us).to_le_bytes());
    }
    if reads.has(Reads::WEEKDAY) {
        key.extend_from_slice(&weekday_at(request.time_us).to_le_bytes());
    }
}

fn minute_of_day(time_us: i64) -> i64 {
    time_us.div_euclid(MINUTE_US).rem_euclid(DAY_MINUTES)
}

fn weekday_at(time_us: i64) -> i64 {
    weekday(time_us.div_euclid(MINUTE_US).div_euclid(DAY_MINUTES))
}

/// ISO 8601: Monday is 1, Sunday 7. Day 0 is Thursday, 1 January 1970.
fn weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

/// The first instant of the next minute, when clock facts may change.
pub(crate) fn next_minute_us(time_us: i64) -> i64 {
    time_us.div_euclid(MINUTE_US).saturating_add(1).saturating_mul(MINUTE_US)
}

/// `2026-11-22T20:41:07.123Z`, the form that Cedar's `datetime` takes; `None` outside years 0 to 9999.
pub(crate) fn rfc3339_ms(time_us: i64) -> Option<String> {
    let ms = time_us.div_euclid(1000);
    let (days, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Civil date from a day count, Howard Hinnant's algorithm with eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (0..=9999).contains(&year).then(|| {
        let (s, ms) = (ms / 1000, ms % 1000);
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::request::{Net, Principal};
    use std::net::{IpAddr, Ipv4Addr};

    fn request(action: Action<'_>) -> Request<'_> {
        let net = Net {
            src_ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            src_cluster: "a.b",
            dst_cluster: "c.d",
            dst_port: 80,
        };
        Request {
            principal: Principal::Unauthenticated,
            service: "c.d/n/s",
            action,
            net,
            end_user: None,
            break_glass: None,
            time_us: 1_795_380_067_123_456,
        }
    }

    #[test]
    fn dates_follow_the_calendar() {
        let table = [
            (0, Some("1970-01-01T00:00:00.000Z")),
            (1_795_380_067_123_456, Some("2026-11-22T20:41:07.123Z")),
            (951_782_400_000_000, Some("2000-02-29T00:00:00.000Z")),
            (-1, Some("1969-12-31T23:59:59.999Z")),
            (i64::MAX, None),
            (i64::MIN, None),
        ];
        for (us, want) in table {
            assert_eq!(rfc3339_ms(us).as_deref(), want, "{us}");
        }
        assert_eq!([weekday(0), weekday(3), weekday(-4), weekday(20_779)], [4, 7, 7, 7]);
    }

    #[test]
    fn whole_context_conforms_to_the_schema() {
        let actions = [
            Action::Http { method: "GET", path: "/", host: "h" },
            Action::Grpc { service: "s", method: "m" },
            Action::TcpConnect { sni: None },
            Action::GatewayForward { sni: Some("x") },
        ];
        let schema = crate::schema::schema().unwrap();
        let alice = Claims { issuer: "https://i".to_owned(), subject: "alice".to_owned(), ..Claims::default() };
        let alice = [alice.clone(), Claims { acr: Some("mfa".to_owned()), ..alice }];
        for action in actions {
            for end_user in [None, alice.first(), alice.last()] {
                let request = Request { end_user, ..request(action) };
                let context = cedar_policy::Context::from(build(&request, Reads::ALL).unwrap());
                let uid = crate::entities::uid(&crate::entities::ACTION, action.cedar_id()).unwrap();
                context.validate(schema, &uid).unwrap();
                let calls = matches!(action, Action::Http { .. } | Action::Grpc { .. });
                assert_eq!(context.get("jwt").is_some(), calls && end_user.is_some());
            }
            for (after_us, covered) in [(-1, false), (0, false), (1, true)] {
                let base = request(action);
                let grant = BreakGlass { until_us: base.time_us + after_us, ..BreakGlass::default() };
                let request = Request { break_glass: Some(&grant), ..base };
                let context = cedar_policy::Context::from(build(&request, Reads::ALL).unwrap());
                let uid = crate::entities::uid(&crate::entities::ACTION, action.cedar_id()).unwrap();
                context.validate(schema, &uid).unwrap();
                assert_eq!(context.get("break_glass").is_some(), covered, "{after_us}");
            }
        }
    }

    #[test]
    fn only_what_is_read_is_built() {
        let http = request(Action::Http { method: "GET", path: "/", host: "h" });
        let context = cedar_policy::Context::from(build(&http, Reads::PATH | Reads::DST_PORT).unwrap());
        assert!(context.get("path").is_some() && context.get("host").is_none() && context.get("clock").is_none());
        assert_eq!(context.get("net").unwrap().to_string(), "{\"dst_port\": 80}");
        assert_eq!(build(&http, Reads::NONE).unwrap().num_keys(), 0);
    }

    #[test]
    fn next_minute_is_strictly_later() {
        assert_eq!(next_minute_us(0), 60_000_000);
        assert_eq!(next_minute_us(59_999_999), 60_000_000);
        assert_eq!(next_minute_us(60_000_000), 120_000_000);
    }
}
