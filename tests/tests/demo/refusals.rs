//! What bad input gets: refused, counted and recorded, at a running sidecar and at a running gateway; and all goes on.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use rustls::version::{TLS12, TLS13};
use signet_mtls::{IdentitySource, PeerRule, Select};
use signet_tests::demo::Demo;
use signet_tests::tls::{self, Authority, Leaf};
use signet_tests::{calls, records, wait};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_sidecar_refuses_counts_and_records_bad_clients", |demo| Box::pin(sidecar(demo))),
    ("a_gateway_refuses_counts_and_records_bad_clients", |demo| Box::pin(gateway(demo))),
    ("an_outbound_listener_refuses_counts_and_records_bad_http", |demo| Box::pin(bad_http_outbound(demo))),
    ("an_inbound_listener_refuses_counts_and_records_bad_http_of_a_good_peer", |demo| Box::pin(bad_http_inbound(demo))),
    ("a_workload_may_not_call_the_apis_of_components", |demo| Box::pin(workload_on_apis(demo))),
    ("a_malformed_protobuf_message_is_an_error_and_no_more", |demo| Box::pin(malformed_protobuf(demo))),
];

const COUNTER: &str = "signet_proxy_refusals_total";
const SOON: Duration = Duration::from_secs(10);
/// Long enough for an answer that should not come.
const SILENCE: Duration = Duration::from_secs(2);
const PLAIN_HTTP: &[u8] = b"GET /accounts/1 HTTP/1.1\r\nhost: ledger.bank.svc.cluster.local\r\n\r\n";
const EAST_ID: &str = "spiffe://east.bank.example/ns/bank/sa/web";
const WEST_ID: &str = "spiffe://west.bank.example/ns/bank/sa/reporting";

/// A listener, and where it counts and records.
struct Place {
    address: String,
    admin: String,
    /// The producer of its records.
    proxy: &'static str,
    alpn: &'static [u8],
    /// What a good client of it would say first.
    hello: &'static [u8],
}

enum Attack {
    Bytes(Vec<u8>),
    Tls12(Leaf),
    Tls13(Option<Leaf>),
}

struct Case {
    name: &'static str,
    attack: Attack,
    cause: &'static str,
}

/// What refusals are asked about: the counter on the admin listener, and the rows in `decisions`.
struct Witness<'a> {
    pool: &'a PgPool,
    place: &'a Place,
    action: &'static str,
    cause: &'static str,
    counted: f64,
    recorded: i64,
}

impl<'a> Witness<'a> {
    async fn before(
        pool: &'a PgPool,
        place: &'a Place,
        action: &'static str,
        cause: &'static str,
    ) -> anyhow::Result<Self> {
        let mut witness = Self { pool, place, action, cause, counted: 0.0, recorded: 0 };
        (witness.counted, witness.recorded) = (witness.counter().await?, witness.rows().await?);
        Ok(witness)
    }

    async fn counter(&self) -> anyhow::Result<f64> {
        calls::metric(&self.place.admin, COUNTER, &[&format!("cause=\"{}\"", self.cause)]).await
    }

    async fn rows(&self) -> anyhow::Result<i64> {
        let rows = "SELECT count(*) FROM decisions \
                    WHERE decision = 'deny' AND proxy = $1 AND action = $2 AND reason = $3 AND source_address LIKE '127.0.0.%'";
        Ok(sqlx::query_scalar(rows)
            .bind(self.place.proxy)
            .bind(self.action)
            .bind(self.cause)
            .fetch_one(self.pool)
            .await?)
    }

    async fn saw(&self, name: &str) -> anyhow::Result<()> {
        let more = || async { Ok((self.counter().await? > self.counted).then_some(())) };
        wait::until(&format!("{name}: the counter of `{}`", self.cause), SOON, more).await?;
        let more = || async { Ok((self.rows().await? > self.recorded).then_some(())) };
        wait::until(&format!("{name}: a row of `{}`", self.cause), SOON, more).await
    }
}

