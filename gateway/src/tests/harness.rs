//! A gateway of east, sidecars of west, an endpoint that echoes, and an audit service that acknowledges.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use signet_api::audit::ingest_server::{Ingest, IngestServer};
use signet_api::audit::{Ack, Batch, PutBundleRequest, PutBundleResponse};
use signet_api::control as wire;
use signet_mtls::testing::{self, Ca, id};
use signet_mtls::{Accepted, IdentitySource, PeerRule, Select, alpn};
use signet_policy::BundleSource;
use signet_proxy::decide::{Enforcer, Recorder};
use signet_proxy::metrics::Metrics;
use signet_proxy::refusal::Refusals;
use signet_proxy::snapshot::Snapshot;
use signet_spool::{Durability, OnFull, Record, RefusalAggregator, Spool, SpoolConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Response, Status, Streaming};

use crate::balancer::Balancer;
use crate::forward::Shared;
use crate::metrics::GatewayMetrics;
use crate::server;

pub(super) const WAIT: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_millis(300);
pub(super) const FRAUD: &str = "spiffe://west.bank.example/ns/bank/sa/fraud";
pub(super) const LEDGER: &str = "spiffe://east.bank.example/ns/bank/sa/ledger";
const GATEWAY: &str = "spiffe://east.bank.example/signet/gateway";
const AUDIT: &str = "spiffe://east.bank.example/signet/audit";
pub(super) const LEDGER_SERVICE: &str = "east.bank.example/bank/ledger";
pub(super) const LEDGER_AUTHORITY: &str = "ledger.bank.svc.clusterset.local:80";
pub(super) const FORWARD_ALL: &str =
    r#"@id("forward") permit(principal, action == Mesh::Action::"gateway:forward", resource);"#;

