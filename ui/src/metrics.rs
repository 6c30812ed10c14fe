//! What `/metrics` says of the dashboard itself.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Answers by kind of path and class of status: few series, whatever is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    kind: &'static str,
    class: &'static str,
}

/// The dashboard's own metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<Answer, Counter>,
    /// Live lists that are open.
    pub(crate) live_lists: Gauge,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("signet_ui_requests", "Answered requests", self.requests.clone());
        registry.register("signet_ui_live_lists", "Open live lists of decisions", self.live_lists.clone());
    }
}

/// Counts every answer.
pub(crate) async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let kind = if request.uri().path().starts_with("/api/") { "api" } else { "page" };
    let response = next.run(request).await;
    let class = match response.status().as_u16() {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    metrics.requests.get_or_create(&Answer { kind, class }).inc();
    response
}
