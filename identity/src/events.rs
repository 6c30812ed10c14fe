//! What the identity server did and met, as audit records of kind event.
//!
//! What strangers can cause without limit (refused handshakes, calls and join tokens) is counted exactly and recorded in
//! aggregate, on a quota of its own. Without an audit service configured, events are log lines alone. A spool that refuses
//! an event does not undo what has happened; it is logged as an error and counted, never passed over.

use std::{net::IpAddr, sync::Arc};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use signet_mtls::SpiffeId;
use signet_spool::{Kind, Record, RefusalAggregator, Refused, Spool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// One event. Its action is stable: `identity:<what>`.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    /// `identity:issue`, `identity:attest`, ..
    pub action: &'static str,
    /// `false` for refusals and failures.
    pub allow: bool,
    /// Stable snake_case.
    pub reason: &'static str,
    /// Who asked, where known.
    pub source: Option<&'a SpiffeId>,
    /// Whom it is about, where somebody.
    pub subject: Option<&'a SpiffeId>,
    /// Facts for people, never secrets.
    pub detail: String,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Events {
    spool: Option<Spool>,
    refusals: Option<Arc<RefusalAggregator>>,
    producer: String,
    lost: Counter,
}

impl Events {
    /// Events of `producer`, into `spool` when there is one.
    pub(crate) fn new(spool: Option<Spool>, producer: &SpiffeId, registry: &mut Registry) -> Self {
        let lost = Counter::default();
        registry.register(
            "signet_identity_events_not_recorded",
            "Events that the spool refused; they are in the log only",
            lost.clone(),
        );
        let refusals = spool.clone().map(|spool| Arc::new(RefusalAggregator::new(spool, producer.as_str())));
        Self { spool, refusals, producer: producer.to_string(), lost }
    }

    /// Counts what was refused before its caller was known to be ours.
    pub(crate) fn refused(&self, action: &str, cause: &str, source: Option<IpAddr>, claimed: Option<&SpiffeId>) {
        let Some(refusals) = &self.refusals else { return };
        refusals.count(Refused {
            source,
            cause,
            action,
            destination_service: "",
            source_spiffe_id: claimed.map(SpiffeId::as_str),
            tls: "none",
        });
    }

    /// Writes counted refusals as records, until `cancel`.
    pub(crate) async fn aggregate(self, cancel: CancellationToken) {
        if let Some(refusals) = &self.refusals {
            refusals.run(cancel).await;
        }
    }

    /// Records one event.
    pub(crate) fn emit(&self, event: &Event<'_>) {
        tracing::info!(
            action = event.action,
            allow = event.allow,
            reason = event.reason,
            source = event.source.map(SpiffeId::as_str),
            subject = event.subject.map(SpiffeId::as_str),
            detail = event.detail,
            "event"
        );
        let Some(spool) = &self.spool else { return };
        let record = Record {
            id: Uuid::now_v7(),
            time_us: jiff::Timestamp::now().as_microsecond(),
            kind: Kind::Event,
            producer: self.producer.clone(),
            source_spiffe_id: event.source.map(ToString::to_string),
            destination_spiffe_id: event.subject.map(ToString::to_string),
            action: event.action.to_owned(),
            allow: event.allow,
            reason: event.reason.to_owned(),
            tls: "none".to_owned(),
            detail: Some(event.detail.clone()).filter(|detail| !detail.is_empty()),
            ..Record::default()
        };
        if let Err(error) = spool.append(&record) {
            self.lost.inc();
            tracing::error!(error = signet_observe::error_chain(&error), action = event.action, "event not recorded");
        }
    }
}
