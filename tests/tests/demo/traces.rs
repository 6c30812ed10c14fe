//! OpenTelemetry: what a collector gets of one call across clusters.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use http::Method;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::Signal;
use signet_tests::demo::{Demo, signal};
use signet_tests::{calls, wait};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::OwnTest;

pub(crate) const TESTS: &[(&str, OwnTest)] = &[("a_call_across_clusters_is_one_trace_in_a_collector", one_trace)];

/// A collector that keeps every span with the name of the service that sent it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
            let service = attributes
                .filter(|attribute| attribute.key == "service.name")
                .find_map(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
                    Value::StringValue(name) => Some(name.clone()),
                    _ => None,
                })
                .unwrap_or_default();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn of_trace(&self, trace: &[u8]) -> Vec<(String, Span)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|(_, span)| span.trace_id == trace).cloned().collect()
    }
}

fn one_trace() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let collector = Collector::default();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    runtime.spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "200")];
    let demo = Demo::start_with(&["--rate", "0"], &environment)?;
    runtime.block_on(cross_cluster(&demo, &collector))
}

async fn cross_cluster(demo: &Demo, collector: &Collector) -> anyhow::Result<()> {
    let web = demo.workload("east/bank/web")?;
    let uri = "http://fraud.bank.svc.clusterset.local/score?account=1";
    // A tunnel belongs to the call that opened it and later calls share it: this call must be the one that opens it.
    let gateway = demo.endpoints_now()?.pids.get("west/gateway").copied().context("no pid of the gateway")?;
    signal(gateway, Signal::KILL)?;
    let mut tried = Vec::new();
    let spans =
        wait::until("one trace with the spans of both sidecars and the gateway", Duration::from_secs(40), || {
            let id = *uuid::Uuid::new_v4().as_bytes();
            tried.push(id);
            let first = tried.len() == 1;
            async move {
                let trace = id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let header = format!("00-{trace}-00f067aa0ba902b7-01");
                let answer = calls::through(&web.outbound, Method::GET, uri, &[("traceparent", &header)], "").await?;
                if answer.status != 200 {
                    return Ok(None); // The gateway is not back yet.
                }
                let all = ["outbound", "gateway:forward", "inbound"];
                let there =
                    |spans: &[(String, Span)]| all.iter().all(|name| spans.iter().any(|(_, span)| span.name == *name));
                let arrived = wait::until("spans", Duration::from_secs(6), || async {
                    let spans = collector.of_trace(&id);
                    Ok(there(&spans).then_some(spans))
                });
                match arrived.await {
                    Ok(spans) => Ok(Some(spans)),
                    Err(_) if first => Ok(None),
                    Err(error) => Err(error.context(format!(
                        "of that call came: {:?}",
                        collector
                            .of_trace(&id)
                            .iter()
                            .map(|(service, span)| format!("{service} {}", span.name))
                            .collect::<Vec<_>>()
                    ))),
                }
            }
        })
        .await?;
    let services: BTreeSet<&str> = spans.iter().map(|(service, _)| service.as_str()).collect();
    assert!(services.contains("signet-proxy") && services.contains("signet-gateway"), "{services:?}");
    let span =
        |name: &str| spans.iter().find(|(_, span)| span.name == name).map(|(_, span)| span).context(name.to_owned());
    let (outbound, gateway, inbound) = (span("outbound")?, span("gateway:forward")?, span("inbound")?);
    assert_eq!(outbound.parent_span_id, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7], "under the app's span");
    assert_eq!(inbound.parent_span_id, outbound.span_id, "inbound is below outbound");
    assert!(!gateway.parent_span_id.is_empty(), "the gateway's span has a parent");
    for (name, span) in [("outbound", outbound), ("gateway", gateway), ("inbound", inbound)] {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{name} ends");
    }
    Ok(())
}
