//! Break-glass grants at a sidecar: what they open, what is recorded, and what ends with them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signet_api::control as wire;
use signet_proxy::snapshot::Protocol;
use signet_proxy::snapshot::break_glass::{Grant, grants};
use signet_spool::Record;
use tokio::io::AsyncReadExt as _;

use crate::apps;
use crate::harness::{HOST, Pair, SERVICE, bundle, call, header, status};
use crate::tcp::connect;

const WEB: &str = "spiffe://east.bank.example/ns/bank/sa/web";
/// In an emergency only; what else may be is not asked here.
const EMERGENCY: &str = r#"
@id("emergency")
permit(principal, action, resource) when { context has break_glass && context.break_glass.ticket like "INC-*" };
"#;
/// Nobody, whatever is granted: policies decide, not grants.
const NOBODY: &str = r#"@id("nobody") forbid(principal, action, resource);"#;

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn grant(id: &str, principal: &str, service: &str, until: i64) -> Arc<Grant> {
    let wire = wire::BreakGlass {
        id: id.to_owned(),
        principals: vec![principal.to_owned()],
        services: vec![service.to_owned()],
        ticket: "INC-4711".to_owned(),
        approvers: vec!["alice@bank.example".to_owned(), "bob@bank.example".to_owned()],
        until,
    };
    grants(&[wire]).unwrap().remove(0)
}

/// Calls until one is answered like this: every change of a snapshot takes its moment.
async fn until(pair: &Pair, wanted: u16) -> String {
    let asked = async {
        loop {
            let answer = call(pair.outbound, "GET", &format!("http://{HOST}/accounts/1"), "").await;
            if status(&answer) == wanted {
                return answer;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap_or_else(|_| panic!("no {wanted} in 10 s"))
}

/// The record of the first call that is denied from now on.
async fn denied(pair: &Pair) -> Record {
    let answer = until(pair, 403).await;
    pair.ledger.audit.decision(header(&answer, "x-signet-decision").unwrap()).await
}

/// The record of a call that is allowed by a grant under `commit`.
async fn allowed(pair: &Pair, commit: char) -> Record {
    until(pair, 200).await;
    let by_grant =
        |r: &Record| r.allow && r.policy_commit.starts_with(commit) && value(r, "break_glass.grant").is_some();
    pair.ledger.audit.record("the allowed call", by_grant).await
}

fn value<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    record.context.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_opens_what_policies_hold_back_until_its_end_and_every_record_says_so() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    pair.change(|s| s.bundle = Some(bundle(EMERGENCY, 'b')));
    let record = denied(&pair).await;
    assert_eq!((record.reason.as_str(), value(&record, "break_glass.grant")), ("no_permit", None));

    // Another caller's, another service's and one that is over open nothing.
    pair.change(|s| {
        s.break_glass = vec![
            grant("g-app", "spiffe://east.bank.example/ns/bank/sa/app", SERVICE, now() + 600),
            grant("g-else", WEB, "east.bank.example/bank/payments", now() + 600),
            grant("g-over", WEB, SERVICE, now()),
        ];
        // So that it can be seen that all of this was taken over.
        s.bundle = Some(bundle(EMERGENCY, 'c'));
    });
    let record = loop {
        let record = denied(&pair).await;
        if record.policy_commit.starts_with('c') {
            break record;
        }
    };
    assert_eq!(value(&record, "break_glass.grant"), None);

    let until_second = now() + 3;
    pair.change(|s| s.break_glass = vec![grant("g-1", WEB, SERVICE, until_second)]);
    let record = allowed(&pair, 'c').await;
    assert_eq!(record.policy_ids.iter().map(|id| &**id).collect::<Vec<_>>(), ["emergency"]);
    assert_eq!(value(&record, "break_glass.grant"), Some("g-1"));
    assert_eq!(value(&record, "break_glass.ticket"), Some("INC-4711"));
    assert_eq!(value(&record, "break_glass.approvers"), Some(r#"["alice@bank.example","bob@bank.example"]"#));
    assert_eq!(value(&record, "break_glass.until_us"), Some(format!("{}", until_second * 1_000_000).as_str()));
    let detail = record.detail.unwrap();
    assert!(detail.contains("grant g-1 for INC-4711") && detail.ends_with("without it: deny (no_permit)"), "{detail}");

    // Nobody says that it is over: the snapshot still has it.
    let record = denied(&pair).await;
    assert!(now() >= until_second);
    assert_eq!((record.reason.as_str(), value(&record, "break_glass.grant")), ("no_permit", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_does_not_open_what_policies_forbid_and_is_gone_when_it_is_revoked() {
    let (app, _) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    pair.change(|s| {
        s.bundle = Some(bundle(EMERGENCY, 'b'));
        s.break_glass = vec![grant("g-1", WEB, SERVICE, now() + 600)];
    });
    let record = allowed(&pair, 'b').await;
    assert_eq!(value(&record, "break_glass.grant"), Some("g-1"));
    pair.change(|s| s.bundle = Some(bundle(&format!("{EMERGENCY}{NOBODY}"), 'c')));
    let record = denied(&pair).await;
    assert_eq!((record.reason.as_str(), record.detail), ("forbidden", None), "the grant made no difference");
    pair.change(|s| s.bundle = Some(bundle(EMERGENCY, 'd')));
    allowed(&pair, 'd').await;
    pair.change(|s| s.break_glass.clear());
    let record = denied(&pair).await;
    assert_eq!(value(&record, "break_glass.grant"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_ends_with_the_grant_that_opened_it() {
    let (app, _) = apps::greeter().await;
    let pair = Pair::new(Protocol::Tcp, 5432, app).await;
    pair.change(|s| {
        s.bundle = Some(bundle(EMERGENCY, 'b'));
        s.break_glass = vec![grant("g-1", WEB, SERVICE, now() + 3)];
    });
    // Whether it opens before the sidecars know the change or after, it stays for as long as the grant.
    let mut stream = connect(&pair).await;
    stream.read_exact(&mut [0; 6]).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "the connection outlived the grant: {ended:?}");
    let closing = |r: &Record| !r.allow && r.detail.as_deref().is_some_and(|d| d.starts_with("closed an open call"));
    let record = pair.ledger.audit.record("the closing", closing).await;
    assert_eq!(record.reason, "no_permit");
}
