//! A control plane in this process, with real Git, real mutual TLS and an audit service that only takes notes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "mesh/break_glass.rs"]
mod break_glass;
#[path = "mesh/fixture.rs"]
mod fixture;

use std::time::Duration;

use fixture::{Between, Cluster, FRAUD, LEDGER, Proxy, World};
use signet_api::control::link_client::LinkClient;
use signet_api::control::{ExportsRequest, LostCalls, Report, Snapshot};
use signet_api::identity::{FederationState, Relationship};
use tokio::sync::watch;
use tonic::Code;

/// DESIGN: a file edit reaches the sidecars in under a second, a commit within two.
const FILE: Duration = Duration::from_secs(1);
const COMMIT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_file_edit_reaches_a_connected_sidecar_within_a_second() {
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let first = web.next(SOON).await;
    assert_eq!(first.trust_domain, "east.example");
    assert_eq!(first.policy.as_ref().unwrap().commit, east.head());
    web.ack(&first).await;

    for port in ["20081", "20082"] {
        east.write_manifest("ledger.yaml", &LEDGER.replace("20080", port));
        let snapshot = web.next(FILE).await;
        assert_eq!(snapshot.outbound[0].endpoints[0].address, format!("127.0.0.1:{port}"));
        assert!(snapshot.policy.unwrap().files.is_empty(), "the sidecar has this bundle already");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_commit_is_pushed_and_an_unsigned_one_is_refused_and_recorded() {
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let first = ledger.next(SOON).await;
    assert_eq!(first.inbound[0].target_port, 20080);
    ledger.ack(&first).await;

    let second = east.commit("policies/more.cedar", "@id(\"more\") forbid(principal, action, resource);\n");
    let snapshot = ledger.next(COMMIT).await;
    let bundle = snapshot.policy.clone().unwrap();
    assert_eq!(bundle.commit, second);
    assert!(bundle.files.iter().any(|file| file.path == "policies/more.cedar"));
    ledger.ack(&snapshot).await;

    let unsigned = east.commit_unsigned("policies/evil.cedar", "@id(\"evil\") permit(principal, action, resource);\n");
    let status = east.status_when("the refusal shows", |s| s.policy.as_ref().unwrap().refused_commit == unsigned).await;
    let policy = status.policy.unwrap();
    assert_eq!(policy.commit, second, "the last good policy stays");
    assert!(!policy.refused_reason.is_empty());
    ledger.expect_silence().await;

    let audit = world.audit();
    audit
        .until("both events", |notes| {
            notes.event("policy:activate", &second) && notes.event("policy:refuse", &unsigned)
        })
        .await;
    audit.until("the bundle", |notes| notes.bundles.contains(&bundle.digest)).await;
    {
        let notes = audit.notes();
        assert!(!notes.event("policy:activate", &unsigned));
        let refusals = notes.records.iter().filter(|record| record.action == "policy:refuse");
        assert_eq!(refusals.count(), 1, "one head is judged and recorded once");
    }

    // A refused head may be replaced by a good one.
    east.git(&["reset", "-q", "--hard", &second]);
    let third =
        east.commit("policies/more.cedar", "@id(\"more\") @owner(\"x\") forbid(principal, action, resource);\n");
    assert_eq!(ledger.next(COMMIT).await.policy.unwrap().commit, third);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_the_signatures_that_the_review_rules_ask_for() {
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let first = ledger.next(SOON).await;
    ledger.ack(&first).await;
    east.write_reviews("rules:\n  - paths: [policies/]\n    signatures: 2\n");
    let second = east.commit("policies/more.cedar", "@id(\"more\") forbid(principal, action, resource);\n");
    let status = east.status_when("the refusal shows", |s| s.policy.as_ref().unwrap().refused_commit == second).await;
    let policy = status.policy.unwrap();
    assert_eq!(policy.commit, first.policy.unwrap().commit, "the last good policy stays");
    assert!(policy.refused_reason.contains("needs_signatures"), "{}", policy.refused_reason);
    ledger.expect_silence().await;

    // A rule that cannot be read holds everything back, and a changed one is looked at without a restart.
    east.write_reviews("rules:\n  - paths: [nowhere]\n");
    east.status_when("the error shows", |s| s.policy.as_ref().unwrap().refused_reason.contains("reviews.yaml:2")).await;
    east.write_reviews("rules:\n  - paths: [signet.yaml]\n    signatures: 2\n");
    assert_eq!(ledger.next(SOON).await.policy.unwrap().commit, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_denies_what_was_allowed_is_taken_back_and_stays_so() {
    const CLOSED: &str = "@id(\"more\") forbid(principal, action, resource);\n";
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let snapshot = ledger.next(SOON).await;
    ledger.ack(&snapshot).await;
    let first = east.commit("signet.yaml", "version: 1\nautomatic_return: true\n");
    let snapshot = ledger.next(COMMIT).await;
    ledger.ack(&snapshot).await;
    let lost = |snapshot: &Snapshot, service: &str, calls| Report {
        kind: "sidecar".into(),
        bundle_digest: snapshot.policy.clone().unwrap().digest,
        lost: vec![LostCalls {
            principal: "spiffe://east.example/ns/bank/sa/web".into(),
            action: "http:GET".into(),
            service: service.into(),
            calls,
        }],
        ..Report::default()
    };

    // What the commit announces, and what another sidecar decides about, does not count; nor do calls up to the limit.
    let announced = "close\n\nSignet-Denies: spiffe://east.example/ns/bank/sa/web * east.example/bank/ledger\n";
    let second = east.commit_saying("policies/more.cedar", CLOSED, announced);
    let snapshot = ledger.next(COMMIT).await;
    ledger.ack(&snapshot).await;
    for report in [lost(&snapshot, "east.example/bank/ledger", 900), lost(&snapshot, "east.example/bank/other", 900)] {
        ledger.send(report).await;
    }
    let third = east.commit("policies/more.cedar", &CLOSED.replace("forbid", "@owner(\"x\") forbid"));
    let snapshot = ledger.next(COMMIT).await;
    assert_eq!(snapshot.policy.as_ref().unwrap().commit, third);
    ledger.ack(&snapshot).await;
    ledger.send(lost(&snapshot, "east.example/bank/ledger", 20)).await;
    ledger.expect_silence().await;

    // One more is too many.
    ledger.send(lost(&snapshot, "east.example/bank/ledger", 1)).await;
    let back = ledger.next(COMMIT).await;
    assert_eq!(back.policy.as_ref().unwrap().commit, second);
    ledger.ack(&back).await;
    let status = east.status_when("the return shows", |s| s.policy.as_ref().unwrap().refused_commit == third).await;
    let reason = status.policy.unwrap().refused_reason;
    assert!(reason.starts_with("returned: it denied 21 calls") && reason.contains("Signet-Denies"), "{reason}");
    world.audit().until("the record", |notes| notes.event("policy:return", &second)).await;

    // A restart does not bring it back; a commit on top of it is judged like any other.
    let east = east.stop().await.start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let snapshot = ledger.next(SOON).await;
    assert_eq!(snapshot.policy.as_ref().unwrap().commit, second);
    ledger.ack(&snapshot).await;
    ledger.expect_silence().await;
    let fourth =
        east.commit("policies/more.cedar", "@id(\"more\") @owner(\"x\") permit(principal, action, resource);\n");
    assert_eq!(ledger.next(COMMIT).await.policy.unwrap().commit, fourth);
    assert_ne!(first, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_signed_tag_is_enforced_and_the_branch_is_not() {
    let world = World::new();
    let mut east = Cluster::new(&world, "east.example");
    east.tags = Some("policy-".into());
    let first = east.head();
    east.git(&["tag", "-s", "-m", "release", "policy-1"]);
    let east = east.start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let snapshot = ledger.next(SOON).await;
    assert_eq!(snapshot.policy.as_ref().unwrap().commit, first);
    ledger.ack(&snapshot).await;

    let second = east.commit("policies/more.cedar", "@id(\"more\") forbid(principal, action, resource);\n");
    ledger.expect_silence().await;
    // Not signed, so refused; the same commit under a tag that is made anew is another matter.
    east.git(&["tag", "policy-2"]);
    let status = east.status_when("the refusal shows", |s| s.policy.as_ref().unwrap().refused_commit == second).await;
    let policy = status.policy.unwrap();
    assert!(policy.refused_reason.starts_with("unsigned") && policy.commit == first, "{policy:?}");
    east.git(&["tag", "-f", "-s", "-m", "release", "policy-2"]);
    let snapshot = ledger.next(COMMIT).await;
    assert_eq!(snapshot.policy.as_ref().unwrap().commit, second);
    ledger.ack(&snapshot).await;

    // Nothing leads back, and a restart activates nothing twice.
    east.git(&["tag", "-d", "policy-2"]);
    let refused =
        |s: &signet_api::control::MeshState| s.policy.as_ref().unwrap().refused_reason.starts_with("rewritten");
    assert_eq!(east.status_when("the refusal shows", refused).await.policy.unwrap().commit, second);
    east.git(&["tag", "-s", "-m", "release", "policy-3"]);
    let east = east.stop().await.start().await;
    let now = |s: &signet_api::control::MeshState| {
        s.policy.as_ref().is_some_and(|p| p.commit == second && p.refused_commit.is_empty())
    };
    east.status_when("it is in force", now).await;
    world.audit().until("its activation", |notes| notes.event("policy:activate", &second)).await;
    let notes = world.audit().notes();
    let activated = notes.records.iter().filter(|r| r.action == "policy:activate" && r.policy_commit == second);
    assert_eq!(activated.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_does_not_validate_is_refused() {
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let first = web.next(SOON).await;
    web.ack(&first).await;
    let bad = east
        .commit("policies/bad.cedar", "@id(\"bad\") permit(principal, action, resource) when { principal.nose };\n");
    let status = east.status_when("the refusal shows", |s| s.policy.as_ref().unwrap().refused_commit == bad).await;
    assert!(status.policy.unwrap().refused_reason.contains("policies/bad.cedar"));
    web.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_snapshot_is_shown_and_not_sent_again() {
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let first = web.next(SOON).await;
    web.nack(&first, "policies/a.cedar: cannot be compiled").await;
    let status = east.status_when("the NACK shows", |s| s.proxies.iter().any(|p| !p.last_error.is_empty())).await;
    let proxy = &status.proxies[0];
    assert_eq!(proxy.spiffe_id, "spiffe://east.example/ns/bank/proxy/web");
    assert_eq!((proxy.kind.as_str(), proxy.acked_version, proxy.connected), ("sidecar", 0, true));
    assert!(proxy.last_error.contains("cannot be compiled"));
    web.expect_silence().await;
    drop(web);
    east.status_when("the proxy is gone", |s| s.proxies.iter().all(|p| !p.connected)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_manifest_keeps_what_ran_and_says_where() {
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let first = web.next(SOON).await;
    web.ack(&first).await;
    east.write_manifest("ledger.yaml", &LEDGER.replace("port: 80}", "port: eighty}"));
    let status = east.status_when("the error shows", |s| !s.manifest_errors.is_empty()).await;
    let error = &status.manifest_errors[0];
    assert!(error.contains("ledger.yaml` line 5, document 1, field `spec.ports[0].port`"), "{error}");
    assert_eq!(status.services.len(), 1);
    web.expect_silence().await;
    east.write_manifest("ledger.yaml", LEDGER);
    east.status_when("the error is gone", |s| s.manifest_errors.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_last_good_policy_and_history_goes_forward_only() {
    let world = World::new();
    let cluster = Cluster::new(&world, "east.example");
    let east = cluster.start().await;
    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let first = web.next(SOON).await;
    let good = east.commit("policies/more.cedar", "@id(\"more\") forbid(principal, action, resource);\n");
    let snapshot = web.next(SOON).await;
    assert_eq!(snapshot.policy.unwrap().commit, good);
    assert!(snapshot.version > first.version);
    let cluster = east.stop().await;

    // The branch goes back to the commit before: signed, but not a descendant of what was accepted.
    cluster.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let back = cluster.head();
    let east = cluster.start().await;
    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let again = web.next(SOON).await;
    assert_eq!(again.policy.unwrap().commit, good);
    assert!(again.version > snapshot.version, "versions grow across restarts");
    east.status_when("going back is refused", |s| s.policy.as_ref().unwrap().refused_commit == back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_clusters_import_each_others_exports_until_the_lease_ends() {
    let world = World::new();
    let mut west = Cluster::new(&world, "west.example");
    west.lease_seconds = 3;
    west.write_manifest("ledger.yaml", FRAUD);
    let east = Cluster::new(&world, "east.example");
    let (east_addr, west_addr) = (east.reserve(), west.reserve());
    east.link_to("west.example", west_addr);
    west.link_to("east.example", east_addr);
    let (east, west) = (east.start().await, west.start().await);

    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let fraud = web.until(SOON, "fraud is imported", |s| s.outbound.iter().any(|o| o.gateway.is_some())).await;
    let fraud = fraud.outbound.iter().find(|o| o.gateway.is_some()).unwrap();
    assert_eq!(fraud.service, "west.example/bank/fraud");
    assert_eq!(fraud.gateway.as_ref().unwrap().addresses, ["127.0.0.1:15443"]);
    let mut gateway = Proxy::open(&west, "signet/gateway").await;
    assert_eq!(gateway.next(SOON).await.exported[0].service, "west.example/bank/fraud");
    let status = east.status_when("the link is up", |s| s.links.iter().any(|l| l.connected)).await;
    assert_eq!((status.links[0].services, status.links[0].trust_domain.as_str()), (1, "west.example"));

    west.stop().await;
    east.status_when("the loss shows", |s| s.links.iter().any(|l| !l.connected && l.services == 1)).await;
    web.until(SOON, "the lease ends", |s| s.outbound.iter().all(|o| o.gateway.is_none())).await;
    world.audit().until("the event", |notes| notes.records.iter().any(|r| r.reason == "lease_expired")).await;
}

/// Not a byte passes and no connection ends, as when packets are dropped on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_partition_drops_stale_exports_with_their_lease_and_heals_by_itself() {
    let world = World::new();
    let mut west = Cluster::new(&world, "west.example");
    west.lease_seconds = 3;
    west.write_manifest("ledger.yaml", FRAUD);
    let east = Cluster::new(&world, "east.example");
    let between = Between::start(west.reserve()).await;
    east.link_to("west.example", between.address);
    west.link_to("east.example", east.reserve());
    let (east, west) = (east.start().await, west.start().await);

    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let imported = |s: &Snapshot| s.outbound.iter().any(|o| o.gateway.is_some());
    web.until(SOON, "fraud is imported", imported).await;
    between.passing.send_replace(false);
    web.until(SOON, "the lease ends", |s| !imported(s)).await;
    east.status_when("the loss shows", |s| s.links.iter().any(|l| l.services == 0)).await;
    between.passing.send_replace(true);
    web.until(SOON, "fraud is imported again", imported).await;
    east.status_when("the link is up", |s| s.links.iter().any(|l| l.connected && l.services == 1)).await;
    // Nobody started anything again.
    west.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_come_and_go_with_the_identity_servers_relationships() {
    let world = World::new();
    let west = Relationship {
        trust_domain: "west.example".into(),
        gateway: "127.0.0.1:15443".into(),
        control: "127.0.0.1:1".into(),
        ..Relationship::default()
    };
    let (tell, states) = watch::channel(FederationState::default());
    let east = Cluster::new(&world, "east.example").with_identity_server(states).await.start().await;
    tell.send(FederationState { relationships: vec![west] }).unwrap();
    let status = east.status_when("the link shows", |s| !s.links.is_empty()).await;
    assert_eq!((status.links[0].trust_domain.as_str(), status.links[0].connected), ("west.example", false));
    east.status_when("the failure shows", |s| s.links[0].error.contains("Unavailable")).await;
    tell.send(FederationState::default()).unwrap();
    east.status_when("the link is gone", |s| s.links.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_the_table_does_not_name_are_refused() {
    let world = World::new();
    let east = Cluster::new(&world, "east.example").start().await;
    for (domain, path) in
        [("east.example", "ns/bank/sa/web"), ("west.example", "ns/bank/proxy/web"), ("east.example", "signet/control")]
    {
        let refused = Proxy::try_open(&east, domain, path).await.err().map(|status| status.code());
        assert_eq!(refused, Some(Code::PermissionDenied), "{domain} {path}");
    }
    // West is not linked, so even its control plane learns nothing.
    let mut link = LinkClient::new(east.channel("west.example", "signet/control"));
    let refused = link.exports(ExportsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = east.try_status("east.example", "ns/bank/proxy/web").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "not authorised"));
    assert!(east.metric("signet_control_calls_refused_total{reason=\"Discovery/Stream\"}").await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_metrics_tell_what_is_known() {
    let world = World::new();
    let cluster = Cluster::new(&world, "east.example");
    cluster.git(&["checkout", "-q", "-b", "elsewhere"]);
    cluster.git(&["branch", "-q", "-D", "main"]);
    let east = cluster.start().await;
    let (code, body) = east.admin("/readyz").await;
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("policy"), "{body}");
    east.git(&["branch", "-q", "main", "elsewhere"]);
    east.until_ready().await;
    let mut web = Proxy::open(&east, "ns/bank/proxy/web").await;
    let snapshot = web.next(SOON).await;
    web.send(Report { version: snapshot.version, kind: "sidecar".into(), ..Report::default() }).await;
    assert!(east.metric("signet_control_connected_proxies{kind=\"sidecar\"}").await >= 1.0);
    assert!(east.metric("signet_control_snapshot_version").await > 0.0);
}
