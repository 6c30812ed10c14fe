//! Every method x {anonymous, wrong identity} over real connections, from the one table that a method must be in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rcgen::KeyPair;
use signet_identity::{
    ca::{Authority, subject_key},
    server::access::{Role, TABLE},
    store::DataDir,
};
use signet_mtls::{IdentityMaterial, IdentitySource, PeerRule, Select, Svid, alpn, grpc};
use support::Cluster;
use tonic::{Code, client::Grpc, transport::Channel};

const TD: &str = "east.bank.example";

struct Callers {
    address: String,
    authority: Authority,
    roots: BTreeMap<signet_mtls::TrustDomain, Vec<rustls_pki_types::CertificateDer<'static>>>,
}

impl Callers {
    /// A channel of `path` (none: anonymous), with an SVID that the cluster's own root stands behind.
    fn channel(&self, path: Option<&str>) -> Channel {
        let svids = path.map(|path| {
            let key = KeyPair::generate().unwrap();
            let id = format!("spiffe://{TD}{path}").parse().unwrap();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let now = i64::try_from(now).unwrap();
            let minted = self.authority.sign(&id, &subject_key(&key).unwrap(), Duration::from_secs(60), now).unwrap();
            Svid::new(minted.chain, key.serialize_der(), "").unwrap()
        });
        let material = IdentityMaterial { svids: svids.into_iter().collect(), bundles: self.roots.clone() };
        let source = IdentitySource::fixed(material);
        let tls = signet_mtls::client_config(&source, Select::Only, PeerRule::AnyKnown, &[alpn::GRPC]);
        grpc::channel(&self.address, tls)
    }

    /// What a call with an empty message is answered with. An empty message reads as the default of any message.
    async fn call(&self, path: Option<&str>, method: &'static str) -> Code {
        let mut client = Grpc::new(self.channel(path));
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let method = http::uri::PathAndQuery::from_static(method);
        let answer = client.server_streaming(tonic::Request::new(()), method, codec).await;
        match answer {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    }
}

async fn callers() -> (Cluster, Callers) {
    let mut cluster = Cluster::start(TD, "", "").await;
    cluster.stop_server().await;
    let dir = DataDir::open(&cluster.path("server")).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let life = Duration::from_secs(3600);
    let authority = Authority::open(&dir, TD.parse().unwrap(), life, i64::try_from(now).unwrap()).unwrap();
    drop(dir);
    cluster.start_server("", "127.0.0.1:0").await;
    let roots = BTreeMap::from([(TD.parse().unwrap(), authority.roots())]);
    let address = cluster.listen();
    (cluster, Callers { address, authority, roots })
}

fn path_of(role: Role) -> Option<Option<String>> {
    match role {
        Role::Anonymous => Some(None),
        Role::Agent => Some(Some("/signet/agent/one".into())),
        Role::Component(name) => Some(Some(format!("/signet/{name}"))),
        Role::LocalOperator => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_method_lets_in_whom_the_table_names_and_nobody_else() {
    let (_cluster, callers) = callers().await;
    let everyone = [
        None,
        Some("/signet/agent/one"),
        Some("/signet/agent/one/two"),
        Some("/signet/agent"),
        Some("/signet/operator"),
        Some("/signet/ui"),
        Some("/signet/control"),
        Some("/signet/gateway"),
        Some("/signet/audit"),
        Some("/signet/identity"),
        Some("/ns/bank/sa/web"),
        Some("/ns/signet/proxy/operator"),
    ];
    for (method, roles) in TABLE {
        let allowed: Vec<Option<String>> = roles.iter().filter_map(|role| path_of(*role)).collect();
        for caller in everyone {
            let code = callers.call(caller, method).await;
            if allowed.contains(&caller.map(ToOwned::to_owned)) {
                // Past the guard: an empty token is refused by the service itself.
                let by_service = matches!(code, Code::Ok | Code::InvalidArgument);
                assert!(by_service, "{method} should let {caller:?} in, it said {code:?}");
            } else {
                let expected = if caller.is_none() { Code::Unauthenticated } else { Code::PermissionDenied };
                assert_eq!(code, expected, "{method} called by {caller:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_is_not_in_the_table_is_refused_to_everyone() {
    let (_cluster, callers) = callers().await;
    for method in ["/signet.identity.v1.Operator/NoSuch", "/signet.identity.v1.Node/NoSuch"] {
        assert_eq!(callers.call(Some("/signet/operator"), method).await, Code::PermissionDenied);
    }
}

#[test]
fn the_table_has_every_method_of_the_contract() {
    let contract = include_str!("../../api/proto/signet/identity.proto");
    let mut service = "";
    let mut methods = Vec::new();
    for line in contract.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("service ") {
            service = rest.split(' ').next().unwrap();
        } else if let Some(rest) = line.strip_prefix("rpc ") {
            methods.push(format!("/signet.identity.v1.{service}/{}", rest.split('(').next().unwrap()));
        }
    }
    assert!(methods.len() >= 10);
    let listed: Vec<String> = TABLE.iter().map(|(method, _)| (*method).to_owned()).collect();
    assert_eq!(listed, methods);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_trust_domains_operator_cannot_even_connect() {
    let (cluster, callers) = callers().await;
    let ca = signet_mtls::testing::Ca::new("west.bank.example");
    let operator = signet_mtls::testing::id("spiffe://west.bank.example/signet/operator");
    let mut material = signet_mtls::testing::material(&[&ca], &[operator]);
    material.bundles.extend(callers.roots.clone());
    let source = IdentitySource::fixed(material);
    let tls: Arc<_> = signet_mtls::client_config(&source, Select::Only, PeerRule::AnyKnown, &[alpn::GRPC]);
    let mut client = signet_api::identity::operator_client::OperatorClient::new(grpc::channel(&callers.address, tls));
    let refused = client.list_svids(signet_api::identity::ListSvidsRequest {}).await.unwrap_err();
    assert!(matches!(refused.code(), Code::Unavailable | Code::Cancelled | Code::Unknown), "{refused}");
    // The client may hear of it before the server has counted it.
    support::eventually("count of the refusal", async || {
        cluster.metric("signet_identity_handshakes_refused_total").await == "1"
    })
    .await;
}
