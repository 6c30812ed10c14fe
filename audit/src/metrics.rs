//! What the service counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::faults::Cause;

/// What became of one try to call a webhook, or of a notice to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WebhookOutcome {
    Delivered,
    /// This try; another follows.
    Failed,
    /// The notice was given up on.
    Dropped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfCause {
    cause: &'static str,
}

/// A continuous export.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfExport {
    pub(crate) export: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WithOutcome {
    outcome: &'static str,
}

/// Metrics of the audit service; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) ingested: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) gaps: Counter,
    pub(crate) missing: Counter,
    pub(crate) refused_batches: Counter,
    pub(crate) store_errors: Counter,
    pub(crate) streams: Gauge,
    pub(crate) batch_seconds: Histogram,
    pub(crate) batch_records: Histogram,
    pub(crate) tree_size: Gauge,
    pub(crate) checkpoint_size: Gauge,
    pub(crate) checkpoint_time: Gauge,
    pub(crate) lacking_cosignatures: Gauge,
    pub(crate) silences: Counter,
    pub(crate) silent_epochs: Gauge,
    alerts: Family<OfCause, Gauge>,
    webhooks: Family<WithOutcome, Counter>,
    pub(crate) unkept_alerts: Counter,
    pub(crate) exported: Family<OfExport, Counter>,
    pub(crate) export_failures: Family<OfExport, Counter>,
    pub(crate) export_behind: Family<OfExport, Gauge>,
    pub(crate) export_missing: Family<OfExport, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            ingested: Counter::default(),
            duplicates: Counter::default(),
            conflicts: Counter::default(),
            gaps: Counter::default(),
            missing: Counter::default(),
            refused_batches: Counter::default(),
            store_errors: Counter::default(),
            streams: Gauge::default(),
            batch_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            batch_records: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            tree_size: Gauge::default(),
            checkpoint_size: Gauge::default(),
            checkpoint_time: Gauge::default(),
            lacking_cosignatures: Gauge::default(),
            silences: Counter::default(),
            silent_epochs: Gauge::default(),
            alerts: Family::default(),
            webhooks: Family::default(),
            unkept_alerts: Counter::default(),
            exported: Family::default(),
            export_failures: Family::default(),
            export_behind: Family::default(),
            export_missing: Family::default(),
        }
    }
}

impl Metrics {
    /// Sets how many alerts of each cause are on.
    pub(crate) fn alerts(&self, active: impl Iterator<Item = Cause>) {
        let mut counts = Cause::ALL.map(|cause| (cause, 0_i64));
        for cause in active {
            for (_, count) in counts.iter_mut().filter(|(counted, _)| *counted == cause) {
                *count += 1;
            }
        }
        for (cause, count) in counts {
            self.alerts.get_or_create(&OfCause { cause: cause.as_str() }).set(count);
        }
    }

    /// Counts what became of a call to the webhook.
    pub(crate) fn webhook(&self, outcome: WebhookOutcome) {
        let outcome = match outcome {
            WebhookOutcome::Delivered => "delivered",
            WebhookOutcome::Failed => "failed",
            WebhookOutcome::Dropped => "dropped",
        };
        self.webhooks.get_or_create(&WithOutcome { outcome }).inc();
    }

    /// Registers everything under `signet_audit_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("signet_audit");
        registry.register("ingested_records", "Records committed", self.ingested.clone());
        registry.register(
            "duplicate_records",
            "Records delivered again, equal to the stored ones",
            self.duplicates.clone(),
        );
        registry.register("conflicting_records", "Records delivered again with other bytes", self.conflicts.clone());
        registry.register("gaps", "Jumps in a producer's sequence", self.gaps.clone());
        registry.register("missing_records", "Sequences that producers skipped", self.missing.clone());
        registry.register("refused_batches", "Batches that were not taken", self.refused_batches.clone());
        registry.register("store_errors", "Batches that had to be tried again", self.store_errors.clone());
        registry.register("streams", "Producers connected", self.streams.clone());
        registry.register("batch_seconds", "Time of a transaction", self.batch_seconds.clone());
        registry.register("batch_records", "Records of a transaction", self.batch_records.clone());
        registry.register("tree_size", "Leaves of the Merkle tree", self.tree_size.clone());
        registry.register("checkpoint_size", "Leaves of the newest checkpoint", self.checkpoint_size.clone());
        registry.register(
            "checkpoint_timestamp_seconds",
            "When the newest checkpoint was signed, Unix time",
            self.checkpoint_time.clone(),
        );
        registry.register(
            "lacking_cosignatures",
            "Witnesses that have not cosigned the newest checkpoint",
            self.lacking_cosignatures.clone(),
        );
        registry.register("silences", "Times that an open producer fell silent", self.silences.clone());
        registry.register(
            "silent_epochs",
            "Epochs of producers that stopped without closing them and have not come back",
            self.silent_epochs.clone(),
        );
        registry.register("alerts", "Alerts that are on, by cause", self.alerts.clone());
        registry.register("webhook_calls", "Calls of the alerts' webhook", self.webhooks.clone());
        registry.register(
            "unkept_alerts",
            "Changes of alerts that found no room to wait for PostgreSQL in and were not recorded",
            self.unkept_alerts.clone(),
        );
        registry.register(
            "exported_records",
            "Records that a continuous export's receiver took",
            self.exported.clone(),
        );
        registry.register("export_failures", "Batches that a receiver did not take", self.export_failures.clone());
        registry.register(
            "export_behind_records",
            "Records below the newest checkpoint that a receiver has not taken",
            self.export_behind.clone(),
        );
        registry.register(
            "export_missing_records",
            "Leaves that had no row when it was their turn",
            self.export_missing.clone(),
        );
    }
}
