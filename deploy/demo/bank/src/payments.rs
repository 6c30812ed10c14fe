//! The payments service: `Pay` books an entry on the ledger, `Refund` takes one back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::outbound::{self, Way};
use crate::proto::payments_server::{Payments, PaymentsServer};
use crate::proto::{PayRequest, PayResponse, RefundRequest, RefundResponse};

/// Headers that carry the caller's trace on to the ledger.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

pub(crate) async fn run(listen: SocketAddr, way: Way) -> anyhow::Result<()> {
    let listener = crate::serve::bind(listen).await?;
    let service = PaymentsServer::new(Bookings { way, next: AtomicU64::new(1) });
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), crate::serve::stopped())
        .await
        .context("the gRPC server ended")
}

struct Bookings {
    way: Way,
    next: AtomicU64,
}

impl Bookings {
    async fn book(&self, account: &str, amount: i64, caller: &tonic::metadata::MetadataMap) -> Result<u16, Status> {
        if account.is_empty() || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Status::invalid_argument(format!("account `{account}` is not a number")));
        }
        let uri: Uri = format!("http://ledger.bank.svc.cluster.local/accounts/{account}/entries")
            .parse()
            .map_err(|error| Status::internal(format!("ledger's address: {error}")))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for name in TRACE_HEADERS {
            let Some(value) = caller.get(name) else { continue };
            if let Ok(value) = HeaderValue::from_bytes(value.as_encoded_bytes()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let body = Bytes::from(json!({ "amount": amount }).to_string());
        let answer = outbound::call(self.way, Method::POST, uri, headers, body)
            .await
            .map_err(|error| Status::unavailable(format!("{error:#}")))?;
        Ok(answer.status.as_u16())
    }
}

#[tonic::async_trait]
impl Payments for Bookings {
    async fn pay(&self, request: Request<PayRequest>) -> Result<Response<PayResponse>, Status> {
        let (metadata, _, pay) = request.into_parts();
        let ledger_status = self.book(&pay.account, pay.amount, &metadata).await?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(PayResponse { payment_id: format!("p-{id}"), ledger_status: u32::from(ledger_status) }))
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        let (metadata, _, refund) = request.into_parts();
        if !refund.payment_id.starts_with("p-") {
            return Err(Status::invalid_argument(format!("`{}` is not a payment", refund.payment_id)));
        }
        let status = self.book("1", -1, &metadata).await?;
        Ok(Response::new(RefundResponse { refunded: status == 201 }))
    }
}
