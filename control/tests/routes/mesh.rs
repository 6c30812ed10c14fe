//! A mesh whose routes come from manifests: callers and services with a real sidecar each, in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use signet_control::manifests::read_directory;
use signet_control::model::{ActivePolicy, Imports, World};
use signet_control::snapshot::{Held, Subject, build, seal};
use signet_mtls::testing::Ca;
use signet_policy::BundleSource;
use signet_proxy::decide::Enforcer;
use signet_proxy::inbound::Inbound;
use signet_proxy::outbound::Outbound;
use signet_proxy::snapshot::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::harness::{Side, TD, call, wait};

/// Everybody may do anything, except what `/forbidden` names.
const POLICY: &str = r#"
@id("all")
permit(principal, action, resource);
@id("not-this")
forbid(principal, action in [Mesh::Action::"read", Mesh::Action::"write"], resource) when { context.path like "/forbidden*" };
"#;

/// A service `<ns>/<name>` with one endpoint.
pub struct Served {
    pub side: Side,
    pub app: App,
    inbound: SocketAddr,
    protocol: &'static str,
    listener: Arc<Inbound>,
}

pub struct Mesh {
    ca: Ca,
    pub services: BTreeMap<&'static str, Served>,
    directory: tempfile::TempDir,
    version: Mutex<u64>,
    pub web: Caller,
    callers: Mutex<Vec<Told>>,
}

/// How a caller is told of snapshots.
#[derive(Clone)]
struct Told {
    namespace: String,
    sender: watch::Sender<Arc<Snapshot>>,
    enforcer: Arc<Enforcer>,
}

/// A workload with an outbound listener.
pub struct Caller {
    pub side: Side,
    pub outbound: SocketAddr,
    pub client: Arc<Outbound>,
}

impl Caller {
    async fn start(ca: &Ca, namespace: &str, first: Arc<Snapshot>) -> (Self, Told) {
        let side = Side::within(&[ca], namespace, "web").await;
        let listener = Outbound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let outbound = listener.local_addr().unwrap();
        let client = Outbound::new(
            side.source.clone(),
            Arc::clone(&side.enforcer),
            side.refusals.clone(),
            Arc::clone(&side.metrics),
            side.stop.clone(),
        );
        client.apply(&first);
        let (snapshots, receiver) = watch::channel(first);
        let apply = Arc::clone(&client);
        tokio::spawn(Arc::clone(&side.enforcer).follow(
            receiver,
            side.source.watch(),
            move |snapshot| apply.apply(snapshot),
            CancellationToken::new(),
        ));
        tokio::spawn(Arc::clone(&client).run(listener));
        let enforcer = Arc::clone(&side.enforcer);
        (Self { side, outbound, client }, Told { namespace: namespace.to_owned(), sender: snapshots, enforcer })
    }

    /// `GET` and the like, to `url` on this caller's outbound listener.
    pub async fn call(&self, method: &str, url: &str, more: &str) -> String {
        call(self.outbound, method, url, more).await
    }
}

impl Mesh {
    /// `services` by `<ns>/<name>` and protocol, on port 80 each; `routes` is the text of their manifests.
    pub async fn new(services: &[(&'static str, &'static str)], routes: &str) -> Self {
        let ca = Ca::new(TD);
        let mut served = BTreeMap::new();
        for (name, protocol) in services {
            let (namespace, account) = name.split_once('/').unwrap();
            let side = Side::within(&[&ca], namespace, account).await;
            let app = App::start(name, matches!(*protocol, "grpc" | "http2")).await;
            let listening = Inbound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let inbound = listening.local_addr().unwrap();
            let listener = Inbound::new(
                inbound.port(),
                app.address,
                side.source.clone(),
                Arc::clone(&side.enforcer),
                side.refusals.clone(),
                Arc::clone(&side.metrics),
                side.stop.clone(),
            );
            tokio::spawn(Arc::clone(&listener).run(listening));
            served.insert(*name, Served { side, app, inbound, protocol, listener });
        }
        let directory = tempfile::tempdir().unwrap();
        write_services(&directory, &served);
        let empty = Arc::new(Snapshot::empty(TD.parse().unwrap()));
        let (web, told) = Caller::start(&ca, "bank", empty).await;
        let mesh =
            Self { ca, services: served, directory, version: Mutex::new(0), web, callers: Mutex::new(vec![told]) };
        mesh.apply(routes).await;
        for served in mesh.services.values() {
            wait("a bundle at a service", || served.side.enforcer.has_bundle().then_some(())).await;
        }
        wait("a bundle at the caller", || mesh.web.side.enforcer.has_bundle().then_some(())).await;
        mesh
    }

