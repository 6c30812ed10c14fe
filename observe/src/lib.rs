//! What every component needs to be seen and stopped: logs, traces, the admin listener, configuration files, signals.
//!
//! Nothing here knows the mesh. Logs go to stderr, traces go over OTLP when an endpoint is configured, metrics are read
//! from `/metrics` of the admin listener, which binds loopback only and never changes anything.

mod admin;
mod config;
mod signal;
mod telemetry;
pub mod trace;

pub use admin::{Admin, BoundAdmin, Condition, Readiness};
pub use config::{ConfigError, load_config};
pub use signal::shutdown_signal;
pub use telemetry::{LogFormat, TelemetryConfig, TelemetryGuard, init};

/// Why logs, traces or the admin listener could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("the log filter `{filter}` is not valid; use for example `info` or `info,signet_proxy=debug`")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("a log subscriber is installed already; `init` is called once per process")]
    AlreadyInstalled,
    #[error("the OTLP exporter for `{endpoint}` could not be made; give a URL like `http://127.0.0.1:4317`")]
    Otlp {
        endpoint: String,
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    #[error("traces over OTLP need the async runtime; call `init` inside it")]
    NoRuntime,
    #[error("the admin listener may only bind loopback, not `{0}`; use for example `127.0.0.1:0`")]
    AdminNotLoopback(std::net::SocketAddr),
    #[error("the admin listener could not bind `{address}`; is the port taken?")]
    AdminBind {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// The error and all its sources, joined by `: `.
///
/// Our `Display` texts never repeat their source, so this is how a chain is printed everywhere.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        // Some dependencies do repeat their source.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn error_chain_names_each_source_once() {
        let inner = std::io::Error::other("disk on fire");
        let outer = crate::ObserveError::AdminBind { address: ([127, 0, 0, 1], 1).into(), source: inner };
        assert_eq!(
            super::error_chain(&outer),
            "the admin listener could not bind `127.0.0.1:1`; is the port taken?: disk on fire"
        );
    }
}
