//! Syslog messages (RFC 5424) over TLS with octet counting (RFC 5425).
//!
//! Syslog acknowledges nothing. But a receiver must answer the end of a TLS connection with its own (RFC 5425, 4.4), and
//! whoever does has read what came before. So each batch is a connection, and is taken when its end was answered.

use std::fmt::Write as _;

use http::uri::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{BadExport, Event, NotTaken};
use crate::config::SyslogConfig;
use crate::outgoing::{BadTarget, DEADLINE, Host};
use crate::row::rfc3339;

const PORT: u16 = 6514;
/// Facility 13 (log audit), times eight, plus informational or warning.
const ALLOWED: u8 = 13 * 8 + 6;
const DENIED: u8 = 13 * 8 + 4;
/// What is read of what a receiver says; it should say nothing.
const MAX_SAID: u64 = 4 * 1024;

/// A receiver.
pub(super) struct Syslog(Host);

impl Syslog {
    pub(super) fn new(name: &str, config: &SyslogConfig) -> Result<Self, BadExport> {
        let target = |source| BadExport::Target { name: name.to_owned(), source };
        let authority: Authority =
            config.address.parse().map_err(|_| target(BadTarget::Url(config.address.clone())))?;
        Host::new(&authority, PORT, &config.authorities).map(Self).map_err(target)
    }

    pub(super) async fn send(&self, events: &[Event]) -> Result<(), NotTaken> {
        let frames: String = events.iter().map(frame).collect();
        let delivering = async {
            let mut stream = self.0.connect().await?;
            stream.write_all(frames.as_bytes()).await?;
            stream.shutdown().await?;
            let mut said = Vec::new();
            // An end without TLS's own is an error here: who vanished has not read.
            (&mut stream).take(MAX_SAID).read_to_end(&mut said).await?;
            Ok::<_, std::io::Error>(())
        };
        match tokio::time::timeout(DEADLINE, delivering).await {
            Ok(delivered) => delivered.map_err(NotTaken::Connection),
            Err(_) => Err(NotTaken::Answer(format!(
                "it did not answer the end of the connection within {} s",
                DEADLINE.as_secs()
            ))),
        }
    }
}

/// A message with its length before it. The record's id is its MSGID, the message is the record as JSON.
fn frame(event: &Event) -> String {
    let record = &event.record;
    let priority = if record.allow { ALLOWED } else { DENIED };
    let message = format!(
        "<{priority}>1 {} {} signet - {} - {}",
        rfc3339(record.time_us),
        host(&record.producer),
        record.id.simple(),
        event.json
    );
    let mut out = String::with_capacity(message.len() + 8);
    // Writing to a String cannot fail.
    let _ = write!(out, "{} {message}", message.len());
    out
}

/// HOSTNAME of the producer: its trust domain.
fn host(producer: &str) -> &str {
    let name = producer.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    if name.is_empty() || name.len() > 255 || !name.bytes().all(|b| b.is_ascii_graphic()) { "-" } else { name }
}
