//! What a spool counts, and how Prometheus reads it.

use std::sync::Weak;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::spool::Shared;

/// Counters since the spool was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) appended: AtomicU64,
    pub(crate) shipped: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) full: AtomicU64,
    /// How many of `full` the audit service was told of.
    pub(crate) full_told: AtomicU64,
    pub(crate) fsync_failures: AtomicU64,
    pub(crate) rejections: AtomicU64,
    pub(crate) unreadable: AtomicU64,
}

/// Reads a spool when it is scraped, so that levels such as the age of the oldest record are true then.
#[derive(Debug)]
pub(crate) struct Collector(Weak<Shared>);

impl Collector {
    pub(crate) fn new(shared: Weak<Shared>) -> Self {
        Self(shared)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shared")
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let stats = shared.stats();
        let unreadable = shared.counters.unreadable.load(std::sync::atomic::Ordering::Relaxed);
        let counters = [
            ("signet_spool_appended", "Records appended to the spool", stats.appended),
            ("signet_spool_shipped", "Records sent to the audit service, repeats included", stats.shipped),
            ("signet_spool_acked", "Records acknowledged as committed", stats.acked),
            ("signet_spool_full", "Appends that met a full spool", stats.full),
            (
                "signet_spool_fsync_failures",
                "Failed fsyncs; the spool takes no more records after one",
                stats.fsync_failures,
            ),
            ("signet_spool_rejections", "Errors that the audit service answered with", stats.rejections),
            ("signet_spool_unreadable", "Records that were kept and cannot be read any more", unreadable),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let gauges = [
            ("signet_spool_unacked_records", "Records not acknowledged yet", stats.unacked as f64),
            ("signet_spool_bytes", "Bytes that the spool's files take", stats.bytes as f64),
            ("signet_spool_segments", "Segment files", stats.segments as f64),
            (
                "signet_spool_oldest_unacked_seconds",
                "Age of the oldest record not acknowledged",
                stats.oldest_unacked_seconds,
            ),
            (
                "signet_spool_failed",
                "1 when the spool takes no more records",
                f64::from(u8::from(stats.failed.is_some())),
            ),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}
