//! Calls of hosts outside of the mesh.
//!
//! Nothing on loopback is outside, so what shall succeed runs in a network namespace with an address of its own, as root.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use signet_mtls::testing::Ca;
use signet_policy::{Bundle, BundleSource};
use signet_proxy::config::TransparentConfig;
use signet_proxy::egress::{Egress, Resolve};
use signet_proxy::intercept;
use signet_proxy::outbound::Outbound;
use signet_proxy::redirect::{Backend, Inbound, Rules, apply};
use signet_proxy::snapshot::{External, OutboundService, Protocol, Snapshot};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apps;
use crate::harness::{LEDGER, SERVICE, Side, TD, call, exchange, header, status, wait};
use crate::transparent::{WORKLOAD, Wire, curl_with, is_root, rules};

const HOST: &str = "api.cards.example";
const SETTINGS: &str =
    "version: 1\nexternal_services:\n  cards: {host: api.cards.example}\n  other: {host: other.example}\n";
const POLICY: &str = r#"
@id("web-cards")
permit(principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web", action == Mesh::Action::"egress:connect",
  resource == Mesh::ExternalService::"cards");
"#;

fn bundle(policy: &str, commit: char) -> Arc<Bundle> {
    let source = BundleSource {
        commit: commit.to_string().repeat(40),
        signer: "alice@bank.example".to_owned(),
        files: BTreeMap::from([
            ("signet.yaml".to_owned(), SETTINGS.to_owned()),
            ("policies/test.cedar".to_owned(), policy.to_owned()),
        ]),
    };
    Arc::new(Bundle::compile(&source).unwrap_or_else(|problems| panic!("{problems:?}")))
}

/// `web`'s outbound side with a way out; every name resolves to `to`.
struct Way {
    web: Side,
    outbound: SocketAddr,
    side: Arc<Outbound>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

fn external(name: &str, host: &str, port: u16, originate_tls: bool) -> Arc<External> {
    Arc::new(External { name: Arc::from(name), host: Arc::from(host), port, originate_tls })
}

impl Way {
    async fn new(to: &[&str], external: Vec<Arc<External>>, authorities: &std::path::Path) -> Self {
        let ca = Ca::new(TD);
        let web = Side::new(&[&ca], "web").await;
        let snapshot = Snapshot {
            version: 1,
            bundle: Some(bundle(POLICY, 'a')),
            outbound: vec![Arc::new(OutboundService {
                service: Arc::from(SERVICE),
                hosts: Vec::new(),
                port: 80,
                protocol: Protocol::Http,
                spiffe_ids: vec![LEDGER.parse().unwrap()],
                endpoints: vec!["10.99.0.1:80".parse().unwrap()],
                gateway: None,
                routes: None,
                traffic: None,
                failover: Vec::new(),
                addresses: vec!["10.96.0.7".parse().unwrap()],
            })],
            external,
            ..Snapshot::empty(TD.parse().unwrap())
        };
        let to: Vec<std::net::IpAddr> = to.iter().map(|ip| ip.parse().unwrap()).collect();
        let resolve: Resolve = Arc::new(move |_, port| {
            let found = to.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            Box::pin(async move { Ok(found) })
        });
        let (enforcer, metrics) = (Arc::clone(&web.enforcer), Arc::clone(&web.metrics));
        let components = vec!["10.99.0.9".parse().unwrap()];
        let egress = Egress::new(enforcer, metrics, web.stop.clone(), authorities, components, Some(resolve));
        let side = Outbound::new(
            web.source.clone(),
            Arc::clone(&web.enforcer),
            web.refusals.clone(),
            Arc::clone(&web.metrics),
            web.stop.clone(),
        )
        .with_egress(egress);
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let apply = Arc::clone(&side);
        let apply = move |snapshot: &Arc<Snapshot>| apply.apply(snapshot);
        let enforcer = Arc::clone(&web.enforcer);
        tokio::spawn(enforcer.follow(receiver, web.source.watch(), apply, CancellationToken::new()));
        wait("a bundle", || web.enforcer.has_bundle().then_some(())).await;
        let listener = Outbound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let outbound = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&side).run(listener));
        Self { web, outbound, side, snapshots }
    }

    /// The reason that the record of a denial gives.
    async fn denied(&self, answer: &str) -> String {
        assert_eq!(status(answer), 403, "{answer}");
        let record = self.web.audit.decision(header(answer, "x-signet-decision").unwrap()).await;
        assert!(!record.allow);
        record.reason
    }
}

fn nowhere() -> &'static std::path::Path {
    std::path::Path::new("/nonexistent")
}

