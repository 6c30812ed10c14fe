//! The gateway's own series; decisions, refusals and connections are the proxy's.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// How a CONNECT or its tunnel went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Opened,
    Denied,
    NotExported,
    /// No endpoint could be connected.
    Unreachable,
    /// The first bytes were no ClientHello of the mesh.
    NotMesh,
    /// Not a CONNECT, or one without authority.
    BadRequest,
    ClosedByPolicy,
    Idle,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Denied => "denied",
            Self::NotExported => "not_exported",
            Self::Unreachable => "unreachable",
            Self::NotMesh => "not_mesh",
            Self::BadRequest => "bad_request",
            Self::ClosedByPolicy => "closed_by_policy",
            Self::Idle => "idle",
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct GatewayMetrics {
    results: Family<ResultLabels, Counter>,
    pub(crate) open: Gauge,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
}

impl GatewayMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("signet_gateway_tunnels", "What became of tunnels asked for", metrics.results.clone());
        registry.register("signet_gateway_tunnels_open", "Open tunnels", metrics.open.clone());
        registry.register("signet_gateway_received_bytes", "Bytes from remote sidecars", metrics.received.clone());
        registry.register("signet_gateway_sent_bytes", "Bytes to remote sidecars", metrics.sent.clone());
        metrics
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.results.get_or_create(&ResultLabels { result: outcome.as_str() }).inc();
    }
}
