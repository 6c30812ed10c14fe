//! Splunk's HTTP Event Collector: events in one POST, and, where its indexer acknowledges, asking until it has.

use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{BadExport, Event, NotTaken};
use crate::config::HecConfig;
use crate::outgoing::Target;
use crate::secret::Secret;

/// How long the indexer may take, and how often it is asked.
const ACKNOWLEDGED: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(500);
const CHANNEL: HeaderName = HeaderName::from_static("x-splunk-request-channel");

/// A collector.
pub(super) struct Hec {
    events: Target,
    /// Where acknowledgements are asked for; `None` when having answered counts.
    acks: Option<Target>,
    authorization: HeaderValue,
    channel: HeaderValue,
}

#[derive(Deserialize)]
struct Answer {
    code: i64,
    #[serde(rename = "ackId")]
    ack_id: Option<u64>,
}

#[derive(Deserialize)]
struct Acks {
    acks: std::collections::BTreeMap<String, bool>,
}

impl Hec {
    pub(super) fn new(name: &str, config: &HecConfig) -> Result<Self, BadExport> {
        let target = |source| BadExport::Target { name: name.to_owned(), source };
        let secret = |source| BadExport::Secret { name: name.to_owned(), source };
        let bad_url = || target(crate::outgoing::BadTarget::Url(config.url.clone()));
        let events = Target::https(&config.url, &config.authorities).map_err(target)?;
        let acks = if config.acknowledge { Some(events.sibling("ack").ok_or_else(bad_url)?) } else { None };
        let token = Secret::read(&config.token_file).map_err(secret)?;
        let mut authorization = HeaderValue::from_str(&format!("Splunk {}", token.expose())).map_err(|_| bad_url())?;
        authorization.set_sensitive(true);
        let channel = HeaderValue::from_str(&Uuid::new_v4().to_string()).map_err(|_| bad_url())?;
        Ok(Self { events, acks, authorization, channel })
    }

    fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        [(AUTHORIZATION, self.authorization.clone()), (CHANNEL, self.channel.clone())]
    }

    pub(super) async fn send(&self, events: &[Event]) -> Result<(), NotTaken> {
        let (status, body) = self.events.post("application/json", self.headers(), body(events)).await?;
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        let answer = match answer {
            Some(answer) if status == StatusCode::OK && answer.code == 0 => answer,
            Some(answer) => return Err(NotTaken::Answer(format!("it answered {status} with code {}", answer.code))),
            None => return Err(NotTaken::Answer(format!("it answered {status}"))),
        };
        match (&self.acks, answer.ack_id) {
            (None, _) => Ok(()),
            (Some(acks), Some(id)) => self.acknowledged(acks, id).await,
            (Some(_), None) => {
                Err(NotTaken::Answer("it names no ackId: switch indexer acknowledgement on for the token".to_owned()))
            }
        }
    }

    /// Asks until the indexer has what was sent under `id`.
    async fn acknowledged(&self, acks: &Target, id: u64) -> Result<(), NotTaken> {
        let deadline = Instant::now() + ACKNOWLEDGED;
        let question = Bytes::from(format!("{{\"acks\":[{id}]}}"));
        loop {
            let (status, body) = acks.post("application/json", self.headers(), question.clone()).await?;
            let answer: Option<Acks> = serde_json::from_slice(&body).ok();
            match answer.and_then(|answer| answer.acks.get(&id.to_string()).copied()) {
                Some(true) => return Ok(()),
                Some(false) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Some(false) => {
                    return Err(NotTaken::Answer(format!("no acknowledgement within {} s", ACKNOWLEDGED.as_secs())));
                }
                None => return Err(NotTaken::Answer(format!("asked for an acknowledgement, it answered {status}"))),
            }
        }
    }
}

/// Events one after the other, each a JSON object, as the collector takes them.
fn body(events: &[Event]) -> Bytes {
    let mut body = String::new();
    for event in events {
        let micros = event.record.time_us;
        let time = format!("{}.{:06}", micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        let wrapped = serde_json::json!({
            "time": time, "source": "signet", "sourcetype": "signet:audit", "host": event.record.producer,
            "event": event.json, "fields": { "signet_id": event.id },
        });
        body.push_str(&wrapped.to_string());
        body.push('\n');
    }
    Bytes::from(body)
}