fn inbound_of_ledger(demo: &Demo) -> anyhow::Result<Place> {
    let ledger = demo.workload("east/bank/ledger")?;
    Ok(Place {
        address: ledger.inbound.clone(),
        admin: ledger.admin.clone(),
        proxy: "spiffe://east.bank.example/ns/bank/proxy/ledger",
        alpn: b"signet/http1",
        hello: PLAIN_HTTP,
    })
}

async fn sidecar(demo: &Demo) -> anyhow::Result<()> {
    let (east, west) = (Authority::of_cluster(demo, "east")?, Authority::of_cluster(demo, "west")?);
    bad_clients(demo, &inbound_of_ledger(demo)?, (&east, EAST_ID), (&west, WEST_ID)).await
}

async fn gateway(demo: &Demo) -> anyhow::Result<()> {
    let cluster = demo.cluster("east")?;
    let place = Place {
        address: cluster.gateway.clone(),
        admin: cluster.admin["gateway"].clone(),
        proxy: "spiffe://east.bank.example/signet/gateway",
        alpn: b"signet/h2",
        hello: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    };
    let (east, west) = (Authority::of_cluster(demo, "east")?, Authority::of_cluster(demo, "west")?);
    // Sidecars of other clusters are its good clients; a workload of its own has no business there.
    bad_clients(demo, &place, (&west, WEST_ID), (&east, EAST_ID)).await?;
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let own = Case {
        name: "its own cluster",
        attack: Attack::Tls13(Some(east.leaf(&[EAST_ID], |_| {})?)),
        cause: "not_allowed",
    };
    expect_refusal(&pool, &place, own).await
}

/// `good` signs what the place would accept; `other` is the root of the linked cluster.
async fn bad_clients(
    demo: &Demo,
    place: &Place,
    (good, good_id): (&Authority, &str),
    (other, other_id): (&Authority, &str),
) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    for case in cases((good, good_id), (other, other_id))? {
        expect_refusal(&pool, place, case).await?;
    }
    // The same tools with a good SVID get in: what was refused was refused for its fault.
    let leaf = good.leaf(&[good_id], |_| {})?;
    let mut stream = tls::connect(&place.address, tls::client(Some(&leaf), &[place.alpn], &TLS13)?).await?;
    stream.write_all(place.hello).await?;
    let answer = read_some(&mut stream).await;
    assert!(!answer.is_empty(), "a good SVID is let in");
    all_goes_on(demo).await
}

fn cases((good, id): (&Authority, &str), (other, other_id): (&Authority, &str)) -> anyhow::Result<Vec<Case>> {
    let now = OffsetDateTime::now_utc();
    let stranger = Authority::stranger("other.example")?;
    let impostor = Authority::stranger(id.split('/').nth(2).unwrap_or_default())?;
    let bytes = |name, bytes: &[u8], cause| Case { name, attack: Attack::Bytes(bytes.to_vec()), cause };
    let leaf = |name, leaf, cause| Case { name, attack: Attack::Tls13(Some(leaf)), cause };
    Ok(vec![
        bytes("garbage", &[0xa5; 512], "not_tls"),
        bytes("garbage in a TLS record", &[&[0x16, 0x03, 0x01, 0x00, 0x40][..], &[0xff; 64]].concat(), "protocol"),
        bytes("plaintext HTTP", PLAIN_HTTP, "not_tls"),
        Case { name: "TLS 1.2", attack: Attack::Tls12(good.leaf(&[id], |_| {})?), cause: "tls12" },
        Case { name: "no certificate", attack: Attack::Tls13(None), cause: "no_certificate" },
        leaf(
            "unknown trust domain",
            stranger.leaf(&["spiffe://other.example/ns/bank/sa/web"], |_| {})?,
            "unknown_trust_domain",
        ),
        leaf("a root of the same name", impostor.leaf(&[id], |_| {})?, "wrong_trust_domain_root"),
        leaf("its ID under the other's root", other.leaf(&[id], |_| {})?, "wrong_trust_domain_root"),
        leaf("the other's ID under its root", good.leaf(&[other_id], |_| {})?, "wrong_trust_domain_root"),
        leaf("expired", good.leaf(&[id], |params| params.not_after = now - Duration::from_secs(60))?, "expired"),
        leaf(
            "not yet valid",
            good.leaf(&[id], |params| params.not_before = now + Duration::from_secs(600))?,
            "not_yet_valid",
        ),
        leaf("two URIs", good.leaf(&[id, "spiffe://east.bank.example/ns/bank/sa/ledger"], |_| {})?, "not_one_uri"),
        leaf("no URI", good.leaf(&[], |_| {})?, "not_one_uri"),
        leaf("no SPIFFE ID", good.leaf(&["https://east.bank.example/ns/bank/sa/web"], |_| {})?, "bad_spiffe_id"),
        leaf(
            "a CA's certificate",
            good.leaf(&[id], |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.key_usages.push(KeyUsagePurpose::KeyCertSign);
            })?,
            "ca_leaf",
        ),
    ])
}

