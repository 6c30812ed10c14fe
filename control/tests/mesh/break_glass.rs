//! Grants for an emergency: given to those who signed enough, told to the sidecars that they concern, and gone when they end.

use std::num::NonZeroU32;
use std::process::Command;

use signet_api::control::emergency_client::EmergencyClient;
use signet_api::control::{GrantRequest, GrantStatus, RevokeRequest};
use signet_control::BreakGlassConfig;
use signet_policy_repository::{BREAK_GLASS_NAMESPACE, GrantDocument};
use tonic::{Code, Status};

use crate::SOON;
use crate::fixture::{Cluster, Proxy, Running, World, run};

const LEDGER: &str = "east.example/bank/ledger";
const WEB: &str = "spiffe://east.example/ns/bank/sa/web";

/// A cluster where alice and bob have to sign.
fn east(world: &World) -> Cluster<'_> {
    let mut east = Cluster::new(world, "east.example");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(east.file("bob")));
    let public = |name: &str| std::fs::read_to_string(east.file(name)).unwrap();
    let lines = format!("alice@example.com {}bob@example.com {}", public("key.pub"), public("bob.pub"));
    std::fs::write(east.file("emergency-signers"), lines).unwrap();
    east.break_glass = Some(BreakGlassConfig {
        trusted_signers: east.file("emergency-signers"),
        signatures: NonZeroU32::new(2).unwrap(),
        max_minutes: 60,
    });
    east
}

fn document(id: &str, seconds: i64, change: impl FnOnce(&mut GrantDocument)) -> String {
    let now = jiff::Timestamp::now().as_second();
    let at = |second| jiff::Timestamp::from_second(second).unwrap();
    let mut document = GrantDocument {
        ticket: "INC-4711".into(),
        reason: "entries were lost".into(),
        issued_at: at(now),
        until: at(now + seconds),
        ..GrantDocument::new(id, "east.example", [WEB.to_owned()].into(), [LEDGER.to_owned()].into())
    };
    change(&mut document);
    serde_json::to_string_pretty(&document).unwrap()
}

fn sign(cluster: &Cluster<'_>, key: &str, text: &str) -> String {
    let (file, signature) = (cluster.file("grant.json"), cluster.file("grant.json.sig"));
    std::fs::write(&file, text).unwrap();
    let _ = std::fs::remove_file(&signature);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-Y", "sign", "-n", BREAK_GLASS_NAMESPACE, "-f"]).arg(cluster.file(key)).arg(file);
    run(&mut command);
    std::fs::read_to_string(signature).unwrap()
}

fn signed(cluster: &Cluster<'_>, document: &str) -> GrantRequest {
    let signatures = ["key", "bob"].map(|key| sign(cluster, key, document)).into();
    GrantRequest { document: document.to_owned(), signatures }
}

async fn grant(cluster: &Running<'_>, request: GrantRequest) -> Result<GrantStatus, Status> {
    let mut client = EmergencyClient::new(cluster.channel("east.example", "signet/operator"));
    client.grant(request).await.map(tonic::Response::into_inner)
}