pub(super) struct Gateway {
    pub(super) east: Ca,
    pub(super) west: Ca,
    pub(super) address: SocketAddr,
    pub(super) endpoint: SocketAddr,
    pub(super) metrics: Arc<Metrics>,
    pub(super) cancel: CancellationToken,
    identity: IdentitySource,
    shared: Arc<Shared>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    wire: Mutex<wire::Snapshot>,
    records: Arc<Mutex<Vec<Record>>>,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    ending: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Gateway {
    pub(super) async fn start(policy: &str) -> Self {
        Self::start_with(policy, Duration::from_secs(60)).await
    }

    pub(super) async fn start_with(policy: &str, idle: Duration) -> Self {
        let (east, west) = (Ca::new("east.bank.example"), Ca::new("west.bank.example"));
        let identity = testing::source(&[&east, &west], &[id(GATEWAY)]);
        let (cancel, ending, mut tasks) = (CancellationToken::new(), CancellationToken::new(), JoinSet::new());
        let dir = tempfile::tempdir().unwrap();

        let (connections, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let endpoint_tls =
            signet_mtls::server_config(&testing::source(&[&east, &west], &[id(LEDGER)]), Select::Only, &[alpn::TCP]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        tasks.spawn(serve_echo(listener, endpoint_tls, Arc::clone(&connections), Arc::clone(&bytes), ending.clone()));

        let records = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let audit = listener.local_addr().unwrap().to_string();
        let tls = signet_mtls::server_config(&testing::source(&[&east], &[id(AUDIT)]), Select::Only, &[alpn::GRPC]);
        let routes = tonic::service::Routes::new(IngestServer::new(Keeper(Arc::clone(&records))));
        let token = ending.clone();
        tasks.spawn(async move {
            let _ = signet_mtls::grpc::serve(listener, tls, routes, token).await;
        });

        let config = SpoolConfig {
            dir: dir.path().join("spool"),
            durability: Durability::Memory,
            on_full: OnFull::Deny,
            max_bytes: 4 << 20,
        };
        let spool = Spool::open(config, GATEWAY).unwrap();
        let rule = PeerRule::AnyOf(vec![id(AUDIT)]);
        let to_audit = signet_mtls::client_config(&identity, Select::Component, rule, &[alpn::GRPC]);
        tasks.spawn(signet_spool::ship(spool.clone(), audit, to_audit, ending.clone()));

        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let refusals =
            Refusals::new(Arc::clone(&metrics), Some(Arc::new(RefusalAggregator::new(spool.clone(), GATEWAY))));
        tasks.spawn(refusals.clone().run(ending.clone()));
        let recorder = Recorder { spool, producer: Arc::from(GATEWAY) };
        let enforcer = Enforcer::new(Some(recorder), identity.current(), Arc::clone(&metrics));
        let wire = snapshot(1, policy, &[endpoint]);
        let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::from_wire(&wire, None).unwrap()));
        let shared = Arc::new(Shared {
            enforcer: Arc::clone(&enforcer),
            snapshot: ArcSwap::from_pointee(Snapshot::empty("east.bank.example".parse().unwrap())),
            identity: identity.clone(),
            refusals,
            metrics: Arc::clone(&metrics),
            own: GatewayMetrics::register(&mut registry),
            balancer: Balancer::default(),
            idle,
            tunnels: TaskTracker::new(),
            kill: CancellationToken::new(),
        });
        let applied = Arc::clone(&shared);
        tasks.spawn(enforcer.follow(receiver, identity.watch(), move |s| applied.apply(s), ending.clone()));
        let ready = Arc::clone(&shared);
        eventually("the first snapshot is applied", || ready.snapshot.load().version == 1).await;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = server::tls(&identity, &"east.bank.example".parse().unwrap());
        let served = tokio::spawn(server::serve(listener, tls, Arc::clone(&shared), DRAIN, cancel.clone()));
        Self {
            east,
            west,
            address,
            endpoint,
            metrics,
            cancel,
            identity,
            shared,
            snapshots,
            records,
            connections,
            bytes,
            ending,
            served,
            tasks,
            wire: Mutex::new(wire),
            _dir: dir,
        }
    }

    pub(super) async fn stop(mut self) {
        self.cancel.cancel();
        tokio::time::timeout(WAIT, &mut self.served).await.expect("the gateway did not end within 5 s").unwrap();
        self.ending.cancel();
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(WAIT, rest).await.expect("the tasks did not end within 5 s");
    }

    async fn publish(&self, change: impl FnOnce(&mut wire::Snapshot)) {
        let version = {
            let mut wire = self.wire.lock().unwrap();
            wire.version += 1;
            change(&mut wire);
            let next = Snapshot::from_wire(&wire, None).unwrap();
            self.snapshots.send_replace(Arc::new(next));
            wire.version
        };
        eventually("the snapshot is applied", || self.shared.snapshot.load().version == version).await;
    }

    /// A new policy, with the export of ledger or without.
    pub(super) async fn policy(&self, text: &str, exported: bool) {
        self.publish(|wire| {
            wire.policy = Some(bundle(text));
            if !exported {
                wire.exported.clear();
            }
        })
        .await;
    }

    pub(super) async fn no_policy(&self) {
        self.publish(|wire| wire.policy = None).await;
    }

    pub(super) async fn endpoints(&self, addresses: &[SocketAddr]) {
        self.publish(|wire| {
            wire.exported[0].endpoints = addresses.iter().map(|a| wire::Endpoint { address: a.to_string() }).collect();
        })
        .await;
    }

    /// West's bundle is withdrawn.
    pub(super) fn unlink(&self) {
        self.identity.replace(testing::material(&[&self.east], &[id(GATEWAY)]));
    }

    pub(super) async fn sidecar(&self, name: &str) -> Sidecar {
        let source = testing::source(&[&self.west, &self.east], &[id(name)]);
        let tls =
            signet_mtls::client_config(&source, Select::Workload, PeerRule::AnyOf(vec![id(GATEWAY)]), &[alpn::H2]);
        let stream = TcpStream::connect(self.address).await.unwrap();
        let accepted = signet_mtls::connect(tls, stream, WAIT).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(accepted.stream)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Sidecar { sender, _driver: driver }
    }

    /// Whether a handshake with this protocol succeeds.
    pub(super) async fn offers(&self, protocol: &[u8]) -> bool {
        let source = testing::source(&[&self.west, &self.east], &[id(FRAUD)]);
        let tls = signet_mtls::client_config(&source, Select::Workload, PeerRule::AnyKnown, &[protocol]);
        let stream = TcpStream::connect(self.address).await.unwrap();
        signet_mtls::connect(tls, stream, WAIT).await.is_ok()
    }

    /// The inner mTLS of two sidecars through a tunnel.
    pub(super) async fn inner_mtls(
        &self,
        tunnel: TokioIo<Upgraded>,
    ) -> Accepted<tokio_rustls::client::TlsStream<TokioIo<Upgraded>>> {
        self.try_inner_mtls(tunnel, alpn::TCP).await.unwrap()
    }

    pub(super) async fn try_inner_mtls(
        &self,
        tunnel: TokioIo<Upgraded>,
        protocol: &[u8],
    ) -> Result<Accepted<tokio_rustls::client::TlsStream<TokioIo<Upgraded>>>, signet_mtls::HandshakeError> {
        let source = testing::source(&[&self.west, &self.east], &[id(FRAUD)]);
        let rule = PeerRule::AnyOf(vec![id(LEDGER)]);
        let tls = signet_mtls::client_config(&source, Select::Workload, rule, &[protocol]);
        signet_mtls::connect(tls, tunnel, WAIT).await
    }

    /// There are so many records of this kind, and no more.
    pub(super) async fn recorded(&self, wanted: impl Fn(&Record) -> bool, count: usize) {
        eventually("all records reach the audit service", || {
            self.records.lock().unwrap().iter().filter(|record| wanted(record)).count() >= count
        })
        .await;
        assert_eq!(self.records.lock().unwrap().iter().filter(|record| wanted(record)).count(), count);
    }

    /// The first record that the audit service got and that `wanted` wants.
    pub(super) async fn record(&self, wanted: impl Fn(&Record) -> bool) -> Record {
        let mut found = None;
        eventually("a record reaches the audit service", || {
            found = self.records.lock().unwrap().iter().find(|record| wanted(record)).cloned();
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(super) fn endpoint_connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn endpoint_bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }
}

pub(super) struct Sidecar {
    sender: SendRequest<Empty<Bytes>>,
    _driver: JoinSet<()>,
}

pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) decision: Option<String>,
}

impl Sidecar {
    pub(super) async fn connect(&mut self, authority: &str) -> (Head, Option<TokioIo<Upgraded>>) {
        let (head, response) = self.request(Method::CONNECT, authority).await;
        if head.status != StatusCode::OK {
            return (head, None);
        }
        let upgraded = tokio::time::timeout(WAIT, hyper::upgrade::on(response)).await.expect("no upgrade in 5 s");
        (head, Some(TokioIo::new(upgraded.unwrap())))
    }

