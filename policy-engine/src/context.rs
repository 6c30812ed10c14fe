//! The `context` of a request: only the attributes that the policies at hand read, because building it costs more than
//! evaluating most policies.

use cedar_policy::{Context, RestrictedExpression};

use crate::reads::Reads;
use crate::request::{Action, Request};

const MINUTE_US: i64 = 60_000_000;
const DAY_MINUTES: i64 = 24 * 60;

/// Builds what `reads` asks for. `None` when a value is out of Cedar's range (a year past 9999); callers deny.
pub(crate) fn build(request: &Request<'_>, reads: Reads) -> Option<Context> {
    let string = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let mut pairs: Vec<(String, RestrictedExpression)> = Vec::with_capacity(5);
    let mut add = |reads_it: Reads, name: &str, value: &str| {
        if reads.has(reads_it) {
            pairs.push((name.to_owned(), string(value)));
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
        pairs.push(("net".to_owned(), net(request, reads)?));
    }
    if reads.has(Reads::CLOCK) {
        pairs.push(("clock".to_owned(), clock(request.time_us, reads)?));
    }
    Context::from_pairs(pairs).ok()
}

fn net(request: &Request<'_>, reads: Reads) -> Option<RestrictedExpression> {
    let net = &request.net;
    let mut fields = Vec::with_capacity(4);
    if reads.has(Reads::SRC_IP) {
        fields.push(("src_ip".to_owned(), RestrictedExpression::new_ip(net.src_ip.to_canonical().to_string())));
    }
    if reads.has(Reads::SRC_CLUSTER) {
        fields.push(("src_cluster".to_owned(), RestrictedExpression::new_string(net.src_cluster.to_owned())));
    }
    if reads.has(Reads::DST_CLUSTER) {
        fields.push(("dst_cluster".to_owned(), RestrictedExpression::new_string(net.dst_cluster.to_owned())));
    }
    if reads.has(Reads::DST_PORT) {
        fields.push(("dst_port".to_owned(), RestrictedExpression::new_long(i64::from(net.dst_port))));
    }
    RestrictedExpression::new_record(fields).ok()
}

fn clock(time_us: i64, reads: Reads) -> Option<RestrictedExpression> {
    let minutes = time_us.div_euclid(MINUTE_US);
    let mut fields = Vec::with_capacity(3);
    if reads.has(Reads::NOW) {
        fields.push(("now".to_owned(), RestrictedExpression::new_datetime(rfc3339_ms(time_us)?)));
    }
    if reads.has(Reads::MINUTE_OF_DAY) {
        fields.push(("minute_of_day".to_owned(), RestrictedExpression::new_long(minutes.rem_euclid(DAY_MINUTES))));
    }
    if reads.has(Reads::WEEKDAY) {
        fields.push(("weekday".to_owned(), RestrictedExpression::new_long(weekday(minutes.div_euclid(DAY_MINUTES)))));
    }
    RestrictedExpression::new_record(fields).ok()
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
        for action in actions {
            let context = build(&request(action), Reads::ALL).unwrap();
            let uid = crate::entities::uid(&crate::entities::ACTION, action.cedar_id()).unwrap();
            context.validate(schema, &uid).unwrap();
        }
    }

    #[test]
    fn only_what_is_read_is_built() {
        let http = request(Action::Http { method: "GET", path: "/", host: "h" });
        let context = build(&http, Reads::PATH | Reads::DST_PORT).unwrap();
        assert!(context.get("path").is_some() && context.get("host").is_none() && context.get("clock").is_none());
        assert_eq!(context.get("net").unwrap().to_string(), "{\"dst_port\": 80}");
        assert_eq!(build(&http, Reads::NONE).unwrap().into_iter().count(), 0);
    }

    #[test]
    fn next_minute_is_strictly_later() {
        assert_eq!(next_minute_us(0), 60_000_000);
        assert_eq!(next_minute_us(59_999_999), 60_000_000);
        assert_eq!(next_minute_us(60_000_000), 120_000_000);
    }
}
