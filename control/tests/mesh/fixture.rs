//! Clusters for tests: directories, a Git repository with signed commits, a running control plane, clients with SVIDs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use signet_api::audit::ingest_server::{Ingest, IngestServer};
use signet_api::audit::{Ack, Batch, PutBundleRequest, PutBundleResponse};
use signet_api::control::discovery_client::DiscoveryClient;
use signet_api::control::status_client::StatusClient;
use signet_api::control::{MeshRequest, MeshState, Report, Snapshot};
use signet_api::identity::operator_server::{Operator, OperatorServer};
use signet_api::identity::{
    AcceptRequest, AcceptResponse, CreateJoinTokenRequest, CreateJoinTokenResponse, FederationState, InviteRequest,
    InviteResponse, ListFederationRequest, ListSvidsRequest, ListSvidsResponse, UnlinkRequest, UnlinkResponse,
};
use signet_control::{BreakGlassConfig, Config, Control, LinkConfig, PolicyConfig, ReturnConfig};
use signet_mtls::testing::{self, Ca};
use signet_mtls::{IdentitySource, PeerRule, Select, alpn, client_config, grpc, server_config};
use signet_spool::{Durability, OnFull, Opening, Record, SpoolConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const LEDGER: &str = "\
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec:
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ledger-1, namespace: bank, labels: {kubernetes.io/service-name: ledger}}
addressType: IPv4
ports: [{name: http, port: 20080}]
endpoints: [{addresses: [127.0.0.1]}]
";

pub(crate) const FRAUD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: fraud, namespace: bank}
spec:
  ports: [{name: http, port: 80}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: fraud, namespace: bank}
";

const SOON: Duration = Duration::from_secs(15);

/// Two trust domains that know each other's bundle, and one audit service for both.
pub(crate) struct World {
    cas: [Ca; 2],
    directory: tempfile::TempDir,
    audit: Audit,
}

impl World {
    pub(crate) fn new() -> Self {
        let cas = [Ca::new("east.example"), Ca::new("west.example")];
        let audit = Audit::start(&cas);
        Self { cas, directory: tempfile::tempdir().unwrap(), audit }
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    fn source(&self, domain: &str, path: &str) -> IdentitySource {
        source(&self.cas, domain, path)
    }
}

fn source(cas: &[Ca; 2], domain: &str, path: &str) -> IdentitySource {
    let id = testing::id(&format!("spiffe://{domain}/{path}"));
    testing::source(&[&cas[0], &cas[1]], &[id])
}

/// What the audit service was told.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) records: Vec<Record>,
    pub(crate) bundles: BTreeSet<String>,
}

impl Notes {
    pub(crate) fn event(&self, action: &str, commit: &str) -> bool {
        self.records.iter().any(|record| record.action == action && record.policy_commit == commit)
    }
}

/// One listener per trust domain, because each control plane wants `/signet/audit` of its own.
pub(crate) struct Audit {
    notes: Arc<Mutex<Notes>>,
    addresses: [SocketAddr; 2],
}

impl Audit {
    fn start(cas: &[Ca; 2]) -> Self {
        let notes = Arc::<Mutex<Notes>>::default();
        let addresses = ["east.example", "west.example"].map(|domain| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            let tls = server_config(&source(cas, domain, "signet/audit"), Select::Component, &[alpn::GRPC]);
            let service = IngestServer::new(Notary { notes: Arc::clone(&notes) });
            let routes = tonic::service::Routes::new(service);
            tokio::spawn(grpc::serve(listener, tls, routes, CancellationToken::new()));
            address
        });
        Self { notes, addresses }
    }

    pub(crate) fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Notes) -> bool) {
        eventually(what, || async { holds(&self.notes()).then_some(()) }).await;
    }
}

struct Notary {
    notes: Arc<Mutex<Notes>>,
}

#[tonic::async_trait]
impl Ingest for Notary {
    type StreamStream = ReceiverStream<Result<Ack, Status>>;

