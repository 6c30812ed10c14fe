//! Reading is a record: who may say that it reads, what is committed, and what is signed.

use signet_api::audit::access_client::AccessClient;
use signet_api::audit::{BeginRequest, EndRequest, SealRequest};
use signet_audit::note::{Statement, StatementKind};
use signet_audit::testing::Postgres;
use tonic::Code;
use uuid::Uuid;

use crate::fixture::{Service, WEB};

const OPERATOR: &str = "spiffe://east.bank.example/signet/operator";

fn begin(purpose: &str, detail: &str) -> BeginRequest {
    BeginRequest {
        purpose: purpose.to_owned(),
        detail: detail.to_owned(),
        on_behalf_of: "alice".to_owned(),
        records: None,
    }
}

fn end(access_id: &str, records: u64) -> EndRequest {
    let (access_id, purpose) = (access_id.to_owned(), "tail".to_owned());
    EndRequest { access_id, purpose, records, on_behalf_of: "alice".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_records_were_read_is_recorded_with_the_answer_or_at_the_end() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let mut access = AccessClient::new(service.channel(OPERATOR));
    access.begin(BeginRequest { records: Some(3), ..begin("query", r#"{"limit":3}"#) }).await.unwrap();
    let begun = access.begin(begin("tail", "")).await.unwrap().into_inner().access_id;
    access.end(end(&begun, 70_000)).await.unwrap();
    let told: Vec<(String, serde_json::Value)> =
        [service.events("audit:query").await, service.events("audit:tail").await]
            .concat()
            .into_iter()
            .map(|event| (event.reason, serde_json::from_str(&event.detail.unwrap()).unwrap()))
            .collect();
    let said: Vec<(&str, &serde_json::Value)> =
        told.iter().map(|(reason, detail)| (reason.as_str(), &detail["records"])).collect();
    // Newest first.
    assert_eq!(said, [("answered", &3.into()), ("ended", &70_000.into()), ("began", &serde_json::Value::Null)]);
    assert_eq!(told[1].1["access"], begun);
    assert!(told.iter().all(|(_, detail)| detail["on_behalf_of"] == "alice"));

    let refused = access.end(end("x", 1)).await.expect_err("no access");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut stranger = AccessClient::new(service.channel(WEB));
    assert_eq!(stranger.end(end(&begun, 1)).await.expect_err("a stranger").code(), Code::PermissionDenied);
    let verification = service.verify_at(3).await;
    assert!(verification.holds(), "{:?}", verification.problems);
    assert_eq!(verification.records, 3, "reading what was read adds nothing");
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_is_committed_before_it_is_answered_and_what_left_is_signed_for() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    let mut access = AccessClient::new(service.channel(OPERATOR));
    let begun = access.begin(begin("export", r#"{"format":"csv"}"#)).await.unwrap().into_inner();
    let events = service.events("audit:export").await;
    assert_eq!(events.len(), 1, "committed before the answer");
    assert_eq!(events[0].event_id.to_string(), begun.access_id);

    let seal = SealRequest {
        access_id: begun.access_id.clone(),
        kind: "export".to_owned(),
        manifest_sha256: vec![5; 32],
        records: 17,
        on_behalf_of: String::new(),
    };
    let sealed = access.seal(seal.clone()).await.unwrap().into_inner();
    service.key().check_statement(&sealed.note, &Statement::new(StatementKind::Export, [5; 32])).unwrap();
    assert!(service.key().check_statement(&sealed.note, &Statement::new(StatementKind::Export, [6; 32])).is_err());
    assert!(service.key().open_checkpoint(&sealed.note).is_err(), "a statement is no checkpoint");
    assert_eq!(service.events("audit:export").await.len(), 2);

    for (what, request) in [
        ("a purpose that there is not", begin("fun", "{}")),
        ("no JSON", begin("export", "{")),
        ("control characters", begin("export", "{\n}")),
        ("too long", begin("export", &format!("\"{}\"", "a".repeat(3_000)))),
    ] {
        let refused = access.begin(request).await.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}");
    }
    for (what, request) in [
        ("a checkpoint", SealRequest { kind: "checkpoint".to_owned(), ..seal.clone() }),
        ("a short digest", SealRequest { manifest_sha256: vec![5; 31], ..seal.clone() }),
        ("no access", SealRequest { access_id: "x".to_owned(), ..seal }),
    ] {
        assert_eq!(access.seal(request).await.expect_err(what).code(), Code::InvalidArgument, "{what}");
    }
    let verification = service.verify_at(2).await;
    assert!(verification.holds(), "{:?}", verification.problems);
    assert_eq!(verification.records, 2, "what was refused left no record");
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_read_for_people_are_answered() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&postgres, directory.path()).await;
    for id in [WEB, "spiffe://east.bank.example/ns/bank/sa/web", "spiffe://east.bank.example/signet/gateway"] {
        let mut access = AccessClient::new(service.channel(id));
        let refused = access.begin(begin("query", "")).await.expect_err(id);
        assert_eq!(refused.code(), Code::PermissionDenied, "{id}");
        let seal = SealRequest {
            access_id: Uuid::now_v7().to_string(),
            kind: "export".to_owned(),
            manifest_sha256: vec![5; 32],
            ..SealRequest::default()
        };
        assert_eq!(access.seal(seal).await.expect_err(id).code(), Code::PermissionDenied, "{id}");
    }
    assert_eq!(service.events("audit:query").await.len(), 0);
    service.stop(true).await;
}