async fn expect_refusal(pool: &PgPool, place: &Place, case: Case) -> anyhow::Result<()> {
    let witness = Witness::before(pool, place, "tls:handshake", case.cause).await?;
    let answer = match case.attack {
        Attack::Bytes(bytes) => {
            let mut stream = TcpStream::connect(&place.address).await?;
            stream.write_all(&bytes).await?;
            let answer = read_some(&mut stream).await;
            // A TLS alert is no answer; anything longer is one.
            if answer.first() == Some(&0x15) { Vec::new() } else { answer }
        }
        Attack::Tls12(leaf) => over_tls(place, tls::client(Some(&leaf), &[place.alpn], &TLS12)?).await,
        Attack::Tls13(leaf) => over_tls(place, tls::client(leaf.as_ref(), &[place.alpn], &TLS13)?).await,
    };
    assert!(answer.is_empty(), "{}: it answered {:?}", case.name, String::from_utf8_lossy(&answer));
    witness.saw(case.name).await
}

async fn over_tls(place: &Place, config: std::sync::Arc<rustls::ClientConfig>) -> Vec<u8> {
    let Ok(mut stream) = tls::connect(&place.address, config).await else { return Vec::new() };
    if stream.write_all(place.hello).await.is_err() {
        return Vec::new();
    }
    read_some(&mut stream).await
}

/// What comes until the end or until nothing comes any more.
async fn read_some(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(SILENCE, stream.read(&mut chunk)).await {
        answer.extend_from_slice(&chunk[..read]);
    }
    answer
}

/// Nothing died, and good calls are answered.
async fn all_goes_on(demo: &Demo) -> anyhow::Result<()> {
    for (source, uri) in [
        ("east/bank/web", "http://ledger.bank.svc.cluster.local/accounts/1"),
        ("west/bank/reporting", "http://ledger.bank.svc.clusterset.local/accounts/1"),
    ] {
        let answer = calls::through(&demo.workload(source)?.outbound, Method::GET, uri, &[], "").await?;
        assert_eq!(answer.status, 200, "{source} {uri}: {}", answer.text());
    }
    Ok(())
}

/// Not refused before the decision, but by it.
const DECIDED: &str = "";

struct BadHttp {
    name: &'static str,
    request: Vec<u8>,
    cause: &'static str,
    /// One of these answers, or none at all.
    status: &'static [&'static str],
}