    async fn stream(&self, request: Request<Streaming<Batch>>) -> Result<Response<Self::StreamStream>, Status> {
        let (acks, stream) = mpsc::channel(16);
        let notes = Arc::clone(&self.notes);
        let mut batches = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                let committed = batch.first_sequence + batch.entries.len() as u64 - 1;
                for entry in batch.entries {
                    let openings: Vec<Opening> = entry
                        .openings
                        .into_iter()
                        .map(|o| Opening { field: o.field, salt: o.salt.try_into().unwrap(), value: o.value })
                        .collect();
                    let record = Record::decode(&entry.canonical, &openings).unwrap();
                    notes.lock().unwrap().records.push(record);
                }
                let ack = Ack { epoch: batch.epoch, committed, error: String::new(), closed: batch.closing };
                if acks.send(Ok(ack)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn put_bundle(&self, request: Request<PutBundleRequest>) -> Result<Response<PutBundleResponse>, Status> {
        let request = request.into_inner();
        assert!(!request.files.is_empty());
        self.notes.lock().unwrap().bundles.insert(request.digest);
        Ok(Response::new(PutBundleResponse {}))
    }
}

struct Registrar {
    states: watch::Receiver<FederationState>,
}

fn elsewhere<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the control plane does not ask this"))
}

#[tonic::async_trait]
impl Operator for Registrar {
    type WatchFederationStream = std::pin::Pin<Box<dyn futures::Stream<Item = Result<FederationState, Status>> + Send>>;

    async fn watch_federation(
        &self,
        _: Request<ListFederationRequest>,
    ) -> Result<Response<Self::WatchFederationStream>, Status> {
        let states = WatchStream::new(self.states.clone());
        Ok(Response::new(Box::pin(futures::StreamExt::map(states, Ok))))
    }

    async fn list_federation(&self, _: Request<ListFederationRequest>) -> Result<Response<FederationState>, Status> {
        elsewhere()
    }

    async fn create_join_token(
        &self,
        _: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        elsewhere()
    }

    async fn list_svids(&self, _: Request<ListSvidsRequest>) -> Result<Response<ListSvidsResponse>, Status> {
        elsewhere()
    }

    async fn invite(&self, _: Request<InviteRequest>) -> Result<Response<InviteResponse>, Status> {
        elsewhere()
    }

    async fn accept(&self, _: Request<AcceptRequest>) -> Result<Response<AcceptResponse>, Status> {
        elsewhere()
    }

    async fn unlink(&self, _: Request<UnlinkRequest>) -> Result<Response<UnlinkResponse>, Status> {
        elsewhere()
    }
}

/// Directories of one cluster; not running.
pub(crate) struct Cluster<'w> {
    world: &'w World,
    domain: &'static str,
    root: PathBuf,
    pub(crate) lease_seconds: u32,
    pub(crate) break_glass: Option<BreakGlassConfig>,
    pub(crate) tags: Option<String>,
    listen: std::cell::Cell<Option<SocketAddr>>,
    identity: String,
}

impl<'w> Cluster<'w> {
    /// With one service and a repository of one signed commit.
    pub(crate) fn new(world: &'w World, domain: &'static str) -> Self {
        let root = world.directory.path().join(domain);
        std::fs::create_dir_all(root.join("repo/policies")).unwrap();
        std::fs::create_dir_all(root.join("manifests")).unwrap();
        let cluster = Self {
            world,
            domain,
            root,
            lease_seconds: 60,
            break_glass: None,
            tags: None,
            listen: std::cell::Cell::new(None),
            identity: "127.0.0.1:1".into(),
        };
        cluster.write_manifest("ledger.yaml", LEDGER);
        let key = cluster.root.join("key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let mut words = public.split(' ');
        let line = format!("alice@example.com {} {}\n", words.next().unwrap(), words.next().unwrap());
        std::fs::write(cluster.root.join("signers"), line).unwrap();
        cluster.write_reviews("rules: []\n");
        cluster.git(&["init", "-q", "-b", "main"]);
        for (name, value) in [
            ("user.name", "Alice"),
            ("user.email", "alice@example.com"),
            ("gpg.format", "ssh"),
            ("user.signingkey", key.to_str().unwrap()),
        ] {
            cluster.git(&["config", name, value]);
        }
        std::fs::write(cluster.root.join("repo/signet.yaml"), "version: 1\n").unwrap();
        cluster.commit("policies/a.cedar", "@id(\"a\") permit(principal, action, resource);\n");
        cluster
    }

    pub(crate) fn write_manifest(&self, name: &str, text: &str) {
        // By rename, as editors do.
        let temporary = self.root.join("new");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.root.join("manifests").join(name)).unwrap();
    }