    pub(super) async fn send(&mut self, method: Method, uri: &str) -> Head {
        self.request(method, uri).await.0
    }

    async fn request(&mut self, method: Method, uri: &str) -> (Head, http::Response<hyper::body::Incoming>) {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .body(Empty::new())
            .unwrap();
        let sent = tokio::time::timeout(WAIT, self.sender.send_request(request)).await;
        let response = sent.expect("no answer in 5 s").unwrap();
        let decision = response.headers().get("x-signet-decision").map(|id| id.to_str().unwrap().to_owned());
        (Head { status: response.status(), decision }, response)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

fn bundle(policy: &str) -> wire::PolicyBundle {
    let files = [("signet.yaml", "version: 1\n"), ("policies/a.cedar", policy)];
    let source = BundleSource {
        commit: "a".repeat(40),
        signer: "alice@bank.example".to_owned(),
        files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect(),
    };
    wire::PolicyBundle {
        commit: source.commit.clone(),
        digest: source.digest(),
        signer: source.signer.clone(),
        files: source.files.into_iter().map(|(path, content)| wire::File { path, content }).collect(),
        ..wire::PolicyBundle::default()
    }
}

fn snapshot(version: u64, policy: &str, endpoints: &[SocketAddr]) -> wire::Snapshot {
    wire::Snapshot {
        version,
        trust_domain: "east.bank.example".to_owned(),
        policy: Some(bundle(policy)),
        exported: vec![wire::Exported {
            service: LEDGER_SERVICE.to_owned(),
            authority: LEDGER_AUTHORITY.to_owned(),
            port: 80,
            spiffe_ids: vec![LEDGER.to_owned()],
            endpoints: endpoints.iter().map(|a| wire::Endpoint { address: a.to_string() }).collect(),
        }],
        ..Default::default()
    }
}

/// A sidecar's inbound that echoes, counting connections and the bytes that came before and inside TLS.
async fn serve_echo(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    ending: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = ending.cancelled() => return,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        connections.fetch_add(1, Ordering::SeqCst);
        let (tls, bytes) = (Arc::clone(&tls), Arc::clone(&bytes));
        tasks.spawn(async move {
            let mut first = [0; 1];
            if matches!(stream.peek(&mut first).await, Ok(n) if n > 0) {
                bytes.fetch_add(1, Ordering::SeqCst);
            }
            if let Ok(accepted) = signet_mtls::accept(tls, stream, WAIT).await {
                let (mut read, mut write) = tokio::io::split(accepted.stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            }
        });
    }
}

/// An audit service that keeps records and acknowledges them.
struct Keeper(Arc<Mutex<Vec<Record>>>);

#[tonic::async_trait]
impl Ingest for Keeper {
    type StreamStream = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Ack, Status>> + Send>>;

    async fn stream(&self, request: tonic::Request<Streaming<Batch>>) -> Result<Response<Self::StreamStream>, Status> {
        let records = Arc::clone(&self.0);
        let acks = futures::stream::unfold(request.into_inner(), move |mut batches| {
            let records = Arc::clone(&records);
            async move {
                let batch = batches.message().await.ok()??;
                let committed = (batch.first_sequence + batch.entries.len() as u64).saturating_sub(1);
                for entry in &batch.entries {
                    let openings: Vec<_> = entry.openings.iter().map(opening).collect();
                    records.lock().unwrap().push(Record::decode(&entry.canonical, &openings).unwrap());
                }
                let ack = Ack { epoch: batch.epoch, committed, closed: batch.closing, ..Default::default() };
                Some((Ok(ack), batches))
            }
        });
        Ok(Response::new(Box::pin(acks)))
    }

    async fn put_bundle(&self, _: tonic::Request<PutBundleRequest>) -> Result<Response<PutBundleResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

fn opening(wire: &signet_api::audit::Opening) -> signet_spool::Opening {
    signet_spool::Opening {
        field: wire.field,
        salt: wire.salt.as_slice().try_into().unwrap(),
        value: wire.value.clone(),
    }
}

/// Sends and gets the same back.
pub(super) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    let mut back = vec![0; bytes.len()];
    let (mut read, mut write) = tokio::io::split(stream);
    let both = async {
        let (sent, got) = tokio::join!(
            async {
                write.write_all(bytes).await?;
                write.flush().await
            },
            read.read_exact(&mut back)
        );
        sent.and(got.map(|_| ()))
    };
    tokio::time::timeout(WAIT, both).await.expect("no echo within 5 s").unwrap();
    assert_eq!(back, bytes);
}

/// The next bytes of a stream; `None` at its end, however it ends.
pub(super) async fn says<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    match tokio::time::timeout(WAIT, stream.read(&mut buffer)).await.expect("neither bytes nor an end within 5 s") {
        Ok(0) | Err(_) => None,
        Ok(n) => Some(buffer[..n].to_vec()),
    }
}

pub(super) async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Polls until `condition` holds.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT, poll).await.is_ok(), "waited 5 s until {what}");
}
