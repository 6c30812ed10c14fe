//! The proxy's metrics. Every series on the path of a call is looked up once, here, and never by label again.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::balance::Limit;
use crate::flow::Flows;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
    /// Through a gateway.
    Forward,
}

impl Direction {
    pub(crate) const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Forward];

    /// As labels spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Forward => "forward",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: &'static str,
    protocol: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    transport: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const PROTOCOLS: [&str; 4] = ["http", "http2", "grpc", "tcp"];

/// One direction's series.
#[derive(Debug)]
pub struct Golden {
    requests: [[Counter; CODES.len()]; PROTOCOLS.len()],
    pub latency: Histogram,
    pub connections: Gauge,
    pub connections_total: Counter,
    pub connections_refused: Counter,
}

/// All series of a sidecar or gateway.
#[derive(Debug)]
pub struct Metrics {
    /// By source, destination and route.
    pub flows: Arc<Flows>,
    pub inbound: Golden,
    pub outbound: Golden,
    allowed: Counter,
    denied: Counter,
    unrecorded: Counter,
    decision_latency: Histogram,
    refusals: Family<CauseLabels, Counter>,
    pub plaintext_connections: Counter,
    carried_mtls: Counter,
    carried_plaintext: Counter,
    pub pool_opened: Counter,
    pub pool_reused: Counter,
    pub pool_retried: Counter,
    pub pool_failed: Counter,
    pub closed_by_policy: Counter,
    pub clock_steps: Counter,
    pub break_glass_decisions: Counter,
    pub mirrored: Counter,
    pub rate_limited: Counter,
    pub fault_delays: Counter,
    pub fault_aborts: Counter,
    pub mirror_skipped: Counter,
    limits_met: [Counter; Limit::ALL.len()],
    pub ejected_consecutive: Counter,
    pub ejected_success_rate: Counter,
    /// Endpoints that would have been ejected, were not so many already.
    pub ejections_spared: Counter,
    pub panicked: Counter,
    pub failed_over: Counter,
    pub unreachable: Counter,
    pub gateways_lost: Counter,
    pub snapshot_version: Gauge,
    pub break_glass_grants: Gauge,
    pub tokens_verified: Counter,
    pub tokens_known: Counter,
    pub tokens_refused: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl Metrics {
    /// Makes and registers all series, under names that begin with `signet_`.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let flows = Arc::new(Flows::default());
        registry.register_collector(Box::new(Arc::clone(&flows)));
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("signet_proxy_requests", "Calls answered", requests.clone());
        let latency = Family::<DirectionLabels, Histogram>::new_with_constructor(latency_histogram);
        registry.register("signet_proxy_request_seconds", "From arrival to the answer's head", latency.clone());
        let connections = Family::<DirectionLabels, Gauge>::default();
        registry.register("signet_proxy_connections", "Open accepted connections", connections.clone());
        let accepted = Family::<DirectionLabels, Counter>::default();
        registry.register("signet_proxy_connections_accepted", "Accepted connections", accepted.clone());
        let over = Family::<DirectionLabels, Counter>::default();
        registry.register(
            "signet_proxy_connections_over_limit",
            "Connections closed at the listener's limit",
            over.clone(),
        );
        let golden = |direction: &'static str| {
            let by = DirectionLabels { direction };
            Golden {
                requests: PROTOCOLS.map(|protocol| {
                    CODES.map(|code| requests.get_or_create(&RequestLabels { direction, protocol, code }).clone())
                }),
                latency: latency.get_or_create(&by).clone(),
                connections: connections.get_or_create(&by).clone(),
                connections_total: accepted.get_or_create(&by).clone(),
                connections_refused: over.get_or_create(&by).clone(),
            }
        };
        let (inbound, outbound) = (golden("inbound"), golden("outbound"));