    /// A file outside of the repository and of the control plane's state.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn write_reviews(&self, text: &str) {
        std::fs::write(self.root.join("reviews.yaml"), text).unwrap();
    }

    pub(crate) fn commit(&self, path: &str, text: &str) -> String {
        self.commit_with(path, text, &["commit", "-q", "-S", "-m", "a change"])
    }

    pub(crate) fn commit_saying(&self, path: &str, text: &str, message: &str) -> String {
        self.commit_with(path, text, &["commit", "-q", "-S", "-m", message])
    }

    pub(crate) fn commit_unsigned(&self, path: &str, text: &str) -> String {
        self.commit_with(path, text, &["commit", "-q", "--no-gpg-sign", "-m", "a change"])
    }

    fn commit_with(&self, path: &str, text: &str, commit: &[&str]) -> String {
        std::fs::write(self.root.join("repo").join(path), text).unwrap();
        self.git(&["add", "."]);
        self.git(commit);
        self.head()
    }

    pub(crate) fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let repo = self.root.join("repo");
        let mut command = Command::new("git");
        command.current_dir(repo).args(arguments);
        run(command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null"))
    }

    /// An address that this cluster will listen on.
    pub(crate) fn reserve(&self) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        self.listen.set(Some(address));
        address
    }

    /// As an earlier run would have kept it; the identity server, which would say it, is away in these tests.
    pub(crate) fn link_to(&self, domain: &str, control: SocketAddr) {
        let address = serde_json::json!({ "gateway": "127.0.0.1:15443", "control": control.to_string() });
        let table = serde_json::json!({ "peers": { domain: { "address": address } } });
        std::fs::create_dir_all(self.root.join("state")).unwrap();
        std::fs::write(self.root.join("state/links.json"), table.to_string()).unwrap();
    }

    /// An identity server that tells `states`, the newest to whoever asks.
    pub(crate) async fn with_identity_server(mut self, states: watch::Receiver<FederationState>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.identity = listener.local_addr().unwrap().to_string();
        let source = self.world.source(self.domain, "signet/identity");
        let tls = server_config(&source, Select::Component, &[alpn::GRPC]);
        let routes = tonic::service::Routes::new(OperatorServer::new(Registrar { states }));
        tokio::spawn(grpc::serve(listener, tls, routes, CancellationToken::new()));
        self
    }

    fn config(&self) -> Config {
        let audit = self.world.audit.addresses[usize::from(self.domain == "west.example")];
        Config {
            trust_domain: self.domain.parse().unwrap(),
            workload_api: "unix:/nonexistent".into(),
            listen: self.listen.get().unwrap_or_else(|| "127.0.0.1:0".parse().unwrap()),
            identity: self.identity.clone(),
            audit: audit.to_string(),
            manifests: self.root.join("manifests"),
            policy: PolicyConfig {
                repository: self.root.join("repo"),
                branch: "main".into(),
                tags: self.tags.clone(),
                trusted_signers: self.root.join("signers"),
                reviews: Some(self.root.join("reviews.yaml")),
                state: self.root.join("state/policy.json"),
                automatic_return: ReturnConfig { denials: 20, within_seconds: 600 },
                break_glass: self.break_glass.clone(),
            },
            admin: "127.0.0.1:0".parse().unwrap(),
            state_dir: self.root.join("state"),
            spool: SpoolConfig {
                dir: self.root.join("spool"),
                durability: Durability::Disk,
                on_full: OnFull::Deny,
                max_bytes: 16 * 1024 * 1024,
            },
            link: LinkConfig { lease_seconds: self.lease_seconds },
            telemetry: Default::default(),
        }
    }

    pub(crate) async fn start(self) -> Running<'w> {
        let identity = self.world.source(self.domain, "signet/control");
        let control = Control::bind(self.config(), identity).await.unwrap();
        let (address, admin) = (control.local_addr(), control.admin_addr());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(control.run(cancel.clone()));
        Running { cluster: self, address, admin, cancel, task }
    }
}

/// A cluster whose control plane runs.
pub(crate) struct Running<'w> {
    cluster: Cluster<'w>,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl<'w> std::ops::Deref for Running<'w> {
    type Target = Cluster<'w>;

    fn deref(&self) -> &Self::Target {
        &self.cluster
    }
}

