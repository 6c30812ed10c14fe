//! A sidecar's pool over several replicas of a gateway, some of which fall silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use prometheus_client::registry::Registry;
use signet_mtls::testing::{self, id};
use signet_mtls::{PeerRule, Select, alpn};
use signet_proxy::metrics::Metrics;
use signet_proxy::snapshot::RemoteGateway;
use signet_proxy::tls::Wire;
use signet_proxy::upstream::{GatewayPool, Shared, Transport, Upstream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::harness::{FORWARD_ALL, FRAUD, Gateway, LEDGER, LEDGER_AUTHORITY, WAIT, echo};

/// A way to a gateway that can fall silent: connections stay, and not a byte passes.
struct Front {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    passing: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Front {
    async fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (passing, watched) = watch::channel(true);
        let (counted, mut tasks) = (Arc::clone(&accepted), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (client_read, client_write) = client.into_split();
                let (read, write) = TcpStream::connect(gateway).await.unwrap().into_split();
                connections.spawn(pass(client_read, write, watched.clone()));
                connections.spawn(pass(read, client_write, watched.clone()));
            }
        });
        Self { address, accepted, passing, _tasks: tasks }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin + Send,
    mut to: impl AsyncWrite + Unpin + Send,
    mut passing: watch::Receiver<bool>,
) {
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        if passing.wait_for(|passing| *passing).await.is_err() || to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// `ledger` behind these addresses of its cluster's gateway, as west's `fraud` reaches it.
fn ledger(gateway: &Gateway, fronts: &[Front]) -> Arc<Upstream> {
    let source = testing::source(&[&gateway.west, &gateway.east], &[id(FRAUD)]);
    let remote = RemoteGateway {
        addresses: fronts.iter().map(|front| Arc::from(front.address.to_string())).collect(),
        spiffe_id: id("spiffe://east.bank.example/signet/gateway"),
        authority: Arc::from(LEDGER_AUTHORITY),
    };
    let tls = signet_mtls::client_config(&source, Select::Workload, PeerRule::AnyOf(vec![id(LEDGER)]), &[alpn::TCP]);
    let pool = GatewayPool::new(&remote, &source, Select::Workload);
    let shared = Shared { source, metrics: Metrics::register(&mut Registry::default()), tasks: TaskTracker::new() };
    Upstream::remote(pool, remote.authority, tls, Wire::Tcp, shared, None)
}

async fn reach(ledger: &Upstream) -> Transport {
    let raw = tokio::time::timeout(WAIT, ledger.raw(&HeaderMap::new())).await;
    let mut stream = raw.expect("no tunnel in 5 s").map(|(stream, _)| stream).unwrap();
    echo(&mut stream, b"ping").await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_falls_silent_is_passed_over_and_a_partition_heals() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let fronts = [Front::start(gateway.address).await, Front::start(gateway.address).await];
    let ledger = ledger(&gateway, &fronts);
    let mut held = reach(&ledger).await;
    let used = usize::from(fronts[1].accepted() > 0);
    assert_eq!((fronts[used].accepted(), fronts[1 - used].accepted()), (1, 0));

    fronts[used].passing.send_replace(false);
    let began = Instant::now();
    let _second = reach(&ledger).await;
    // Before its own timeouts (5 s for an answer, 30 s for a ping) would have told.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(fronts[1 - used].accepted(), 1);
    // Nobody waits for the silent one again.
    let _third = reach(&ledger).await;
    assert_eq!((fronts[used].accepted(), fronts[1 - used].accepted()), (1, 1));

    // Nothing is there any more: an error in bounded time, and not for longer than it lasts.
    fronts[1 - used].passing.send_replace(false);
    let alone = tokio::time::timeout(Duration::from_secs(30), ledger.raw(&HeaderMap::new())).await;
    assert!(alone.expect("no end in 30 s").is_err());
    for front in &fronts {
        front.passing.send_replace(true);
    }
    let _fourth = reach(&ledger).await;
    // The tunnel through the replica that was silent has lost nothing.
    echo(&mut held, b"still").await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_even_shake_hands_costs_less_than_its_timeout() {
    let gateway = Gateway::start(FORWARD_ALL).await;
    let fronts = [Front::start(gateway.address).await, Front::start(gateway.address).await];
    fronts[0].passing.send_replace(false);
    // Each pool begins somewhere: enough of them that some begin at the silent one.
    for _ in 0..6 {
        let ledger = ledger(&gateway, &fronts);
        let began = Instant::now();
        let _stream = reach(&ledger).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
    assert!(fronts[1].accepted() >= 6);
    gateway.stop().await;
}
