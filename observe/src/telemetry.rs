//! Logs to stderr and traces over OTLP.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::ObserveError;

/// The part of a component's configuration that says how it is observed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// A filter such as `info` or `info,signet_proxy=debug`.
    pub log: String,
    pub log_format: LogFormat,
    /// `http://host:port` of an OTLP/gRPC collector. Without it `OTEL_EXPORTER_OTLP_ENDPOINT` counts; without both no
    /// traces are sent.
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".to_owned(), log_format: LogFormat::Json, otlp_endpoint: None }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}

/// Sends what is left of the traces when it is dropped. Keep it until the end of `main`.
#[must_use = "dropping the guard ends the export of traces"]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // The exporter needs a runtime that still runs; a collector that is away must not hold up the end.
            let _ = provider.shutdown_with_timeout(std::time::Duration::from_secs(2));
        }
    }
}

/// Installs the process's log subscriber and, when an endpoint is known, the export of traces.
///
/// # Errors
/// A bad filter or endpoint, or a second call.
pub fn init(component: &str, config: &TelemetryConfig) -> Result<TelemetryGuard, ObserveError> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|source| ObserveError::Filter { filter: config.log.clone(), source })?;
    let logs = match config.log_format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            .boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none())
            .with_writer(std::io::stderr)
            .boxed(),
    };
    let endpoint = config
        .otlp_endpoint
        .clone()
        .or_else(|| std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok())
        .filter(|endpoint| !endpoint.is_empty());
    let provider = endpoint.as_deref().map(|endpoint| tracer_provider(component, endpoint)).transpose()?;
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("signet"))
            // Only our spans: a dependency's own spans would drown them.
            .with_filter(tracing_subscriber::filter::filter_fn(|meta| meta.target().starts_with("signet")))
    });
    tracing_subscriber::registry()
        .with(traces)
        .with(logs.with_filter(filter))
        .try_init()
        .map_err(|_| ObserveError::AlreadyInstalled)?;
    crate::trace::set_exporting(provider.is_some());
    Ok(TelemetryGuard { provider })
}

fn tracer_provider(component: &str, endpoint: &str) -> Result<SdkTracerProvider, ObserveError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(ObserveError::NoRuntime);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| ObserveError::Otlp { endpoint: endpoint.to_owned(), source })?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name(format!("signet-{component}")).build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(resource)
        .build())
}
