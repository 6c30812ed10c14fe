//! ArcSight Common Event Format, version 0 (Micro Focus, *Implementing ArcSight Common Event Format*).

use std::fmt::Write as _;
use std::io;

use signet_spool::Kind;

use super::visible;
use crate::row::{Row, is_decision, rfc3339, verdict};

pub(super) fn line(out: &mut Vec<u8>, row: &Row<'_>) -> io::Result<()> {
    let record = &row.stored.record;
    let name = match record.kind {
        Kind::Decision => format!("{} {}", record.action, verdict(record.allow)),
        Kind::Refusal => "connection refused".to_owned(),
        Kind::Event | Kind::Gap => record.action.clone(),
    };
    let severity = match (record.kind, record.allow) {
        (Kind::Gap, _) => 9,
        (_, true) => 1,
        (Kind::Event, false) => 7,
        (_, false) => 5,
    };
    let mut text = format!("CEF:0|Signet|Signet|{}|", env!("CARGO_PKG_VERSION"));
    let _ = write!(text, "{}:{}|{}|{severity}|", header(record.kind.as_str()), header(&record.reason), header(&name));
    let mut field = |key: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            if !text.ends_with('|') {
                text.push(' ');
            }
            let _ = write!(text, "{key}={}", extension(value));
        }
    };
    let (address, port) = match record.source_address.as_deref().and_then(|value| value.parse().ok()) {
        Some(std::net::SocketAddr::V4(address)) => (Some(address.ip().to_string()), Some(address.port().to_string())),
        _ => (None, None),
    };
    let id = record.id.to_string();
    let outcome = if is_decision(record.kind) {
        verdict(record.allow)
    } else if record.allow {
        "success"
    } else {
        "failure"
    };
    // Milliseconds, as CEF has it; the exact time is in `deviceCustomDate1`'s neighbour cs6.
    field("rt", Some(&record.time_us.div_euclid(1_000).to_string()));
    field("externalId", Some(&id));
    field("act", Some(outcome));
    field("outcome", Some(outcome));
    field("reason", Some(&record.reason));
    field("dvchost", Some(row.log));
    field("deviceProcessName", Some(&record.producer));
    field("src", address.as_deref());
    field("spt", port.as_deref());
    field("suser", record.source_spiffe_id.as_deref());
    field("duser", record.destination_spiffe_id.as_deref());
    field("destinationServiceName", Some(&record.destination_service));
    field("requestMethod", record.action.strip_prefix("http:"));
    field("request", record.path.as_deref());
    field("cnt", Some(&record.count.to_string()));
    let policies = record.policy_ids.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(",");
    let time = rfc3339(record.time_us);
    let custom = [
        ("policyIds", policies.as_str()),
        ("policyCommit", record.policy_commit.as_str()),
        ("bundleDigest", record.bundle_digest.as_str()),
        ("tls", record.tls.as_str()),
        ("traceId", record.trace_id.as_deref().unwrap_or_default()),
        ("time", time.as_str()),
    ];
    for (number, (label, value)) in (1..).zip(custom) {
        if !value.is_empty() {
            field(&format!("cs{number}Label"), Some(label));
            field(&format!("cs{number}"), Some(value));
        }
    }
    field("cn1Label", Some("leafIndex"));
    field("cn1", Some(&row.stored.leaf_index.to_string()));
    if let Some(latency) = record.latency_us {
        field("cn2Label", Some("latencyUs"));
        field("cn2", Some(&latency.to_string()));
    }
    field("msg", record.detail.as_deref());
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// A value in the header: `\` and `|` are escaped.
fn header(value: &str) -> String {
    escaped(value, &['\\', '|'])
}

/// A value in the extension: `\` and `=` are escaped.
fn extension(value: &str) -> String {
    escaped(value, &['\\', '='])
}

fn escaped(value: &str, special: &[char]) -> String {
    // Control characters become visible after escaping, so that their own backslash is not taken for an escape.
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        let shown = c.to_string();
        let shown = visible(&shown);
        if special.contains(&c) || (shown.len() > 1 && shown.starts_with('\\')) {
            text.push('\\');
        }
        text.push_str(&shown);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{extension, header};

    #[test]
    fn nothing_ends_a_field_early() {
        assert_eq!(header("a|b\\c=d\n"), "a\\|b\\\\c=d\\\\u{a}");
        assert_eq!(extension("a|b\\c=d\r"), "a|b\\\\c\\=d\\\\u{d}");
    }
}