fn bad_http() -> Vec<BadHttp> {
    let host = "Host: ledger.bank.svc.cluster.local\r\n";
    let case = |name, request: String, cause, status| BadHttp { name, request: request.into_bytes(), cause, status };
    let oversized = format!("GET /accounts/1 HTTP/1.1\r\n{host}X-Big: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /accounts/1 HTTP/1.1\r\n{host}{}\r\n", "X-Many: a\r\n".repeat(2_000));
    let smuggled = "0\r\n\r\nGET /accounts/1 HTTP/1.1\r\nHost: ledger.bank.svc.cluster.local\r\n\r\n";
    let post = |headers: &str| format!("POST /accounts/1/entries HTTP/1.1\r\n{host}{headers}\r\n\r\n{smuggled}");
    let length = format!("Content-Length: {}", smuggled.len());
    let chunked = "Transfer-Encoding: chunked";
    vec![
        case("garbage", "\u{1}\u{2}\u{3}garbage\r\n\r\n".to_owned(), "bad_http", &["400"]),
        case("an oversized header", oversized, "bad_http", &["431", "400"]),
        case("too many headers", many, "bad_http", &["431", "400"]),
        // RFC 9112, 6.3: the coding counts and the connection ends after the answer, here the policy's denial.
        case("length, then coding", post(&format!("{length}\r\n{chunked}")), DECIDED, &["400", "403"]),
        case("coding, then length", post(&format!("{chunked}\r\n{length}")), DECIDED, &["400", "403"]),
        case("two lengths", post(&format!("{length}\r\nContent-Length: 5")), "bad_http", &["400"]),
        case("a signed length", post("Content-Length: +5"), "bad_http", &["400"]),
        case("a coding that is not chunked", post("Transfer-Encoding: gzip"), "bad_http", &["400"]),
        case("a coding before chunked", post("Transfer-Encoding: gzip, chunked"), "transfer_coding", &["400"]),
        case(
            "two hosts",
            format!("GET /accounts/1 HTTP/1.1\r\n{host}Host: fraud.bank.svc.clusterset.local\r\n\r\n"),
            "ambiguous_host",
            &["400"],
        ),
        case(
            "an upgrade to h2c",
            format!(
                "GET /accounts/1 HTTP/1.1\r\n{host}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
            ),
            "upgrade_refused",
            &["501"],
        ),
    ]
}

async fn expect_bad_http(
    pool: &PgPool,
    place: &Place,
    case: &BadHttp,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let witness = Witness::before(pool, place, "http:parse", case.cause).await?;
    // The server may answer and close before it has read all.
    let _ = stream.write_all(&case.request).await;
    let answer = String::from_utf8_lossy(&read_some(&mut stream).await).into_owned();
    let answers: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).collect();
    assert!(answers.len() <= 1, "{}: one request, two answers: {answer}", case.name);
    if let Some(answer) = answers.first() {
        assert!(case.status.iter().any(|status| answer.starts_with(status)), "{}: {answer}", case.name);
    }
    if case.cause == DECIDED { Ok(()) } else { witness.saw(case.name).await }
}

async fn bad_http_outbound(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let web = demo.workload("east/bank/web")?;
    let place = Place {
        address: web.outbound.clone(),
        admin: web.admin.clone(),
        proxy: "spiffe://east.bank.example/ns/bank/proxy/web",
        alpn: b"",
        hello: b"",
    };
    for case in bad_http() {
        expect_bad_http(&pool, &place, &case, TcpStream::connect(&place.address).await?).await?;
    }
    all_goes_on(demo).await
}

async fn bad_http_inbound(demo: &Demo) -> anyhow::Result<()> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let place = inbound_of_ledger(demo)?;
    let leaf = Authority::of_cluster(demo, "east")?.leaf(&[EAST_ID], |_| {})?;
    for case in bad_http() {
        let stream = tls::connect(&place.address, tls::client(Some(&leaf), &[place.alpn], &TLS13)?).await?;
        expect_bad_http(&pool, &place, &case, stream).await?;
    }
    all_goes_on(demo).await
}