        let decisions = Family::<DecisionLabels, Counter>::default();
        registry.register("signet_proxy_decisions", "Decisions made and recorded", decisions.clone());
        // A closure each: a family's guard lives to the end of its statement, and a second look inside it deadlocks.
        let decided = |decision: &'static str| decisions.get_or_create(&DecisionLabels { decision }).clone();
        let carried = Family::<TransportLabels, Counter>::default();
        registry.register(
            "signet_proxy_inbound_carried",
            "Allowed calls and TCP connections by how they came; the share of `mtls` is the encryption coverage",
            carried.clone(),
        );
        let carry = |transport: &'static str| carried.get_or_create(&TransportLabels { transport }).clone();
        let pool = Family::<EventLabels, Counter>::default();
        registry.register("signet_proxy_pool", "What became of upstream connections", pool.clone());
        let pooled = |event: &'static str| pool.get_or_create(&EventLabels { event }).clone();
        let token = Family::<EventLabels, Counter>::default();
        registry.register("signet_proxy_end_user_tokens", "What became of end users' tokens", token.clone());
        let tokens = |event: &'static str| token.get_or_create(&EventLabels { event }).clone();
        let faults = Family::<FaultLabels, Counter>::default();
        registry.register("signet_proxy_faults", "Faults made as a TrafficPolicy asks for", faults.clone());
        let faulted = |fault: &'static str| faults.get_or_create(&FaultLabels { fault }).clone();
        let limits = Family::<LimitLabels, Counter>::default();
        registry.register(
            "signet_proxy_circuit_open",
            "Calls refused, or not tried again, because a limit of their service's TrafficPolicy was met",
            limits.clone(),
        );
        let ejected = Family::<CauseLabels, Counter>::default();
        registry.register(
            "signet_proxy_ejections",
            "Endpoints that failed and got no calls for a while",
            ejected.clone(),
        );
        let ejections = |cause: &str| ejected.get_or_create(&CauseLabels { cause: cause.to_owned() }).clone();
        let metrics = Self {
            flows,
            inbound,
            outbound,
            allowed: decided("allow"),
            denied: decided("deny"),
            unrecorded: Counter::default(),
            decision_latency: latency_histogram(),
            refusals: Family::default(),
            plaintext_connections: Counter::default(),
            carried_mtls: carry("mtls"),
            carried_plaintext: carry("plaintext"),
            pool_opened: pooled("opened"),
            pool_reused: pooled("reused"),
            pool_retried: pooled("retried"),
            pool_failed: pooled("failed"),
            closed_by_policy: Counter::default(),
            clock_steps: Counter::default(),
            break_glass_decisions: Counter::default(),
            mirrored: Counter::default(),
            rate_limited: Counter::default(),
            fault_delays: faulted("delay"),
            fault_aborts: faulted("abort"),
            mirror_skipped: Counter::default(),
            limits_met: Limit::ALL.map(|of| limits.get_or_create(&LimitLabels { limit: of.as_str() }).clone()),
            ejected_consecutive: ejections("consecutive_failures"),
            ejected_success_rate: ejections("success_rate"),
            ejections_spared: ejections("spared"),
            panicked: Counter::default(),
            failed_over: Counter::default(),
            unreachable: Counter::default(),
            gateways_lost: Counter::default(),
            snapshot_version: Gauge::default(),
            break_glass_grants: Gauge::default(),
            tokens_verified: tokens("accepted"),
            tokens_known: tokens("remembered"),
            tokens_refused: tokens("refused"),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
        };
        registry.register(
            "signet_proxy_unrecorded_denials",
            "Calls denied because no record could be kept",
            metrics.unrecorded.clone(),
        );
        registry.register(
            "signet_proxy_decision_seconds",
            "From arrival to the recorded decision",
            metrics.decision_latency.clone(),
        );
        registry.register(
            "signet_proxy_refusals",
            "Connections refused before authentication",
            metrics.refusals.clone(),
        );
        registry.register(
            "signet_proxy_plaintext_connections",
            "Connections admitted without mTLS on permissive ports",
            metrics.plaintext_connections.clone(),
        );
        registry.register(
            "signet_proxy_closed_by_policy",
            "Open connections and streams closed by a new decision",
            metrics.closed_by_policy.clone(),
        );
        registry.register(
            "signet_proxy_clock_steps",
            "How often the machine's clock was set; open connections were decided again",
            metrics.clock_steps.clone(),
        );
        registry.register(
            "signet_proxy_break_glass_decisions",
            "Decisions that would have been others without a break-glass grant",
            metrics.break_glass_decisions.clone(),
        );
        registry.register(
            "signet_proxy_break_glass_grants",
            "Break-glass grants in the snapshot, also those that are over",
            metrics.break_glass_grants.clone(),
        );
        registry.register(
            "signet_proxy_rate_limited",
            "Calls and connections denied because their client exceeded its rate",
            metrics.rate_limited.clone(),
        );
        registry.register(
            "signet_proxy_panic",
            "Calls that went to any endpoint because too few of the service's were healthy",
            metrics.panicked.clone(),
        );
        registry.register(
            "signet_proxy_failed_over",
            "Calls that went to a later tier of their service's failover because too little of those before was well",
            metrics.failed_over.clone(),
        );
        registry.register(
            "signet_proxy_unreachable",
            "How often an endpoint of a service with failover was found to be out of reach",
            metrics.unreachable.clone(),
        );
        registry.register(
            "signet_proxy_gateways_lost",
            "How often a linked cluster's gateway was found to be out of reach",
            metrics.gateways_lost.clone(),
        );
        registry.register(
            "signet_proxy_mirrored",
            "Copies of calls that were sent to a mirror",
            metrics.mirrored.clone(),
        );
        registry.register(
            "signet_proxy_mirror_skipped",
            "Copies of calls that were left out because too many were in flight",
            metrics.mirror_skipped.clone(),
        );
        registry.register(
            "signet_proxy_snapshot_version",
            "Version of the snapshot in force, 0 for none",
            metrics.snapshot_version.clone(),
        );
        registry.register(
            "signet_proxy_tcp_received_bytes",
            "Bytes from clients of TCP connections",
            metrics.bytes_in.clone(),
        );
        registry.register(
            "signet_proxy_tcp_sent_bytes",
            "Bytes to clients of TCP connections",
            metrics.bytes_out.clone(),
        );
        Arc::new(metrics)
    }

    #[must_use]
    pub fn golden(&self, direction: Direction) -> &Golden {
        match direction {
            Direction::Inbound | Direction::Forward => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    pub(crate) fn decided(&self, allow: bool, took: Duration) {
        if allow { &self.allowed } else { &self.denied }.inc();
        self.decision_latency.observe(took.as_secs_f64());
    }

    /// Counts a denial without a record; `true` when it is worth a log line (the first, then each thousandth).
    pub(crate) fn unrecorded(&self) -> bool {
        self.unrecorded.inc().is_multiple_of(1000)
    }

    pub(crate) fn refused(&self, cause: &str) {
        self.refusals.get_or_create(&CauseLabels { cause: cause.to_owned() }).inc();
    }

    /// How often connections were refused for `cause`.
    #[must_use]
    pub fn refusals(&self, cause: &str) -> u64 {
        self.refusals.get_or_create(&CauseLabels { cause: cause.to_owned() }).get()
    }

    /// An inbound call was allowed. A caller without an identity came in plaintext.
    pub(crate) fn carried(&self, peer: &crate::decide::Peer) {
        if peer.id.is_some() { &self.carried_mtls } else { &self.carried_plaintext }.inc();
    }

    /// Allowed inbound calls and TCP connections that came by mTLS, and in plaintext.
    #[must_use]
    pub fn coverage(&self) -> (u64, u64) {
        (self.carried_mtls.get(), self.carried_plaintext.get())
    }

    pub(crate) fn limit_met(&self, of: Limit) {
        if let Some(counter) = self.limits_met.get(of as usize) {
            counter.inc();
        }
    }

    /// How often limit `of` was met.
    #[must_use]
    pub fn limits_met(&self, of: Limit) -> u64 {
        self.limits_met.get(of as usize).map_or(0, Counter::get)
    }

    pub(crate) fn copied(&self, received: u64, sent: u64) {
        self.bytes_in.inc_by(received);
        self.bytes_out.inc_by(sent);
    }
}

impl Golden {
    /// One call was answered.
    pub fn answered(&self, protocol: crate::snapshot::Protocol, status: u16, took: Duration) {
        let class = usize::from((status / 100).clamp(1, 5)) - 1;
        if let Some(counter) = self.requests.get(protocol as usize).and_then(|codes| codes.get(class)) {
            counter.inc();
        }
        self.latency.observe(took.as_secs_f64());
    }
}

/// From 25 us to 10 s: the mesh's own cost lies at the low end, the app's at the high end.
fn latency_histogram() -> Histogram {
    Histogram::new([
        0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
        2.5, 10.0,
    ])
}