async fn revoke(cluster: &Running<'_>, id: &str) -> Result<GrantStatus, Status> {
    let mut client = EmergencyClient::new(cluster.channel("east.example", "signet/operator"));
    client.revoke(RevokeRequest { id: id.into(), reason: "it is mended".into() }).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_grant_reaches_whom_it_concerns_and_a_revoked_one_never_comes_back() {
    let world = World::new();
    let east = east(&world).start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let mut other = Proxy::open(&east, "ns/bank/proxy/other").await;
    for proxy in [&mut ledger, &mut other] {
        let first = proxy.next(SOON).await;
        assert!(first.break_glass.is_empty());
        proxy.ack(&first).await;
    }

    let request = signed(&east, &document("g-1", 600, |d| d.services.extend(["east.example/bank/else".to_owned()])));
    let given = grant(&east, request.clone()).await.unwrap();
    assert_eq!(given.granted_by, "spiffe://east.example/signet/operator");
    let snapshot = ledger.next(SOON).await;
    let [told] = snapshot.break_glass.as_slice() else { panic!("{:?}", snapshot.break_glass) };
    assert_eq!((told.ticket.as_str(), told.principals.as_slice()), ("INC-4711", &[WEB.to_owned()][..]));
    assert_eq!(told.services, [LEDGER], "of a grant a proxy hears what it decides about");
    assert_eq!(told.approvers, ["alice@example.com", "bob@example.com"]);
    ledger.ack(&snapshot).await;
    other.expect_silence().await;
    let status = east.status_when("the grant shows", |s| s.break_glass.len() == 1).await;
    assert_eq!(status.break_glass[0].reason, "entries were lost");
    let replayed = grant(&east, request.clone()).await.unwrap_err();
    assert!(replayed.message().starts_with("replayed"), "{replayed}");

    // A restart forgets neither what is in force nor what was.
    let east = east.stop().await.start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let snapshot = ledger.next(SOON).await;
    assert_eq!(snapshot.break_glass.len(), 1);
    ledger.ack(&snapshot).await;
    revoke(&east, "g-1").await.unwrap();
    let snapshot = ledger.next(SOON).await;
    assert!(snapshot.break_glass.is_empty());
    ledger.ack(&snapshot).await;
    assert_eq!(revoke(&east, "g-1").await.unwrap_err().code(), Code::NotFound);
    let east = east.stop().await.start().await;
    let replayed = grant(&east, request).await.unwrap_err();
    assert!(replayed.message().starts_with("replayed"), "{replayed}");
    assert!(east.status_when("a status", |_| true).await.break_glass.is_empty());

    world
        .audit()
        .until("the records", |notes| {
            let event = |action: &str, reason: &str| {
                let mut events = notes.records.iter().filter(|r| r.action == action && r.reason == reason);
                events.next().map(|r| r.detail.clone().unwrap_or_default())
            };
            let granted = event("break_glass:grant", "signed");
            let whole = granted.is_some_and(|d| d.contains(LEDGER) && d.contains("bob@example.com"));
            whole
                && event("break_glass:end", "revoked").is_some_and(|d| d.contains("it is mended"))
                && event("break_glass:refuse", "replayed").is_some()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_by_itself_and_is_recorded() {
    let world = World::new();
    let east = east(&world).start().await;
    let mut ledger = Proxy::open(&east, "ns/bank/proxy/ledger").await;
    let first = ledger.next(SOON).await;
    ledger.ack(&first).await;
    grant(&east, signed(&east, &document("g-2", 2, |_| ()))).await.unwrap();
    let snapshot = ledger.next(SOON).await;
    assert_eq!(snapshot.break_glass.len(), 1);
    ledger.ack(&snapshot).await;
    assert!(ledger.next(SOON).await.break_glass.is_empty());
    let over = |record: &signet_spool::Record| record.action == "break_glass:end" && record.reason == "over";
    world.audit().until("its end", |notes| notes.records.iter().any(over)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_signed_by_enough_for_this_scope_and_time_gives_nothing() {
    let world = World::new();
    let east = east(&world);
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(east.file("mallory")));
    let east = east.start().await;
    let good = document("g-3", 600, |_| ());
    let mut wider = signed(&east, &good);
    wider.document = wider.document.replace(LEDGER, "east.example/bank/payments");
    let mut later = signed(&east, &good);
    later.document = document("g-3", 1_200, |_| ());
    let mut once = signed(&east, &good);
    once.signatures.pop();
    let mut twice = once.clone();
    twice.signatures.extend(once.signatures.clone());
    let mut stranger = once.clone();
    stranger.signatures.push(sign(&east, "mallory", &good));
    let elsewhere = document("g-3", 600, |_| ()).replace("east.example", "west.example");
    for (request, code) in [
        (wider, "bad_signature"),
        (later, "bad_signature"),
        (once, "too_few_signatures"),
        (twice, "too_few_signatures"),
        (stranger, "untrusted_signer"),
        (signed(&east, &document("g-3", 3_601, |_| ())), "too_long"),
        (signed(&east, &document("g-3", 0, |_| ())), "over"),
        (signed(&east, &elsewhere), "other_trust_domain"),
    ] {
        let refused = grant(&east, request).await.unwrap_err();
        assert!(refused.message().starts_with(code), "{code}: {refused}");
    }
    // Who signed well may still not bring it, unless an operator does.
    for path in ["signet/ui", "ns/bank/proxy/web", "ns/bank/sa/web"] {
        let mut client = EmergencyClient::new(east.channel("east.example", path));
        let refused = client.grant(signed(&east, &good)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{path}");
    }
    assert!(east.status_when("a status", |_| true).await.break_glass.is_empty());
    // A state file gives nothing that its signatures do not.
    let east = east.stop().await;
    let forged = serde_json::json!({
        "grants": [{ "document": good, "signatures": [], "granted_at": 0, "granted_by": "nobody" }],
        "given": {},
    });
    std::fs::write(east.file("state/break-glass.json"), forged.to_string()).unwrap();
    let east = east.start().await;
    assert!(east.status_when("a status", |_| true).await.break_glass.is_empty());
    grant(&east, signed(&east, &good)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_configuration_nothing_is_granted() {
    let world = World::new();
    let mut east = east(&world);
    east.break_glass = None;
    let east = east.start().await;
    let refused = grant(&east, signed(&east, &document("g-4", 60, |_| ()))).await.unwrap_err();
    assert!(refused.message().starts_with("not_configured"), "{refused}");
}
