//! Tells a person's own system of alerts: JSON over HTTPS, signed, in order, tried again for a while.

use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Notice;
use crate::config::WebhookConfig;
use crate::metrics::{Metrics, WebhookOutcome};
use crate::outgoing::{BadTarget, Target};
use crate::secret::{BadSecret, Secret};

/// Notices that wait for their turn.
const WAITING: usize = 256;
/// How long one notice is tried for, and the pauses in between.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// `t=<Unix seconds>,v1=<hex>`: HMAC-SHA256 under the secret over the time, a point and the body.
const SIGNATURE: HeaderName = HeaderName::from_static("signet-signature");

/// Why a webhook cannot be called.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadWebhook {
    /// Its address.
    #[error("alerts.webhook.url")]
    Target(#[from] BadTarget),
    /// Its secret.
    #[error("alerts.webhook.secret_file")]
    Secret(#[from] BadSecret),
}

/// Where notices are put; without a webhook they go nowhere.
#[derive(Clone)]
pub(super) struct Outbox {
    queue: Option<mpsc::Sender<Notice>>,
    metrics: Metrics,
}

impl Outbox {
    /// Never waits: a notice that finds no room is counted and logged.
    pub(super) fn put(&self, notice: &Notice) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(notice.clone()).is_err() {
            self.metrics.webhook(WebhookOutcome::Dropped);
            tracing::error!(cause = notice.cause, subject = notice.subject, "no room for a notice to the webhook");
        }
    }
}

/// The task that delivers.
pub(super) struct Courier {
    target: Target,
    key: hmac::Key,
    queue: mpsc::Receiver<Notice>,
    metrics: Metrics,
}

/// The two ends of the way to a webhook; no task without one.
///
/// # Errors
/// When its address or its secret is unusable.
pub(super) fn open(config: Option<&WebhookConfig>, metrics: &Metrics) -> Result<(Outbox, Option<Courier>), BadWebhook> {
    let Some(config) = config else { return Ok((Outbox { queue: None, metrics: metrics.clone() }, None)) };
    let target = Target::https(&config.url, &config.authorities)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, Secret::read(&config.secret_file)?.expose().as_bytes());
    let (sender, queue) = mpsc::channel(WAITING);
    let outbox = Outbox { queue: Some(sender), metrics: metrics.clone() };
    Ok((outbox, Some(Courier { target, key, queue, metrics: metrics.clone() })))
}

impl Courier {
    /// Delivers until `cancel`; what waits then is lost, its record is not.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let deliver = async {
            while let Some(notice) = self.queue.recv().await {
                self.deliver(&notice).await;
            }
        };
        cancel.run_until_cancelled(deliver).await;
    }

    async fn deliver(&self, notice: &Notice) {
        let Ok(body) = serde_json::to_vec(notice).map(Bytes::from) else { return };
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE.0;
        loop {
            let why = match self.attempt(&body).await {
                Ok(()) => return self.metrics.webhook(WebhookOutcome::Delivered),
                Err(why) => why,
            };
            self.metrics.webhook(WebhookOutcome::Failed);
            if Instant::now() + pause > deadline {
                self.metrics.webhook(WebhookOutcome::Dropped);
                tracing::error!(
                    why,
                    cause = notice.cause,
                    subject = notice.subject,
                    "gave up on a notice to the webhook"
                );
                return;
            }
            tracing::warn!(why, cause = notice.cause, "the webhook did not take a notice; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One try; signed anew, so that the receiver can refuse what is old.
    async fn attempt(&self, body: &Bytes) -> Result<(), String> {
        let signature = signature(&self.key, jiff::Timestamp::now().as_second(), body);
        let signature = HeaderValue::from_str(&signature).map_err(|error| error.to_string())?;
        let answer = self.target.post("application/json", vec![(SIGNATURE, signature)], body.clone()).await;
        match answer.map_err(|error| signet_observe::error_chain(&error))? {
            (status, _) if status.is_success() => Ok(()),
            (status, _) => Err(format!("it answered {status}")),
        }
    }
}

fn signature(key: &hmac::Key, at: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{at}.").as_bytes());
    context.update(body);
    format!("t={at},v1={}", hex::encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_openssl_makes_of_time_point_and_body() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(
            signature(&key, 1_700_000_000, b"{}"),
            "t=1700000000,v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e"
        );
    }
}
