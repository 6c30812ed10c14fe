//! OTLP logs over HTTP, as JSON (OTLP 1.x, section OTLP/HTTP): one export request a batch.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::{BadExport, Event, NotTaken};
use crate::config::OtlpConfig;
use crate::outgoing::Target;
use crate::secret::Secret;

/// Severity numbers of what was allowed and what was denied or failed.
const INFO: u8 = 9;
const WARN: u8 = 13;

/// A collector.
pub(super) struct Otlp {
    target: Target,
    authorization: Option<HeaderValue>,
}

impl Otlp {
    pub(super) fn new(name: &str, config: &OtlpConfig) -> Result<Self, BadExport> {
        let target = |source| BadExport::Target { name: name.to_owned(), source };
        let secret = |source| BadExport::Secret { name: name.to_owned(), source };
        let authorization = match &config.token_file {
            Some(file) => {
                let token = Secret::read(file).map_err(secret)?;
                let bad = || target(crate::outgoing::BadTarget::Url(config.url.clone()));
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| bad())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self { target: Target::https(&config.url, &config.authorities).map_err(target)?, authorization })
    }

    pub(super) async fn send(&self, events: &[Event]) -> Result<(), NotTaken> {
        let headers: Option<(HeaderName, HeaderValue)> = self.authorization.clone().map(|value| (AUTHORIZATION, value));
        let body = Bytes::from(request(events).to_string());
        let (status, answer) = self.target.post("application/json", headers, body).await?;
        if status != StatusCode::OK {
            return Err(NotTaken::Answer(format!("it answered {status}")));
        }
        match rejected(&answer) {
            0 => Ok(()),
            rejected => Err(NotTaken::Answer(format!("it rejected {rejected} records of the batch"))),
        }
    }
}

/// How many records a collector says that it rejected; protobuf's JSON has 64-bit numbers as text.
fn rejected(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = answer.pointer("/partialSuccess/rejectedLogRecords");
    count.and_then(|count| count.as_u64().or_else(|| count.as_str()?.parse().ok())).unwrap_or_default()
}

/// An `ExportLogsServiceRequest`.
fn request(events: &[Event]) -> Value {
    let records: Vec<Value> = events.iter().map(log_record).collect();
    json!({ "resourceLogs": [{
        "resource": { "attributes": [text("service.name", "signet-audit")] },
        "scopeLogs": [{ "scope": { "name": "signet.audit" }, "logRecords": records }],
    }] })
}

fn log_record(event: &Event) -> Value {
    let record = &event.record;
    let (number, severity) = if record.allow { (INFO, "INFO") } else { (WARN, "WARN") };
    let nanos = i128::from(record.time_us.max(0)) * 1_000;
    let mut attributes = vec![text("log.record.uid", &event.id)];
    attributes.extend(event.json.as_object().into_iter().flatten().filter_map(|(name, value)| attribute(name, value)));
    let mut out = json!({
        "timeUnixNano": nanos.to_string(), "severityNumber": number, "severityText": severity,
        "body": { "stringValue": format!("{} {}", record.action, record.reason) }, "attributes": attributes,
    });
    let trace = record.trace_id.as_deref().filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    if let (Some(trace), Some(fields)) = (trace, out.as_object_mut()) {
        fields.insert("traceId".to_owned(), trace.into());
    }
    out
}

/// A column as an attribute; what is absent is none.
fn attribute(name: &str, value: &Value) -> Option<Value> {
    let name = format!("signet.{name}");
    match value {
        Value::Null => None,
        Value::String(value) => Some(text(&name, value)),
        Value::Number(value) => Some(json!({ "key": name, "value": { "intValue": value.to_string() } })),
        other => Some(text(&name, &other.to_string())),
    }
}

fn text(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}