/// CONNECT and an HTTP request alike.
async fn ask(way: &Way, host: &str) -> [String; 2] {
    let connect = format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\nconnection: close\r\n\r\n");
    [
        exchange(way.outbound, connect.as_bytes()).await,
        call(way.outbound, "GET", &format!("http://{host}:443/"), "").await,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_declared_or_not_permitted_is_denied_and_recorded() {
    let declared = vec![
        external("cards", HOST, 443, false),
        external("other", "other.example", 443, false),
        // A manifest cannot give a name that policy permits to another host.
        external("cards", "evil.example", 443, false),
        external("nobody", "nobody.example", 443, false),
    ];
    let way = Way::new(&["198.51.100.7"], declared, nowhere()).await;
    for (host, reason) in [
        ("unheard-of.example", "unknown_service"),
        ("evil.example", "unknown_service"),
        ("nobody.example", "unknown_service"),
        ("other.example", "no_permit"),
        // Declared for port 443 alone, and never by address.
        ("198.51.100.7", "unknown_service"),
    ] {
        for answer in ask(&way, host).await {
            let given = way.denied(&answer).await;
            assert!(given == reason || reason == "no_permit" && given != "unknown_service", "{host}: {given}");
        }
    }
    let answer = call(way.outbound, "GET", &format!("http://{HOST}:8443/"), "").await;
    assert_eq!(way.denied(&answer).await, "unknown_service");
    let record = way.web.audit.record("the egress decision", |r| r.action == "egress:connect").await;
    assert_eq!(record.source_spiffe_id.as_deref(), Some(crate::harness::WEB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permitted_name_that_leads_into_the_mesh_or_this_machine_is_denied() {
    // A service that would answer, were it reached.
    let (app, reached) = apps::http().await;
    for to in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "fe80::1",
        "10.96.0.7",
        "10.99.0.1",
        "10.99.0.9",
    ] {
        let way = Way::new(&[to], vec![external("cards", HOST, app.port(), false)], nowhere()).await;
        let answer = call(way.outbound, "GET", &format!("http://{HOST}:{}/", app.port()), "").await;
        assert_eq!(way.denied(&answer).await, "egress_address", "{to}");
    }
    assert_eq!(reached.count(), 0);
}

/// A server on this namespace's own address that says `hello` and then echoes, in plain bytes.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((WORKLOAD[0], 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.write_all(b"hello\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

#[test]
fn permitted_bytes_pass_and_end_with_the_permission() {
    if !is_root() {
        return;
    }
    let wire = Wire::new();
    wire.inside(|| async {
        let server = echo().await;
        // The first address leads nowhere good; the second is outside.
        let declared = vec![external("cards", HOST, server.port(), false)];
        let way = Way::new(&["127.0.0.1", WORKLOAD[0]], declared, nowhere()).await;
        let mut stream = TcpStream::connect(way.outbound).await.unwrap();
        let connect = format!("CONNECT {HOST}:{} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", server.port());
        stream.write_all(connect.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"hello\n") {
            said.push(stream.read_u8().await.unwrap());
        }
        assert!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
        stream.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"ping");
        let record = way.web.audit.record("the allow", |r| r.allow && r.action == "egress:connect").await;
        assert_eq!(record.destination_service, "cards");

        way.snapshots.send_modify(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            next.version += 1;
            next.bundle = Some(bundle("@id(\"none\")\nforbid(principal, action, resource);", 'b'));
            *snapshot = Arc::new(next);
        });
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok() && rest.is_empty(), "the connection ends with its permission");
        way.web.audit.record("the denial that closed it", |r| !r.allow && r.destination_service == "cards").await;
    });
}

/// A TLS server of HOST, and the file of the authority that vouches for it.
async fn tls_server() -> (SocketAddr, tempfile::NamedTempFile) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
    let authorities = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authorities.path(), certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((WORKLOAD[0], 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}",
                    head.len(),
                    String::from_utf8_lossy(&head)
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, authorities)
}

#[test]
fn tls_is_made_by_the_sidecar_or_passes_untouched_and_its_name_says_where_to() {
    if !is_root() {
        return;
    }
    let wire = Wire::new();
    wire.inside(|| async {
        let (server, authorities) = tls_server().await;
        let declared = vec![external("cards", HOST, server.port(), true)];
        let way = Way::new(&[WORKLOAD[0]], declared.clone(), authorities.path()).await;
        let url = format!("http://{HOST}:{}/charge?x=1", server.port());
        let answer = call(way.outbound, "GET", &url, "x-signet-source: forged\r\n").await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(answer.contains("GET /charge?x=1 HTTP/1.1") && !answer.contains("forged"), "{answer}");
        // Without the authority that vouches for it nobody is believed to be that host.
        let (_, strangers) = tls_server().await;
        let distrusting = Way::new(&[WORKLOAD[0]], declared, strangers.path()).await;
        let answer = call(distrusting.outbound, "GET", &url, "").await;
        assert_eq!((status(&answer), header(&answer, "x-signet-error")), (502, Some("egress_unreachable")));

        // The app's own TLS, redirected on its way to wherever it resolved the name to.
        let way = Way::new(&[WORKLOAD[0]], vec![external("cards", HOST, server.port(), false)], nowhere()).await;
        let config: TransparentConfig = serde_json::from_value(serde_json::json!({})).unwrap();
        for listener in intercept::bind(&config).unwrap().outbound {
            tokio::spawn(Arc::clone(&way.side).run_intercepted(listener));
        }
        // The server stands in for a host far away, but lives here: what the sidecar opens to it is no call of its workload.
        let rules = Rules { exclude_inbound_ports: [server.port()].into(), ..rules(Inbound::Redirect) };
        apply::init(&rules, Backend::Nft, false).unwrap();
        let at = |host: &str| format!("{host}:{}:192.0.2.1", server.port());
        let url = format!("https://{HOST}:{}/charge", server.port());
        let cacert = authorities.path().to_string_lossy().into_owned();
        let world_readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(authorities.path(), world_readable).unwrap();
        let answer = curl_with(&wire.a, &["--cacert", &cacert, "--resolve", &at(HOST), &url]).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let record = way.web.audit.record("the call by SNI", |r| r.allow && r.action == "egress:connect").await;
        assert_eq!(record.destination_service, "cards");
        // Another name to the same place is another host, and nobody declared it.
        let url = url.replace(HOST, "exfil.example");
        let answer = curl_with(&wire.a, &["-k", "--resolve", &at("exfil.example"), &url]).await;
        assert!(!answer.starts_with("HTTP/"), "{answer}");
        let record = way.web.audit.record("its denial", |r| r.destination_service == "exfil.example").await;
        assert_eq!((record.allow, record.reason.as_str()), (false, "unknown_service"));
    });
}
