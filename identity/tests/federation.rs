//! Two servers, linked by one invite each way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use signet_api::identity::{AcceptRequest, InviteRequest, ListFederationRequest, Relationship, UnlinkRequest};
use support::{Cluster, WITHIN, entry, eventually, until};
use tonic::Code;

const EAST: &str = "east.bank.example";
const WEST: &str = "west.bank.example";
const FEDERATION: &str = "federation: {minimum_refresh_seconds: 1, advertise_gateway: '127.0.0.1:9000'}\n";

async fn cluster(name: &'static str) -> Cluster {
    Cluster::start(name, &entry(name, "/ns/bank/sa/web", "unix:socket:web"), FEDERATION).await
}

async fn invite(cluster: &Cluster) -> (String, String) {
    let answer = cluster.operator().await.invite(InviteRequest { ttl_seconds: 600 }).await.unwrap().into_inner();
    (answer.invite, answer.fingerprint)
}

async fn relationship(cluster: &Cluster) -> Relationship {
    let state = cluster.operator().await.list_federation(ListFederationRequest {}).await.unwrap().into_inner();
    state.relationships.into_iter().next().expect("a relationship")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_fetch_each_others_bundles_and_workloads_get_both() {
    let (mut east, mut west) = (cluster(EAST).await, cluster(WEST).await);
    let mut watch = east.operator().await.watch_federation(ListFederationRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().relationships.is_empty());
    for (from, to) in [(&east, &west), (&west, &east)] {
        let (text, fingerprint) = invite(from).await;
        assert_eq!(signet_identity::invite::fingerprint(&text).unwrap(), fingerprint);
        let accepted = to.operator().await.accept(AcceptRequest { invite: text }).await.unwrap().into_inner();
        assert_eq!(accepted.fingerprint, fingerprint);
        let linked = accepted.relationship.unwrap();
        assert_eq!((linked.trust_domain.as_str(), linked.gateway.as_str()), (from.name, "127.0.0.1:9000"));
    }
    let told = tokio::time::timeout(WITHIN, watch.message()).await.expect("a message").unwrap().unwrap();
    assert_eq!(told.relationships[0].trust_domain, WEST);
    for cluster in [&east, &west] {
        eventually("fetch of the other's bundle", async || {
            let seen = relationship(cluster).await;
            seen.last_refresh > 0 && seen.last_error.is_empty() && seen.authorities == 1
        })
        .await;
    }
    east.write_token().await;
    east.start_agent().await;
    eventually("socket", async || support::exists(&east.path("w/web.sock"))).await;
    let source = east.source("w/web.sock").await;
    let both = until(&source, "both bundles", |identity| identity.bundles.len() == 2).await;
    assert_ne!(both.bundles.values().next(), both.bundles.values().nth(1));

    // A dead partner shows, and blocks nobody here.
    west.stop_server().await;
    eventually("failure of the refresh", async || !relationship(&east).await.last_error.is_empty()).await;
    east.stop_agent().await;
    east.start_agent().await;
    eventually("socket", async || support::exists(&east.path("w/web.sock"))).await;
    let source = east.source("w/web.sock").await;
    until(&source, "both bundles", |identity| identity.bundles.len() == 2).await;
    // And the link survives a restart of this side.
    east.stop_server().await;
    east.start_server(FEDERATION, "127.0.0.1:0").await;
    assert_eq!(relationship(&east).await.trust_domain, WEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlinked_trust_domain_is_withdrawn_from_workloads_at_once() {
    let (mut east, west) = (cluster(EAST).await, cluster(WEST).await);
    let (text, _) = invite(&west).await;
    east.operator().await.accept(AcceptRequest { invite: text }).await.unwrap();
    east.write_token().await;
    east.start_agent().await;
    eventually("socket", async || support::exists(&east.path("w/web.sock"))).await;
    let source = east.source("w/web.sock").await;
    until(&source, "both bundles", |identity| identity.bundles.len() == 2).await;

    let unlink = async |name: &str| {
        let request = UnlinkRequest { trust_domain: name.to_owned() };
        east.operator().await.unlink(request).await.map_err(|status| status.code())
    };
    assert_eq!(unlink("West!").await.unwrap_err(), Code::InvalidArgument);
    assert_eq!(unlink("north.bank.example").await.unwrap_err(), Code::NotFound);
    assert_eq!(unlink(WEST).await.unwrap().into_inner().relationship.unwrap().trust_domain, WEST);
    let left = until(&source, "the own bundle alone", |identity| identity.bundles.len() == 1).await;
    assert!(left.bundles.contains_key(&EAST.parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_invites_name_the_field_and_change_nothing() {
    let (east, west) = (cluster(EAST).await, cluster(WEST).await);
    let (own, _) = invite(&east).await;
    let (text, _) = invite(&west).await;
    let accept = async |text: String| {
        let status = east.operator().await.accept(AcceptRequest { invite: text }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    };
    assert!(accept(own).await.contains("`trust_domain`"));
    assert!(accept("hello".into()).await.contains("line 1"));
    let mut lines: Vec<&str> = text.lines().collect();
    lines.remove(2);
    let message = accept(lines.join("\n")).await;
    assert!(message.contains("invite"), "{message}");
    let state = east.operator().await.list_federation(ListFederationRequest {}).await.unwrap().into_inner();
    assert!(state.relationships.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_not_the_partner_is_not_believed() {
    // Under west's name but with another root: what an attacker on the path would run.
    let (east, west, impostor) = (cluster(EAST).await, cluster(WEST).await, cluster(WEST).await);
    let (text, _) = invite(&west).await;
    let genuine = signet_identity::invite::parse(&text, i64::MAX / 2).unwrap_err();
    assert!(genuine.to_string().contains("expires_at"), "parsed up to its life");
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs());
    let invite = signet_identity::invite::parse(&text, now.unwrap()).unwrap();
    let endpoint = impostor.server.as_ref().unwrap().0.bundle_endpoint;
    let relationship = signet_identity::federation::Relationship {
        bundle_endpoint_url: format!("https://{endpoint}/").parse().unwrap(),
        bundle_endpoint_spiffe_id: invite.bundle_endpoint_spiffe_id.clone(),
        gateway: String::new(),
        control: String::new(),
        accepted_at: 0,
        fingerprint: String::new(),
        bundle: invite.bundle.clone(),
        last_refresh: 0,
        last_error: String::new(),
    };
    let error = signet_identity::fetch::fetch(&relationship).await.unwrap_err();
    assert!(signet_observe::error_chain(&error).contains("wrong_trust_domain_root"), "{error:?}");
    // The real one is believed, unless somebody else is expected there.
    let mut genuine =
        signet_identity::federation::Relationship { bundle_endpoint_url: invite.bundle_endpoint_url, ..relationship };
    assert_eq!(signet_identity::fetch::fetch(&genuine).await.unwrap(), invite.bundle);
    genuine.bundle_endpoint_spiffe_id = format!("spiffe://{WEST}/signet/other").parse().unwrap();
    assert!(signet_identity::fetch::fetch(&genuine).await.is_err());
    drop(east);
}