impl<'w> Running<'w> {
    pub(crate) async fn stop(self) -> Cluster<'w> {
        self.cancel.cancel();
        tokio::time::timeout(SOON, self.task).await.expect("stopped in time").unwrap();
        self.cluster
    }

    pub(crate) fn channel(&self, domain: &str, path: &str) -> Channel {
        let control = testing::id(&format!("spiffe://{}/signet/control", self.domain));
        let source = self.world.source(domain, path);
        let select = if path.contains("/sa/") {
            Select::Workload
        } else if path.contains("/proxy/") {
            Select::Proxy
        } else {
            Select::Component
        };
        grpc::channel(
            &self.address.to_string(),
            client_config(&source, select, PeerRule::AnyOf(vec![control]), &[alpn::GRPC]),
        )
    }

    pub(crate) async fn try_status(&self, domain: &str, path: &str) -> Result<MeshState, Status> {
        let mut client = StatusClient::new(self.channel(domain, path));
        client.mesh(MeshRequest {}).await.map(Response::into_inner)
    }

    pub(crate) async fn status_when(&self, what: &str, holds: impl Fn(&MeshState) -> bool) -> MeshState {
        eventually(what, || async {
            let status = self.try_status(self.domain, "signet/operator").await.unwrap();
            holds(&status).then_some(status)
        })
        .await
    }

    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer)
    }

    pub(crate) async fn until_ready(&self) {
        eventually("readiness", || async { (self.admin("/readyz").await.0 == 200).then_some(()) }).await;
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.admin("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    }
}

/// A proxy's end of a discovery stream.
pub(crate) struct Proxy {
    reports: mpsc::Sender<Report>,
    snapshots: Streaming<Snapshot>,
}

impl Proxy {
    pub(crate) async fn open(cluster: &Running<'_>, path: &str) -> Self {
        Self::try_open(cluster, cluster.domain, path).await.unwrap()
    }

    pub(crate) async fn try_open(cluster: &Running<'_>, domain: &str, path: &str) -> Result<Self, Status> {
        let (reports, stream) = mpsc::channel(4);
        reports.send(Report { kind: "sidecar".into(), ..Report::default() }).await.unwrap();
        let mut client = DiscoveryClient::new(cluster.channel(domain, path));
        let snapshots = client.stream(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { reports, snapshots })
    }

    pub(crate) async fn next(&mut self, within: Duration) -> Snapshot {
        let message = tokio::time::timeout(within, self.snapshots.message()).await;
        message.unwrap_or_else(|_| panic!("no snapshot within {within:?}")).unwrap().expect("an open stream")
    }

    pub(crate) async fn until(&mut self, within: Duration, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = tokio::time::timeout(left, self.snapshots.message()).await;
            let snapshot = message.unwrap_or_else(|_| panic!("waited for: {what}")).unwrap().unwrap();
            if holds(&snapshot) {
                return snapshot;
            }
        }
    }

    /// Absence cannot be waited for; a quarter of a second is five times what a push takes.
    pub(crate) async fn expect_silence(&mut self) {
        let message = tokio::time::timeout(Duration::from_millis(250), self.snapshots.message()).await;
        assert!(message.is_err(), "nothing was to come: {message:?}");
    }

    pub(crate) async fn ack(&self, snapshot: &Snapshot) {
        self.report(snapshot, "").await;
    }

    pub(crate) async fn nack(&self, snapshot: &Snapshot, error: &str) {
        self.report(snapshot, error).await;
    }

    pub(crate) async fn send(&self, report: Report) {
        self.reports.send(report).await.unwrap();
    }

    async fn report(&self, snapshot: &Snapshot, error: &str) {
        let policy = snapshot.policy.clone().filter(|_| error.is_empty()).unwrap_or_default();
        self.send(Report {
            version: snapshot.version,
            error: error.into(),
            bundle_digest: policy.digest,
            policy_commit: policy.commit,
            kind: "sidecar".into(),
            slice_digest: policy.slice,
            ..Report::default()
        })
        .await;
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A way to an address that can fall silent: connections stay, and not a byte passes.
pub(crate) struct Between {
    pub(crate) address: SocketAddr,
    pub(crate) passing: watch::Sender<bool>,
    _tasks: tokio::task::JoinSet<()>,
}

impl Between {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (passing, watched)) = (listener.local_addr().unwrap(), watch::channel(true));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                // Not listening yet: whoever asks tries again.
                let Ok(to) = tokio::net::TcpStream::connect(to).await else { continue };
                let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
                connections.spawn(pass(from_read, to_write, watched.clone()));
                connections.spawn(pass(to_read, from_write, watched.clone()));
            }
        });
        Self { address, passing, _tasks: tasks }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut passing: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        if passing.wait_for(|passing| *passing).await.is_err() || to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
}
