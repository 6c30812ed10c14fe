//! What fails in recording is told within 30 s: by webhook, as a record, and in the list of what is on.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use signet_api::audit::access_client::AccessClient;
use signet_api::audit::{Batch, BeginRequest, SpoolState};
use signet_audit::config::{AlertsConfig, WebhookConfig};
use signet_audit::query;
use signet_audit::testing::Postgres;
use signet_mtls::testing::Ca;
use uuid::Uuid;

use crate::fixture::{Service, WEB, batch, config, entries, until};
use crate::outside::secret;
use crate::webhook::Webhook;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const LOG: &str = "east.bank.example/signet-log";
/// The bound.
const BOUND: Duration = Duration::from_secs(30);

/// Waits until the webhook was told, in time.
async fn told(webhook: &Webhook, cause: &str, subject: &str, state: &str, since: Instant) {
    let wanted = (cause.to_owned(), subject.to_owned(), state.to_owned());
    until(&format!("{cause} of {subject} {state}"), || async { webhook.alerts(SECRET).contains(&wanted) }).await;
    assert!(since.elapsed() < BOUND, "{cause} of {subject} {state} took {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_of_recording_is_an_alert_within_30_seconds() {
    let mut postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let webhook = Webhook::start(directory.path()).await;
    let secret_file = secret(directory.path(), "secret", SECRET);
    let mut config = config(&postgres, directory.path(), "east.bank.example");
    config.alerts = AlertsConfig {
        webhook: Some(WebhookConfig {
            url: webhook.server.url("/alerts"),
            secret_file,
            authorities: webhook.server.authorities.clone(),
        }),
        // 14.4 s: long enough that a review lasts until it is seen to be done.
        review_every_hours: Some(0.004),
    };
    let service = Service::start_as(config, Ca::new("east.bank.example")).await.unwrap();

    // A spool that records met full, a clock that is 5 s ahead, a jump in the sequence: one producer.
    let since = Instant::now();
    let epoch = Uuid::now_v7();
    let mut producer = service.producer(WEB).await.unwrap();
    let ahead = jiff::Timestamp::now().as_microsecond() + 5_000_000;
    let full = Batch { sent_at_us: ahead, spool: SpoolState::Full.into(), ..batch(epoch, 3, entries(3..=4)) };
    assert_eq!(producer.send(full).await.committed, 4);
    for cause in ["spool_failed", "clock_offset", "records_missing"] {
        told(&webhook, cause, WEB, "raised", since).await;
    }
    let (refused, again) = webhook.first_two().unwrap();
    assert_eq!(refused, again, "what was refused came again");
    let on = query::alerts(&service.pool).await.unwrap();
    assert!(
        ["spool_failed", "clock_offset", "records_missing"]
            .iter()
            .all(|cause| { on.iter().any(|alert| alert.cause == *cause && alert.subject == WEB && alert.log == LOG) }),
        "{on:?}"
    );

    // The clock is set and what was missing comes.
    let since = Instant::now();
    assert_eq!(producer.send(batch(epoch, 1, entries(1..=2))).await.error, "");
    for cause in ["clock_offset", "records_missing"] {
        told(&webhook, cause, WEB, "cleared", since).await;
    }

    // Nobody looks at the log, then somebody does.
    told(&webhook, "review_overdue", LOG, "raised", since).await;
    let since = Instant::now();
    let review = BeginRequest { purpose: "review".to_owned(), ..BeginRequest::default() };
    AccessClient::new(service.channel("spiffe://east.bank.example/signet/operator")).begin(review).await.unwrap();
    told(&webhook, "review_overdue", LOG, "cleared", since).await;

    // A batch that is refused.
    let since = Instant::now();
    let bad = Batch { first_sequence: 0, ..batch(epoch, 1, Vec::new()) };
    assert_ne!(producer.send(bad).await.error, "");
    told(&webhook, "ingestion_failed", WEB, "raised", since).await;

    // PostgreSQL goes away: told at once, recorded when it is back.
    let since = Instant::now();
    tokio::task::block_in_place(|| postgres.kill()).unwrap();
    told(&webhook, "ingestion_failed", "database", "raised", since).await;
    told(&webhook, "sequencing_failed", "checkpoints", "raised", since).await;
    tokio::task::block_in_place(|| postgres.restart()).unwrap();
    let since = Instant::now();
    told(&webhook, "ingestion_failed", "database", "cleared", since).await;

    let kept = |action: &'static str, reason: &'static str| {
        let service = &service;
        async move { service.events(action).await.iter().filter(|event| event.reason == reason).count() }
    };
    until("the records of what was told", || async {
        kept("audit:alert", "ingestion_failed").await == 2 && kept("audit:alert_cleared", "ingestion_failed").await >= 1
    })
    .await;
    for cause in ["spool_failed", "clock_offset"] {
        assert_eq!(kept("audit:alert", cause).await, 1, "{cause}");
    }
    // The jump; the silence of the producer since then may be another.
    assert!(kept("audit:alert", "records_missing").await >= 1);
    service.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_called_safely_stops_the_service_with_the_reason() {
    let postgres = Postgres::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let webhook = Webhook::start(directory.path()).await;
    let secret_file = secret(directory.path(), "secret", SECRET);
    for (url, mode, said) in
        [("http://localhost/alerts", 0o600, "is not https://"), ("https://localhost/alerts", 0o644, "chmod 600")]
    {
        std::fs::set_permissions(&secret_file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut config = config(&postgres, directory.path(), "east.bank.example");
        let (url, authorities) = (url.to_owned(), webhook.server.authorities.clone());
        config.alerts.webhook = Some(WebhookConfig { url, secret_file: secret_file.clone(), authorities });
        let refused = Service::start_as(config, Ca::new("east.bank.example")).await.map(|_| ()).unwrap_err();
        assert!(format!("{refused:#}").contains(said), "{refused:#}");
    }
}
