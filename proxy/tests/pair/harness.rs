//! Two sidecars of one trust domain in this process, real sockets between them, and what they recorded.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use signet_api::audit as wire;
use signet_api::audit::ingest_server::{Ingest, IngestServer};
use signet_mtls::testing::{self, Ca};
use signet_mtls::{IdentitySource, PeerRule, Select, SpiffeId, client_config};
use signet_policy::{Bundle, BundleSource};
use signet_proxy::decide::{Enforcer, Recorder};
use signet_proxy::inbound::Inbound;
use signet_proxy::metrics::Metrics;
use signet_proxy::outbound::Outbound;
use signet_proxy::refusal::Refusals;
use signet_proxy::serve::Stop;
use signet_proxy::snapshot::{InboundService, OutboundService, Protocol, Snapshot};
use signet_spool::{Durability, OnFull, Opening, Record, RefusalAggregator, Spool, SpoolConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;

pub const TD: &str = "east.bank.example";
pub const WEB: &str = "spiffe://east.bank.example/ns/bank/sa/web";
pub const LEDGER: &str = "spiffe://east.bank.example/ns/bank/sa/ledger";
pub const SERVICE: &str = "east.bank.example/bank/ledger";
pub const HOST: &str = "ledger.bank.svc.cluster.local";

/// Permits what `web` may do to `ledger`: read by HTTP, `Pay` by gRPC, connect by TCP.
pub const POLICY: &str = r#"
@id("web-reads")
permit(principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web", action in [Mesh::Action::"read"], resource);
@id("web-pays")
permit(principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web", action == Mesh::Action::"grpc:call", resource)
when { context.method == "Pay" };
@id("web-connects")
permit(principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web", action == Mesh::Action::"tcp:connect", resource);
"#;

pub const NOTHING: &str = r#"
@id("nobody")
forbid(principal, action, resource);
"#;

pub fn bundle(text: &str, commit: char) -> Arc<Bundle> {
    bundle_with(text, commit, "version: 1\n", &[])
}

/// With `settings` as `signet.yaml`, and other files.
pub fn bundle_with(text: &str, commit: char, settings: &str, more: &[(&str, String)]) -> Arc<Bundle> {
    let more = more.iter().map(|(path, text)| ((*path).to_owned(), text.clone()));
    let files = [("signet.yaml".to_owned(), settings.to_owned()), ("policies/test.cedar".to_owned(), text.to_owned())];
    let source = BundleSource {
        commit: commit.to_string().repeat(40),
        signer: "alice@bank.example".to_owned(),
        files: files.into_iter().chain(more).collect::<BTreeMap<_, _>>(),
    };
    Arc::new(Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:?}")))
}

/// An audit service that keeps what it is sent.
#[derive(Clone, Default)]
pub struct Audit {
    records: Arc<Mutex<Vec<Record>>>,
}

#[tonic::async_trait]
impl Ingest for Audit {
    type StreamStream = ReceiverStream<Result<wire::Ack, tonic::Status>>;

    async fn stream(
        &self,
        request: tonic::Request<tonic::Streaming<wire::Batch>>,
    ) -> Result<tonic::Response<Self::StreamStream>, tonic::Status> {
        let mut batches = request.into_inner();
        let (acks, stream) = tokio::sync::mpsc::channel(16);
        let records = Arc::clone(&self.records);
        tokio::spawn(async move {
            while let Some(Ok(batch)) = batches.next().await {
                let committed = batch.first_sequence + batch.entries.len() as u64 - 1;
                for entry in batch.entries {
                    let openings: Vec<Opening> = entry
                        .openings
                        .iter()
                        .map(|o| Opening {
                            field: o.field,
                            salt: o.salt.as_slice().try_into().unwrap(),
                            value: o.value.clone(),
                        })
                        .collect();
                    records.lock().unwrap().push(Record::decode(&entry.canonical, &openings).unwrap());
                }
                let ack = wire::Ack { epoch: batch.epoch, committed, error: String::new(), closed: batch.closing };
                if acks.send(Ok(ack)).await.is_err() {
                    return;
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(stream)))
    }

    async fn put_bundle(
        &self,
        _: tonic::Request<wire::PutBundleRequest>,
    ) -> Result<tonic::Response<wire::PutBundleResponse>, tonic::Status> {
        Ok(tonic::Response::new(wire::PutBundleResponse {}))
    }
}

impl Audit {
    async fn start(&self) -> tonic::transport::Channel {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(IngestServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }

    /// The first record that `matches`, waited for.
    pub async fn record(&self, what: &str, matches: impl Fn(&Record) -> bool) -> Record {
        wait(what, || self.records.lock().unwrap().iter().find(|r| matches(r)).cloned()).await
    }

    /// How many records there are that `matches`.
    #[allow(dead_code, reason = "the tests of routes share this harness")]
    pub fn count(&self, matches: impl Fn(&Record) -> bool) -> usize {
        self.records.lock().unwrap().iter().filter(|r| matches(r)).count()
    }

    /// The record of the decision that an answer named.
    pub async fn decision(&self, id: &str) -> Record {
        let id: uuid::Uuid = id.parse().unwrap();
        self.record("the decision's record", |r| r.id == id).await
    }
}

/// Polls until `look` gives something.
pub async fn wait<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), polling).await.unwrap_or_else(|_| panic!("no {what} in 10 s"))
}

/// One sidecar's parts.
pub struct Side {
    pub source: IdentitySource,
    pub enforcer: Arc<Enforcer>,
    pub refusals: Refusals,
    pub metrics: Arc<Metrics>,
    pub stop: Stop,
    pub audit: Audit,
    _dir: tempfile::TempDir,
}

impl Side {
    pub async fn new(cas: &[&Ca], sa: &str) -> Self {
        Self::within(cas, "bank", sa).await
    }

    pub async fn within(cas: &[&Ca], namespace: &str, sa: &str) -> Self {
        let td = cas[0].trust_domain();
        let ids = [SpiffeId::workload(td, namespace, sa).unwrap(), SpiffeId::proxy(td, namespace, sa).unwrap()];
        let source = testing::source(cas, &ids);
        let metrics = Metrics::register(&mut Registry::default());
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig {
            dir: dir.path().join("spool"),
            durability: Durability::Disk,
            on_full: OnFull::Deny,
            max_bytes: 8 << 20,
        };
        let producer = ids[1].to_string();
        let spool = Spool::open(config, &producer).unwrap();
        let audit = Audit::default();
        tokio::spawn(signet_spool::ship_over(spool.clone(), audit.start().await, CancellationToken::new()));
        let aggregator = Arc::new(RefusalAggregator::new(spool.clone(), &producer));
        let refusals = Refusals::new(Arc::clone(&metrics), Some(aggregator));
        tokio::spawn(refusals.clone().run(CancellationToken::new()));
        let recorder = Recorder { spool, producer: Arc::from(producer) };
        let enforcer = Enforcer::new(Some(recorder), source.current(), Arc::clone(&metrics));
        Self { source, enforcer, refusals, metrics, stop: Stop::default(), audit, _dir: dir }
    }
}

/// `web` with an outbound listener, `ledger` with an inbound one.
pub struct Pair {
    pub ca: Ca,
    pub web: Side,
    pub ledger: Side,
    pub outbound: SocketAddr,
    pub inbound: SocketAddr,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Pair {
    pub async fn new(protocol: Protocol, port: u16, app: SocketAddr) -> Self {
        Self::with(protocol, port, app, false).await
    }

    pub async fn with(protocol: Protocol, port: u16, app: SocketAddr, permissive: bool) -> Self {
        let ca = Ca::new(TD);
        let (web, ledger) = (Side::new(&[&ca], "web").await, Side::new(&[&ca], "ledger").await);
        let inbound = Inbound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let outbound = Outbound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (inbound_address, outbound_address) = (inbound.local_addr().unwrap(), outbound.local_addr().unwrap());
        let snapshot = Snapshot {
            version: 1,
            trust_domain: TD.parse().unwrap(),
            bundle: Some(bundle(POLICY, 'a')),
            inbound: vec![Arc::new(InboundService {
                service: Arc::from(SERVICE),
                port,
                target_port: inbound_address.port(),
                protocol,
                permissive,
                rate_limits: Vec::new(),
            })],
            outbound: vec![Arc::new(OutboundService {
                service: Arc::from(SERVICE),
                hosts: vec![Arc::from("ledger"), Arc::from(HOST)],
                port,
                protocol,
                spiffe_ids: vec![LEDGER.parse().unwrap()],
                endpoints: vec![inbound_address],
                gateway: None,
                addresses: Vec::new(),
                routes: None,
                traffic: None,
                failover: Vec::new(),
            })],
            exported: Vec::new(),
            external: Vec::new(),
            break_glass: Vec::new(),
        };
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));

        let listener = Inbound::new(
            inbound_address.port(),
            app,
            ledger.source.clone(),
            Arc::clone(&ledger.enforcer),
            ledger.refusals.clone(),
            Arc::clone(&ledger.metrics),
            ledger.stop.clone(),
        );
        let apply = Arc::clone(&listener);
        listener.apply(&receiver.borrow());
        tokio::spawn(Arc::clone(&ledger.enforcer).follow(
            receiver.clone(),
            ledger.source.watch(),
            move |s| apply.apply(s),
            CancellationToken::new(),
        ));
        tokio::spawn(listener.run(inbound));

        let client = Outbound::new(
            web.source.clone(),
            Arc::clone(&web.enforcer),
            web.refusals.clone(),
            Arc::clone(&web.metrics),
            web.stop.clone(),
        );
        let apply = Arc::clone(&client);
        client.apply(&receiver.borrow());
        tokio::spawn(Arc::clone(&web.enforcer).follow(
            receiver,
            web.source.watch(),
            move |s| apply.apply(s),
            CancellationToken::new(),
        ));
        tokio::spawn(client.run(outbound));
        wait("bundle", || (web.enforcer.has_bundle() && ledger.enforcer.has_bundle()).then_some(())).await;
        Self { ca, web, ledger, outbound: outbound_address, inbound: inbound_address, snapshots }
    }

    /// Changes the snapshot of both sides.
    pub fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots.send_modify(|s| {
            let mut next = Snapshot::clone(s);
            next.version += 1;
            change(&mut next);
            *s = Arc::new(next);
        });
    }

    /// Replaces the root that the called side trusts in this domain; what the caller has was issued under the old one.
    pub fn withdraw_trust(&self) {
        let other = Ca::new(TD);
        let ids: Vec<SpiffeId> = self.ledger.source.current().svids.iter().map(|s| s.id.clone()).collect();
        self.ledger.source.replace(testing::material(&[&other], &ids));
    }

    /// Renews the SVIDs of both sides, as the agent does.
    pub fn rotate(&self) {
        for side in [&self.web, &self.ledger] {
            let ids: Vec<SpiffeId> = side.source.current().svids.iter().map(|s| s.id.clone()).collect();
            side.source.replace(testing::material(&[&self.ca], &ids));
        }
    }
}

/// Carries plaintext connections into the inbound listener as `web`'s sidecar would, with `protocol` agreed on.
pub async fn bridge(pair: &Pair, protocol: &'static [u8]) -> SocketAddr {
    let rule = PeerRule::TrustDomain(TD.parse().unwrap());
    let tls = client_config(&pair.web.source, Select::Workload, rule, &[protocol]);
    let (listener, inbound) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), pair.inbound);
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let tls = Arc::clone(&tls);
            tokio::spawn(async move {
                let Ok(stream) = TcpStream::connect(inbound).await else { return };
                let Ok(inner) = signet_mtls::connect(tls, stream, Duration::from_secs(5)).await else { return };
                let mut inner = inner.stream;
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut inner).await;
            });
        }
    });
    address
}

/// Sends bytes and reads to the end.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer in 10 s");
    String::from_utf8_lossy(&answer).into_owned()
}

/// One HTTP/1.1 call through an outbound listener.
pub async fn call(outbound: SocketAddr, method: &str, url: &str, more: &str) -> String {
    let host = url.split('/').nth(2).unwrap();
    let head = format!("{method} {url} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
    exchange(outbound, head.as_bytes()).await
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in `{answer}`"))
}

pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().skip(1).find_map(|line| {
        let (n, v) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}