    /// The services of most tests.
    pub async fn echo(routes: &str) -> Self {
        Self::new(&[("bank/echo", "http"), ("bank/echo-v1", "http"), ("bank/echo-v2", "http")], routes).await
    }

    /// Puts other routes in force, at all callers.
    pub async fn apply(&self, routes: &str) {
        std::fs::write(self.directory.path().join("routes.yaml"), routes).unwrap();
        let world = self.world();
        for (name, served) in &self.services {
            let (namespace, account) = name.split_once('/').unwrap();
            let subject = Subject::Sidecar { namespace: namespace.to_owned(), service_account: account.to_owned() };
            let snapshot = snapshot(&world, &subject);
            served.side.enforcer.take_snapshot(&snapshot);
            served.listener.apply(&snapshot);
        }
        let callers: Vec<Told> = self.callers.lock().unwrap().clone();
        for told in callers {
            let before = told.enforcer.epoch();
            told.sender.send_replace(self.snapshot_for(&world, &told.namespace));
            // Told only after the snapshot is in force.
            wait("the routes in force", || (told.enforcer.epoch() > before).then_some(())).await;
        }
    }

    /// A caller in another namespace.
    pub async fn caller_in(&self, namespace: &str) -> Caller {
        let first = self.snapshot_for(&self.world(), namespace);
        let (caller, told) = Caller::start(&self.ca, namespace, first).await;
        self.callers.lock().unwrap().push(told);
        wait("a bundle at a caller", || caller.side.enforcer.has_bundle().then_some(())).await;
        caller
    }

    fn world(&self) -> World {
        let desired = read_directory(self.directory.path()).unwrap_or_else(|errors| panic!("{}", errors[0]));
        let source = BundleSource {
            commit: "a".repeat(40),
            signer: "alice@bank.example".to_owned(),
            files: BTreeMap::from([
                ("signet.yaml".to_owned(), "version: 1\n".to_owned()),
                ("policies/test.cedar".to_owned(), POLICY.to_owned()),
            ]),
        };
        let mut version = self.version.lock().unwrap();
        *version += 1;
        World {
            version: *version,
            made_at: Instant::now(),
            trust_domain: TD.parse().unwrap(),
            desired: Some(Arc::new(desired)),
            policy: Some(Arc::new(ActivePolicy::new(source, 1))),
            imports: Arc::new(Imports::new()),
            break_glass: Arc::default(),
        }
    }

    /// Manifests that make the sidecars of `others`, of its namespace, endpoints of `service` too.
    pub fn endpoints(&self, service: &str, others: &[&str]) -> String {
        let (namespace, name) = service.split_once('/').unwrap();
        let slices = others.iter().enumerate().map(|(index, other)| {
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-more-{index}, namespace: \
                 {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: main, \
                 port: {}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n",
                self.services[*other].inbound.port()
            )
        });
        slices.collect()
    }

    fn snapshot_for(&self, world: &World, namespace: &str) -> Arc<Snapshot> {
        let subject = Subject::Sidecar { namespace: namespace.to_owned(), service_account: "web".to_owned() };
        Arc::new(snapshot(world, &subject))
    }

    pub fn app(&self, service: &str) -> &App {
        &self.services[service].app
    }

    /// `GET` of `echo` from the caller in its namespace.
    pub async fn get(&self, path: &str, more: &str) -> String {
        self.web.call("GET", &format!("http://echo{path}"), more).await
    }
}

fn snapshot(world: &World, subject: &Subject) -> Snapshot {
    let wire = seal(build(world, subject).unwrap(), world, subject, &Held::default());
    Snapshot::from_wire(&wire, None).unwrap_or_else(|error| panic!("{error}"))
}

fn write_services(directory: &tempfile::TempDir, services: &BTreeMap<&'static str, Served>) {
    let mut text = String::new();
    for (name, served) in services {
        let (namespace, name) = name.split_once('/').unwrap();
        // Whoever serves one of a namespace may serve the others: `endpoints` makes them do so.
        let inside = services.keys().filter_map(|other| other.strip_prefix(namespace)?.strip_prefix('/'));
        let accounts = inside.collect::<Vec<_>>().join(",");
        text.push_str(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}, annotations: {{signet.dev/service-accounts: '{accounts}'}}}}
spec: {{ports: [{{name: main, port: 80, appProtocol: {protocol}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: main, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
",
            protocol = served.protocol,
            port = served.inbound.port(),
        ));
    }
    // Known, with a port, and nobody serves it.
    text.push_str(
        "apiVersion: v1
kind: Service
metadata: {name: deserted, namespace: bank}
spec: {ports: [{name: main, port: 80, appProtocol: http}]}
",
    );
    std::fs::write(directory.path().join("services.yaml"), text).unwrap();
}
