//! Open Cybersecurity Schema Framework 1.8.0: API Activity (6003) for calls of an application protocol and for events,
//! Network Activity (4001) for TCP, gateways, egress and refusals; profile `security_control`.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use signet_spool::{Kind, Record};

use crate::row::{Row, is_decision, verdict};

const VERSION: &str = "1.8.0";

pub(super) fn line(out: &mut Vec<u8>, row: &Row<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &event(row))?;
    out.write_all(b"\n")
}

fn is_network(record: &Record) -> bool {
    let network = ["tcp:", "gateway:", "egress:"];
    record.kind == Kind::Refusal || network.iter().any(|prefix| record.action.starts_with(prefix))
}

fn event(row: &Row<'_>) -> Value {
    let record = &row.stored.record;
    let network = is_network(record);
    let (class, category) = if network { (4001, 4) } else { (6003, 6) };
    let activity = activity(record, network);
    let allowed = record.allow;
    // Informational when all is well, Medium for a denial, High for what is missing.
    let severity = match (record.kind, allowed) {
        (Kind::Gap, _) => 4,
        (_, true) => 1,
        (_, false) => 3,
    };
    let mut event = json!({
        "class_uid": class,
        "category_uid": category,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": severity,
        // Milliseconds, as `timestamp_t` has it.
        "time": record.time_us.div_euclid(1_000),
        "status_id": if allowed { 1 } else { 2 },
        "status_detail": record.reason,
        "count": record.count,
        "metadata": metadata(row, network),
        "actor": actor(record),
        "src_endpoint": source(record),
        "dst_endpoint": destination(record),
        "unmapped": unmapped(row),
    });
    let Some(fields) = event.as_object_mut() else { return event };
    if is_decision(record.kind) {
        // Shadow decisions took no effect: observed. DESIGN: enforcement is `enforce` or `shadow`.
        let (action, disposition) = match (record.enforcement.as_str(), allowed) {
            ("shadow", _) => (3, 15),
            (_, true) => (1, 1),
            (_, false) => (2, 2),
        };
        fields.insert("action_id".into(), action.into());
        fields.insert("disposition_id".into(), disposition.into());
    }
    if !record.policy_commit.is_empty() || !record.policy_ids.is_empty() {
        fields.insert("policy".into(), policy(record, record.policy_ids.first().map(AsRef::as_ref)));
    }
    if let Some(detail) = &record.detail {
        fields.insert("message".into(), detail.as_str().into());
    }
    if network {
        fields
            .insert("connection_info".into(), json!({ "direction_id": 1, "protocol_num": 6, "protocol_name": "tcp" }));
        if let Some(tls) = tls(record) {
            fields.insert("tls".into(), tls);
        }
    } else {
        fields.insert("api".into(), api(record));
        if let Some(request) = http_request(record) {
            fields.insert("http_request".into(), request);
        }
    }
    if let Some(trace) = record.trace_id.as_ref().filter(|_| !network) {
        fields.insert("trace".into(), json!({ "uid": trace }));
    }
    event
}

/// API Activity: create, read, update, delete, other. Network Activity: open, fail, refuse.
fn activity(record: &Record, network: bool) -> u32 {
    if network {
        return match (record.kind, record.allow) {
            (_, true) => 1,
            (_, false) => 5,
        };
    }
    match record.action.as_str() {
        "http:POST" => 1,
        "http:GET" | "http:HEAD" | "http:OPTIONS" => 2,
        "http:PUT" | "http:PATCH" => 3,
        "http:DELETE" => 4,
        _ => 99,
    }
}

fn metadata(row: &Row<'_>, network: bool) -> Value {
    let record = &row.stored.record;
    let mut profiles = Vec::new();
    if is_decision(record.kind) || !record.policy_commit.is_empty() || !record.policy_ids.is_empty() {
        profiles.push("security_control");
    }
    // Network Activity has its actor from `host` and knows no `trace`.
    if network {
        profiles.push("host");
    } else if record.trace_id.is_some() {
        profiles.push("trace");
    }
    json!({
        "version": VERSION,
        "product": { "name": "Signet", "vendor_name": "Signet", "version": env!("CARGO_PKG_VERSION") },
        "profiles": profiles,
        "uid": record.id.to_string(),
        "log_name": row.log,
        "sequence": row.stored.leaf_index,
        "logged_time": row.stored.received_at_us.div_euclid(1_000),
        "event_code": record.action,
    })
}

