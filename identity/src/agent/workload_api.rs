//! The SPIFFE Workload API, X.509 part (SPIFFE_Workload_API, sections 4 and 5).
//!
//! The header `workload.spiffe.io: true` is required; a caller that no entry matches gets `PERMISSION_DENIED`, one that
//! comes before the server was heard `UNAVAILABLE`. The first message comes at once, each message is the full state, and
//! a stream ends when its caller's identity is withdrawn.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream::BoxStream};
use prometheus_client::metrics::gauge::Gauge;
use signet_api::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::SpiffeWorkloadApi,
};
use signet_mtls::TrustDomain;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    attestor::Workload,
    metrics::Metrics,
    state::{HeldSvid, Served, State},
};
use crate::{bundle::TrustBundle, clock};

/// A caller with several entries of which some are being signed gets them together, if they come within this time.
const TOGETHER: Duration = Duration::from_secs(2);

/// The service on one socket.
#[derive(Clone)]
pub(crate) struct WorkloadApi {
    pub state: watch::Receiver<Arc<State>>,
    pub metrics: Metrics,
    pub stopping: CancellationToken,
}

/// What a caller may have at one moment.
enum View {
    /// The server was not heard yet.
    Starting,
    /// No entry matches.
    Denied,
    /// Entries match; SVIDs of some are missing.
    Ready { matched: Vec<Served>, bundles: Arc<State> },
}

fn security_header<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("workload.spiffe.io").map(|value| value.as_bytes()) {
        Some(b"true") => Ok(()),
        _ => Err(Status::invalid_argument("the header `workload.spiffe.io: true` is missing")),
    }
}

fn caller<T>(request: &Request<T>) -> Result<Arc<Workload>, Status> {
    request.extensions().get::<Arc<Workload>>().cloned().ok_or_else(|| Status::internal("no peer credentials"))
}

async fn view(state: Arc<State>, workload: &Workload) -> View {
    if !state.synced {
        return View::Starting;
    }
    let now = clock::now();
    let mut matched = Vec::new();
    for served in &state.served {
        if workload.matches(&served.entry).await {
            let svid = served.svid.clone().filter(|svid| svid.not_after > now);
            matched.push(Served { entry: served.entry.clone(), svid });
        }
    }
    if matched.is_empty() { View::Denied } else { View::Ready { matched, bundles: state } }
}

fn concatenated(bundle: &TrustBundle) -> Vec<u8> {
    bundle.authorities.iter().flat_map(|authority| authority.iter().copied()).collect()
}

/// Bundles by trust domain SPIFFE ID. One without authorities is left out: absence is how distrust is told.
fn bundle_map(state: &State, wanted: impl Fn(&TrustDomain) -> bool) -> HashMap<String, Vec<u8>> {
    let bundles = state.bundles.iter().filter(|(domain, bundle)| wanted(domain) && !bundle.authorities.is_empty());
    bundles.map(|(domain, bundle)| (format!("spiffe://{domain}"), concatenated(bundle))).collect()
}

fn svid_response(matched: &[Served], state: &State) -> Option<X509svidResponse> {
    let own = state.bundles.get(&state.trust_domain).map(concatenated).unwrap_or_default();
    let message = |served: &Served, svid: &HeldSvid| X509svid {
        spiffe_id: served.entry.spiffe_id.to_string(),
        x509_svid: svid.chain.clone(),
        x509_svid_key: svid.key.clone(),
        bundle: own.clone(),
        hint: served.entry.hint.clone(),
    };
    let svids: Vec<X509svid> =
        matched.iter().filter_map(|served| served.svid.as_ref().map(|svid| message(served, svid))).collect();
    let federated_bundles = bundle_map(state, |domain| *domain != state.trust_domain);
    (!svids.is_empty()).then(|| X509svidResponse { svids, crl: Vec::new(), federated_bundles })
}

fn bundles_response(state: &State) -> X509BundlesResponse {
    X509BundlesResponse { crl: Vec::new(), bundles: bundle_map(state, |_| true) }
}

