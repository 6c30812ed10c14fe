//! One call of the table, as the workload that makes it would.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::table::{Call, Row};
use crate::outbound::{self, Way};
use crate::proto::payments_client::PaymentsClient;
use crate::proto::{PayRequest, RefundRequest};

const PAYMENTS: &str = "http://payments.bank.svc.cluster.local:50051";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// PostgreSQL's SSLRequest: its length, then the request's number (PostgreSQL protocol, message formats).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const DECISION: &str = "x-signet-decision";

/// What a call came to; `decision` says whether the answer named one.
#[derive(Debug)]
pub(crate) enum Outcome {
    Status { status: u16, decision: bool },
    Grpc { code: tonic::Code, decision: bool },
    Tcp { answered: bool },
    Failed(String),
}

/// The workloads' ways to other services and their gRPC channels.
pub(crate) struct Callers {
    ways: HashMap<String, Way>,
    channels: HashMap<String, Channel>,
}

impl Callers {
    pub(crate) fn new(ways: HashMap<String, Way>) -> Self {
        let mut channels = HashMap::new();
        for (name, way) in &ways {
            let way = *way;
            let connector = tower::service_fn(move |uri: Uri| async move {
                let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
                Ok::<_, std::io::Error>(TokioIo::new(way.stream(&authority).await?))
            });
            let channel = Endpoint::from_static(PAYMENTS).timeout(CALL_TIMEOUT).connect_with_connector_lazy(connector);
            channels.insert(name.clone(), channel);
        }
        Self { ways, channels }
    }

    pub(crate) async fn call(&self, row: &Row, trace_id: &str) -> Outcome {
        let traceparent = format!("00-{trace_id}-{:016x}-01", fastrand::u64(1..));
        let called = tokio::time::timeout(CALL_TIMEOUT, self.call_untimed(row, &traceparent)).await;
        match called {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
            Err(_) => Outcome::Failed(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
        }
    }

    async fn call_untimed(&self, row: &Row, traceparent: &str) -> anyhow::Result<Outcome> {
        let way = *self.ways.get(row.source).with_context(|| format!("no way was given for `{}`", row.source))?;
        match row.call {
            Call::Get { uri } => http(way, Method::GET, uri, "", traceparent).await,
            Call::Post { uri, body } => http(way, Method::POST, uri, body, traceparent).await,
            Call::Pay | Call::Refund => self.grpc(row, traceparent).await,
            Call::Tcp { authority } => Ok(tcp(way, authority, traceparent).await),
        }
    }

    async fn grpc(&self, row: &Row, traceparent: &str) -> anyhow::Result<Outcome> {
        let channel = self.channels.get(row.source).context("no channel to the sidecar")?.clone();
        let mut client = PaymentsClient::new(channel);
        let trace = MetadataValue::try_from(traceparent)?;
        let status = if matches!(row.call, Call::Pay) {
            let mut request = tonic::Request::new(PayRequest { account: "1".into(), amount: 1 });
            request.metadata_mut().insert("traceparent", trace);
            match client.pay(request).await {
                Ok(answer) if answer.get_ref().ledger_status == 201 => return Ok(ok()),
                Ok(answer) => anyhow::bail!("paid, but the ledger answered {}", answer.get_ref().ledger_status),
                Err(status) => status,
            }
        } else {
            let mut request = tonic::Request::new(RefundRequest { payment_id: "p-1".into() });
            request.metadata_mut().insert("traceparent", trace);
            match client.refund(request).await {
                Ok(_) => return Ok(ok()),
                Err(status) => status,
            }
        };
        Ok(Outcome::Grpc { code: status.code(), decision: status.metadata().contains_key(DECISION) })
    }
}

fn ok() -> Outcome {
    Outcome::Grpc { code: tonic::Code::Ok, decision: false }
}

async fn http(
    way: Way,
    method: Method,
    uri: &'static str,
    body: &'static str,
    traceparent: &str,
) -> anyhow::Result<Outcome> {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_str(traceparent)?);
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let answer =
        outbound::call(way, method, Uri::from_static(uri), headers, Bytes::from_static(body.as_bytes())).await?;
    Ok(Outcome::Status { status: answer.status.as_u16(), decision: answer.headers.contains_key(DECISION) })
}

/// A connection that is refused, closed or reset before the server's first byte did not answer.
async fn tcp(way: Way, authority: &str, traceparent: &str) -> Outcome {
    let Ok(mut stream) = outbound::connect(way, authority, Some(traceparent)).await else {
        return Outcome::Tcp { answered: false };
    };
    if stream.write_all(&SSL_REQUEST).await.is_err() {
        return Outcome::Tcp { answered: false };
    }
    Outcome::Tcp { answered: matches!(stream.read_u8().await, Ok(b'N' | b'S')) }
}