/// The caller is a service account; its trust domain is the domain of the user.
fn actor(record: &Record) -> Value {
    let mut actor = Map::new();
    let user = match record.source_spiffe_id.as_deref() {
        Some(id) => json!({ "uid": id, "name": id, "type_id": 4, "domain": id.split('/').nth(2).unwrap_or_default() }),
        None => json!({ "name": "unauthenticated", "type_id": 0 }),
    };
    actor.insert("user".into(), user);
    if is_decision(record.kind) {
        let decision = verdict(record.allow);
        let authorization = |id: Option<&str>| json!({ "decision": decision, "policy": policy(record, id) });
        let authorizations: Vec<Value> = match record.policy_ids.as_slice() {
            // A default deny: the bundle decided, no policy of it.
            [] => vec![authorization(None)],
            ids => ids.iter().map(|id| authorization(Some(id))).collect(),
        };
        actor.insert("authorizations".into(), authorizations.into());
    }
    actor.into()
}

fn policy(record: &Record, id: Option<&str>) -> Value {
    let id = id.unwrap_or("default-deny");
    json!({
        "uid": id, "name": id, "version": record.policy_commit, "desc": record.bundle_digest,
        "is_applied": record.enforcement.as_str() == "enforce",
    })
}

fn source(record: &Record) -> Value {
    let mut endpoint = Map::new();
    if let Some(address) = record.source_address.as_deref().and_then(|text| text.parse::<SocketAddr>().ok()) {
        endpoint.insert("ip".into(), address.ip().to_string().into());
        endpoint.insert("port".into(), address.port().into());
    }
    endpoint.insert("name".into(), record.source_spiffe_id.as_deref().unwrap_or("unauthenticated").into());
    endpoint.into()
}

fn destination(record: &Record) -> Value {
    let service = if record.destination_service.is_empty() { "none" } else { &record.destination_service };
    let mut endpoint = Map::from_iter([("svc_name".to_owned(), Value::from(service))]);
    if let Some(id) = &record.destination_spiffe_id {
        endpoint.insert("name".into(), id.as_str().into());
    }
    endpoint.into()
}

fn api(record: &Record) -> Value {
    let operation = match (record.action.as_str(), &record.path) {
        ("grpc:call", Some(path)) => path.as_str(),
        (action, _) => action,
    };
    json!({
        "operation": operation,
        "service": { "name": if record.destination_service.is_empty() { "signet" } else { &record.destination_service } },
        "request": { "uid": record.id.to_string() },
    })
}

fn http_request(record: &Record) -> Option<Value> {
    let method = record.action.strip_prefix("http:")?;
    let path = record.path.as_deref().unwrap_or("/");
    Some(json!({ "http_method": method, "uid": record.id.to_string(), "url": { "path": path } }))
}

/// `TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384`
fn tls(record: &Record) -> Option<Value> {
    let mut parts = record.tls.split(' ');
    let version = parts.next()?.strip_prefix("TLSv")?;
    let mut tls = Map::from_iter([("version".to_owned(), Value::from(version))]);
    parts.next();
    if let Some(cipher) = parts.next() {
        tls.insert("cipher".into(), cipher.into());
    }
    Some(tls.into())
}

/// What OCSF has no place for.
fn unmapped(row: &Row<'_>) -> Value {
    let record = &row.stored.record;
    json!({
        "kind": record.kind.as_str(),
        "proxy": record.producer,
        "enforcement": record.enforcement.as_str(),
        "time_us": record.time_us,
        "latency_us": record.latency_us,
        "trace_id": record.trace_id,
        "tls": record.tls,
        "epoch": row.stored.epoch.to_string(),
        "sequence": row.stored.sequence,
        "leaf_hash": hex::encode(row.stored.leaf()),
        "context": crate::row::Value::Pairs(&record.context),
    })
}