struct StreamState<T> {
    api: WorkloadApi,
    workload: Arc<Workload>,
    last: Option<T>,
    deadline: Instant,
    ended: bool,
    _open: OpenStream,
}

struct OpenStream(Gauge);

impl OpenStream {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl WorkloadApi {
    /// Messages for `workload` whenever `message` of what it may have differs from the one before. `None` of `message`
    /// means that nothing can be sent yet.
    fn messages<T: Clone + PartialEq + Send + 'static>(
        &self,
        workload: Arc<Workload>,
        message: fn(&[Served], &State) -> Option<T>,
        wait_for_all: bool,
    ) -> impl Stream<Item = Result<T, Status>> + Send + use<T> {
        let start = StreamState {
            _open: OpenStream::new(&self.metrics.streams),
            api: self.clone(),
            workload,
            last: None::<T>,
            deadline: Instant::now() + TOGETHER,
            ended: false,
        };
        futures::stream::unfold(start, move |mut stream| async move {
            if stream.ended {
                return None;
            }
            loop {
                let state = Arc::clone(&stream.api.state.borrow_and_update());
                let (matched, state) = match view(state, &stream.workload).await {
                    View::Starting => return stream.end(Status::unavailable("the agent is starting up; try again")),
                    View::Denied => {
                        stream.api.metrics.denied.inc();
                        let why = "no registration entry matches this caller";
                        return stream.end(Status::permission_denied(why));
                    }
                    View::Ready { matched, bundles } => (matched, bundles),
                };
                let complete = !wait_for_all || matched.iter().all(|served| served.svid.is_some());
                let overdue = Instant::now() >= stream.deadline;
                if complete || overdue {
                    let next = message(&matched, &state);
                    if next.is_none() && overdue {
                        let why = "no SVID could be signed; the identity server is away";
                        return stream.end(Status::unavailable(why));
                    }
                    if next.is_some() && next != stream.last {
                        stream.last.clone_from(&next);
                        return next.map(|next| (Ok(next), stream));
                    }
                }
                if complete {
                    // From here on a missing one gets its time again.
                    stream.deadline = Instant::now() + TOGETHER;
                }
                let stopping = stream.api.stopping.clone();
                let deadline = stream.deadline;
                tokio::select! {
                    () = stopping.cancelled() => return stream.end(Status::unavailable("the agent is stopping")),
                    changed = stream.api.state.changed() => if changed.is_err() { return None },
                    () = tokio::time::sleep_until(deadline), if !complete && !overdue => {}
                }
                if complete {
                    stream.deadline = Instant::now() + TOGETHER;
                }
            }
        })
    }
}

impl<T> StreamState<T> {
    #[expect(clippy::unnecessary_wraps, reason = "what unfold takes")]
    fn end<M>(mut self, status: Status) -> Option<(Result<M, Status>, Self)> {
        self.ended = true;
        Some((Err(status), self))
    }
}

/// A caller without identity hears so at once, as the status of the call rather than of its stream.
async fn opened<T: Send + 'static>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Result<Response<BoxStream<'static, Result<T, Status>>>, Status> {
    let mut messages = Box::pin(messages);
    match messages.next().await {
        Some(Ok(first)) => Ok(Response::new(futures::stream::once(async { Ok(first) }).chain(messages).boxed())),
        Some(Err(status)) => Err(status),
        None => Err(Status::unavailable("the agent is stopping")),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        security_header(&request)?;
        let workload = caller(&request)?;
        opened(self.messages(workload, svid_response, true)).await
    }

    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        security_header(&request)?;
        let workload = caller(&request)?;
        opened(self.messages(workload, |_, state| Some(bundles_response(state)), false)).await
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        security_header(&request)?;
        Err(Status::unimplemented("JWT-SVIDs are not served"))
    }

    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        security_header(&request)?;
        Err(Status::unimplemented("JWT bundles are not served"))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        security_header(&request)?;
        Err(Status::unimplemented("JWT-SVIDs are not validated"))
    }
}
