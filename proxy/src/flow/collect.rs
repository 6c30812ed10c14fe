//! Flows as `/metrics` shows them, read when they are asked for. Series that nothing was counted in are left out.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{BOUNDS_US, CLASSES, Counts, Decided, Flow, Flows};

type Label<'f> = (&'static str, &'f str);

impl Flow {
    fn labels(&self) -> [Label<'_>; 6] {
        let source = self.source.strip_prefix("spiffe://").unwrap_or_default();
        [
            ("direction", self.direction.as_str()),
            ("source", &self.source),
            ("source_cluster", trust_domain(source)),
            ("destination", &self.destination),
            ("destination_cluster", trust_domain(&self.destination)),
            ("route", &self.route),
        ]
    }

    fn labels_with(&self, more: &[Label<'static>]) -> Vec<Label<'_>> {
        self.labels().into_iter().chain(more.iter().copied()).collect()
    }
}

/// Of `<td>/..`; none of a name without a slash, which is no service's.
fn trust_domain(name: &str) -> &str {
    name.split_once('/').map_or("", |(trust_domain, _)| trust_domain)
}

impl Collector for Flows {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let flows: Vec<(Arc<Flow>, Counts)> =
            self.all().into_iter().map(|flow| (Arc::clone(&flow), flow.counts())).collect();
        requests(&mut encoder, &flows)?;
        durations(&mut encoder, &flows)?;
        connections(&mut encoder, &flows)?;
        plain(
            &mut encoder,
            &flows,
            "signet_flow_failures",
            "Calls that the destination failed, and connections that could not be made",
            |c| c.failed,
        )?;
        plain(
            &mut encoder,
            &flows,
            "signet_flow_received_bytes",
            "Bytes from sources: bodies of calls, all of TCP",
            |c| c.received,
        )?;
        plain(&mut encoder, &flows, "signet_flow_sent_bytes", "Bytes to sources: bodies of calls, all of TCP", |c| {
            c.sent
        })?;
        let overflowed = "Lookups of flows that found no place and are counted as `other`";
        counter(&mut encoder, "signet_flow_overflow", overflowed)?
            .encode_counter::<NoLabelSet, _, u64>(&self.overflowed.get(), None)?;
        let now = i64::try_from(self.len()).unwrap_or(i64::MAX);
        encoder
            .encode_descriptor("signet_flows", "Flows with series of their own", None, MetricType::Gauge)?
            .encode_gauge(&now)
    }
}

fn counter<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &'e str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn requests(encoder: &mut DescriptorEncoder<'_>, flows: &[(Arc<Flow>, Counts)]) -> fmt::Result {
    let mut series = counter(encoder, "signet_flow_requests", "Calls answered")?;
    for (flow, counts) in flows {
        for (decided, classes) in Decided::ALL.into_iter().zip(counts.answered) {
            for (code, count) in CLASSES.into_iter().zip(classes).filter(|(_, count)| *count > 0) {
                let labels = flow.labels_with(&[("decision", decided.as_str()), ("code", code)]);
                series.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
    }
    Ok(())
}

fn durations(encoder: &mut DescriptorEncoder<'_>, flows: &[(Arc<Flow>, Counts)]) -> fmt::Result {
    let help = "From a call's arrival to its answer's head";
    let mut series = encoder.encode_descriptor("signet_flow_request_seconds", help, None, MetricType::Histogram)?;
    for (flow, counts) in flows.iter().filter(|(_, counts)| counts.requests() > 0) {
        let bounds = BOUNDS_US.into_iter().map(seconds).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.durations).collect();
        series.encode_family(&flow.labels())?.encode_histogram::<NoLabelSet>(
            seconds(counts.duration_us),
            counts.durations.iter().sum(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn connections(encoder: &mut DescriptorEncoder<'_>, flows: &[(Arc<Flow>, Counts)]) -> fmt::Result {
    let mut series = counter(encoder, "signet_flow_connections", "TCP connections, and tunnels of a gateway")?;
    for (flow, counts) in flows {
        for (decided, count) in Decided::ALL.into_iter().zip(counts.connections).filter(|(_, count)| *count > 0) {
            let labels = flow.labels_with(&[("decision", decided.as_str())]);
            series.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn plain(
    encoder: &mut DescriptorEncoder<'_>,
    flows: &[(Arc<Flow>, Counts)],
    name: &str,
    help: &str,
    of: impl Fn(&Counts) -> u64,
) -> fmt::Result {
    let mut series = counter(encoder, name, help)?;
    for (flow, counts) in flows {
        let count = of(counts);
        if count > 0 {
            series.encode_family(&flow.labels())?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "microseconds stay exact for 285 years")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1_000_000.0
}
