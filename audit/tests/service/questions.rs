//! What can be asked, and the answers.

use signet_api::audit::ingest_client::IngestClient;
use signet_api::audit::{BundleFile, PutBundleRequest};
use signet_audit::query::{self, Filter, TailCursor};
use signet_audit::testing::Postgres;
use signet_audit::why::{self, Verdict};
use signet_policy::BundleSource;
use signet_spool::{Kind, Record};
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, entries, entry, record};

#[tokio::test(flavor = "multi_thread")]
async fn the_view_decisions_has_exactly_the_promised_columns() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT column_name::text, udt_name::text FROM information_schema.columns
         WHERE table_schema = 'signet' AND table_name = 'decisions' ORDER BY ordinal_position",
    )
    .fetch_all(&service.pool)
    .await
    .unwrap();
    let columns: Vec<(&str, &str)> = columns.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    assert_eq!(
        columns,
        [
            ("decision_id", "uuid"),
            ("time", "timestamptz"),
            ("log", "text"),
            ("proxy", "text"),
            ("source_spiffe_id", "text"),
            ("destination_spiffe_id", "text"),
            ("destination_service", "text"),
            ("action", "text"),
            ("path", "text"),
            ("decision", "text"),
            ("enforcement", "text"),
            ("policy_ids", "_text"),
            ("policy_commit", "text"),
            ("bundle_digest", "text"),
            ("reason", "text"),
            ("source_address", "text"),
            ("tls", "text"),
            ("trace_id", "text"),
            ("latency_us", "int8"),
        ]
    );
    // Any new connection finds it without a schema.
    let plain = sqlx::PgPool::connect(&postgres.dsn()).await.unwrap();
    let none: i64 = sqlx::query_scalar("SELECT count(*) FROM decisions").fetch_one(&plain).await.unwrap();
    assert_eq!(none, 0);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_tails_and_filters_find_each_row_once() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let pool = &service.pool;
    let mut producer = service.producer(WEB).await.unwrap();
    let epoch = Uuid::now_v7();
    producer.send(batch(epoch, 1, entries(1..=25))).await;
    let mut cursor = TailCursor::now(pool).await.unwrap();
    let mut denied = record(WEB, 26);
    denied.allow = false;
    denied.reason = "no_permit".to_owned();
    denied.policy_ids.clear();
    denied.source_spiffe_id = None;
    denied.tls = "none".to_owned();
    denied.trace_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
    denied.personal_path = true;
    denied.shadow = Some((true, vec!["soon".into()]));
    let event = Record {
        kind: Kind::Event,
        action: "bundle:activated".to_owned(),
        detail: Some("{\"a\":1}".to_owned()),
        ..record(WEB, 27)
    };
    let mut refusal = record(WEB, 28);
    (refusal.kind, refusal.allow, refusal.count, refusal.reason) = (Kind::Refusal, false, 7, "expired".to_owned());
    producer.send(batch(epoch, 26, [&denied, &event, &refusal].map(entry).to_vec())).await;

    let new = query::tail(pool, &Filter::default(), &mut cursor, 100).await.unwrap();
    assert_eq!(new.iter().map(|row| row.decision_id).collect::<Vec<_>>(), [denied.id, refusal.id]);
    assert!(query::tail(pool, &Filter::default(), &mut cursor, 100).await.unwrap().is_empty());

    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = query::decisions(pool, &Filter::default(), after.as_deref(), 10).await.unwrap();
        seen.extend(page.rows.iter().map(|row| row.decision_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 27);
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 27);

    let count = async |filter: Filter| query::decisions(pool, &filter, None, 100).await.unwrap().rows.len();
    assert_eq!(count(Filter { allow: Some(false), ..Filter::default() }).await, 2);
    assert_eq!(count(Filter { policy: Some("ledger-read".to_owned()), ..Filter::default() }).await, 26);
    assert_eq!(count(Filter { trace_id: denied.trace_id.clone(), ..Filter::default() }).await, 1);
    assert_eq!(count(Filter { service: Some("nowhere".to_owned()), ..Filter::default() }).await, 0);
    let named = |value: &str| Some(value.to_owned());
    for (filter, found) in [
        (Filter { log: named(&service.config.origin()), ..Filter::default() }, 27),
        (Filter { log: named("nowhere"), ..Filter::default() }, 0),
        (Filter { action: named(&denied.action), reason: named(&denied.reason), ..Filter::default() }, 1),
        (Filter { action: named("http:BREW"), ..Filter::default() }, 0),
        (Filter { commit: named(&denied.policy_commit), allow: Some(false), ..Filter::default() }, 2),
        (Filter { destination: denied.destination_spiffe_id.clone(), ..Filter::default() }, 27),
        (Filter { trace_id: named("not a trace id"), ..Filter::default() }, 0),
    ] {
        assert_eq!(count(filter.clone()).await, found, "{filter:?}");
    }
    assert_eq!(
        count(Filter { from_us: Some(denied.time_us), to_us: Some(denied.time_us + 1), ..Filter::default() }).await,
        1
    );
    assert_eq!(service.events("bundle:activated").await[0].detail, event.detail);

    let log = query::logs(pool).await.unwrap().remove(0).origin;
    assert_eq!(query::first_since(pool, &log, i64::MIN).await.unwrap(), Some(0));
    assert_eq!(query::first_since(pool, &log, denied.time_us).await.unwrap(), Some(25));
    assert_eq!(query::first_since(pool, &log, i64::MAX).await.unwrap(), None);
    assert_eq!(query::first_since(pool, "nowhere.example/signet-log", 0).await.unwrap(), None);

    let full = query::by_id(pool, denied.id).await.unwrap().unwrap();
    assert_eq!((&full.record, full.sequence), (&denied, 26));
    assert_eq!(full.row.source_address, denied.source_address);
    assert_eq!(full.row.path, denied.path);
    assert_eq!(full.row.shadow_policy_ids.as_deref(), Some(&["soon".to_owned()][..]));
    assert!(query::by_id(pool, Uuid::nil()).await.unwrap().is_none());

    // Erasing a personal value leaves the log whole.
    let erase = "SELECT signet.erase($1, 25)";
    for _ in 0..2 {
        let found: bool = sqlx::query_scalar(erase).bind(service.config.origin()).fetch_one(pool).await.unwrap();
        assert!(found, "and again: there is nothing left to erase");
    }
    let erased = query::by_id(pool, denied.id).await.unwrap().unwrap();
    assert!(erased.row.source_address.is_none() && erased.row.path.is_none() && !erased.record.erased.is_empty());
    assert!(service.verify_at(28).await.holds());

    let posture = query::posture(pool, 600).await.unwrap();
    assert_eq!((posture[0].decisions, posture[0].allowed, posture[0].denied, posture[0].refusals), (33, 25, 8, 7));
    assert_eq!((posture[0].allowed_encrypted, posture[0].cross_cluster), (25, 0));
    assert_eq!(posture[0].policy_commit.as_deref(), Some("0123456789abcdef0123456789abcdef01234567"));
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_computed_again_and_a_changed_one_disagrees() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let policy = r#"
@id("ledger-read")
permit (
    principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
    action in [Mesh::Action::"read"],
    resource in Mesh::Service::"east.bank.example/bank/ledger"
);
"#;
    let source = BundleSource {
        commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        signer: "alice@bank.example".to_owned(),
        files: [
            ("signet.yaml".to_owned(), "version: 1\n".to_owned()),
            ("policies/ledger.cedar".to_owned(), policy.to_owned()),
        ]
        .into(),
    };
    let digest = source.digest();
    let request = PutBundleRequest {
        commit: source.commit.clone(),
        digest: digest.clone(),
        signer: source.signer.clone(),
        files: source.files.into_iter().map(|(path, content)| BundleFile { path, content }).collect(),
    };
    let control = service.channel("spiffe://east.bank.example/signet/control");
    IngestClient::new(control).put_bundle(request).await.unwrap();

    let mut allowed = record(WEB, 1);
    allowed.bundle_digest = digest.clone();
    let mut denied = Record { action: "http:POST".to_owned(), allow: false, ..record(WEB, 2) };
    denied.bundle_digest = digest;
    denied.policy_ids.clear();
    denied.reason = "no_permit".to_owned();
    let mut lie = Record { allow: true, reason: "permitted".to_owned(), id: Uuid::now_v7(), ..denied.clone() };
    lie.policy_ids = vec!["ledger-read".into()];
    let unknown = record(WEB, 3);
    let mut refusal = record(WEB, 4);
    (refusal.kind, refusal.allow, refusal.count, refusal.reason) = (Kind::Refusal, false, 3, "expired".to_owned());
    refusal.bundle_digest.clear();
    let all = [&allowed, &denied, &lie, &unknown, &refusal].map(entry).to_vec();
    service.producer(WEB).await.unwrap().send(batch(Uuid::now_v7(), 1, all)).await;

    let explain = async |id| why::explain(&service.pool, id).await.unwrap().unwrap();
    let why = explain(allowed.id).await;
    assert_eq!(why.verdict, Verdict::Agrees, "{}", why.explanation);
    assert_eq!(
        (why.determining[0].id.as_str(), why.determining[0].path.as_str()),
        ("ledger-read", "policies/ledger.cedar")
    );
    assert_eq!(why.signer.as_deref(), Some("alice@bank.example"));
    let why = explain(denied.id).await;
    assert_eq!(why.verdict, Verdict::Agrees, "{}", why.explanation);
    assert_eq!(why.nearest[0].policy.id, "ledger-read");
    assert!(why.nearest[0].failed[0].text.contains("action"), "{:?}", why.nearest);
    assert!(matches!(explain(lie.id).await.verdict, Verdict::Disagrees { .. }));
    assert!(matches!(explain(unknown.id).await.verdict, Verdict::NotRecomputable { .. }));
    let why = explain(refusal.id).await;
    assert!(matches!(why.verdict, Verdict::NotRecomputable { .. }));
    assert!(why.explanation.contains("expired"), "{}", why.explanation);
    assert!(why::explain(&service.pool, Uuid::nil()).await.unwrap().is_none());
    service.stop(true).await;
}