/// The `grpc-status` that `method` at `address` answers to one message of these bytes.
async fn grpc(address: &str, identity: &IdentitySource, method: &str, message: &[u8]) -> anyhow::Result<String> {
    let config = signet_mtls::client_config(identity, Select::Only, PeerRule::AnyKnown, &[b"h2"]);
    let stream = tls::connect(address, config).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    body.extend_from_slice(message);
    let request = Request::post(format!("http://signet/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))?;
    let asked = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let trailers = body.collect().await?.trailers().cloned().unwrap_or_default();
        let status = parts.headers.get("grpc-status").or_else(|| trailers.get("grpc-status")).cloned();
        anyhow::Ok(status.map_or_else(String::new, |status| String::from_utf8_lossy(status.as_bytes()).into_owned()))
    };
    let status = tokio::time::timeout(SOON, asked).await?;
    connection.abort();
    status
}

async fn identity_at(socket: &str) -> anyhow::Result<(IdentitySource, CancellationToken)> {
    let cancel = CancellationToken::new();
    let identity = tokio::time::timeout(SOON, IdentitySource::connect(socket, cancel.clone())).await??;
    Ok((identity, cancel))
}

async fn workload_on_apis(demo: &Demo) -> anyhow::Result<()> {
    let east = demo.cluster("east")?;
    let (web, _guard) = identity_at(&demo.workload("east/bank/web")?.workload_api).await?;
    let methods = [
        (
            &east.identity,
            "signet.identity.v1.Operator",
            &["CreateJoinToken", "ListSvids", "Invite", "Accept", "ListFederation", "WatchFederation"][..],
        ),
        (&east.identity, "signet.identity.v1.Node", &["Renew", "Watch", "Sign"]),
        (&east.control, "signet.control.v1.Discovery", &["Stream"]),
        (&east.control, "signet.control.v1.Link", &["Exports"]),
        (&east.control, "signet.control.v1.Status", &["Mesh"]),
        (&east.audit, "signet.audit.v1.Ingest", &["Stream", "PutBundle"]),
        (&east.audit, "signet.audit.v1.Access", &["Begin", "Seal"]),
    ];
    for (address, service, names) in methods {
        for name in names {
            let method = format!("{service}/{name}");
            let status = grpc(address, &web, &method, &[]).await.map_err(|error| error.context(method.clone()))?;
            assert_eq!(status, "7", "{method} for a workload");
        }
    }
    all_goes_on(demo).await
}

async fn malformed_protobuf(demo: &Demo) -> anyhow::Result<()> {
    let east = demo.cluster("east")?;
    let before = demo.endpoints_now()?.pids;
    let socket = demo.workload("east/bank/web")?.workload_api.clone();
    let (workload, _guard) = identity_at(&socket).await?;
    let (operator, _guard) = identity_at(&format!("unix:{}", east.agent_socket.display())).await?;
    // A field of type 7, and a length beyond the message.
    for message in [&[0x0f; 64][..], &[0x0a, 0xff, 0xff, 0xff, 0x7f]] {
        for (address, identity, method) in [
            (&east.audit, &workload, "signet.audit.v1.Ingest/Stream"),
            (&east.audit, &workload, "signet.audit.v1.Ingest/PutBundle"),
            (&east.audit, &operator, "signet.audit.v1.Access/Begin"),
            (&east.control, &workload, "signet.control.v1.Discovery/Stream"),
            (&east.control, &operator, "signet.control.v1.Status/Mesh"),
            (&east.identity, &operator, "signet.identity.v1.Operator/Accept"),
            (&east.identity, &workload, "signet.identity.v1.Operator/Accept"),
        ] {
            let status = grpc(address, identity, method, message).await.map_err(|error| error.context(method))?;
            assert!(!status.is_empty() && status != "0", "{method}: status {status:?} to a malformed message");
        }
    }
    for component in ["audit", "control", "identity"] {
        let key = format!("east/{component}");
        assert_eq!(demo.endpoints_now()?.pids[&key], before[&key], "{component} was started again");
        assert_eq!(calls::get(&east.admin[component], "/readyz", &[]).await?.status, 200, "{component}");
    }
    all_goes_on(demo).await
}
