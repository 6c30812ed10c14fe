//! Sending a call, again where that is worth it and safe: unsent or refused unprocessed, or idempotent, or gRPC's
//! UNAVAILABLE; with a body that can be sent once more; within attempts, time and budget.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;
use tracing::debug;

use super::{Budget, Destination, copy_of, replay};
use crate::answer::{self, Form};
use crate::balance::{Limit, Ticket, Tried};
use crate::body::Body;
use crate::headers;
use crate::snapshot::route::Rule;
use crate::upstream::{Failure, Upstream, UpstreamError};

/// A delay grows to this many times the first.
const MOST: u32 = 10;

/// One call with its rule.
pub(super) struct Call<'r> {
    pub(super) rule: &'r Rule,
    pub(super) to: &'r Destination,
    pub(super) budget: &'r Budget,
    pub(super) form: Form,
    /// What the call is spread by.
    pub(super) key: Option<u64>,
}

/// What came of one attempt.
enum Outcome {
    Answered(Box<Response<Body>>),
    Failed(UpstreamError),
    /// No answer in the time of one attempt.
    Late,
}

impl Outcome {
    /// A gateway's: asking elsewhere or again cannot change it.
    fn is_denial(&self) -> bool {
        matches!(self, Self::Failed(error) if error.denial().is_some())
    }
}

/// Why a call may be sent once more, whatever its method.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Safe {
    /// No part of it was acted on.
    Always,
    /// Its method says so.
    Idempotent,
    Never,
}

impl Call<'_> {
    /// The answer for the caller.
    pub(super) async fn run(&self, parts: Parts, body: replay::Source) -> Response<Body> {
        self.budget.called();
        let deadline = self.rule.request_timeout.map(|limit| Instant::now() + limit);
        let attempts = self.attempts(parts, body, deadline);
        let answered = match deadline {
            None => attempts.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, attempts).await {
                Ok(response) => response,
                Err(_) => return answer::fault(self.form, answer::REQUEST_TIMEOUT),
            },
        };
        match deadline {
            Some(deadline) => answered.map(|body| body.until(deadline)),
            None => answered,
        }
    }

    async fn attempts(&self, parts: Parts, mut body: replay::Source, deadline: Option<Instant>) -> Response<Body> {
        let safe = if idempotent(&parts.method) { Safe::Idempotent } else { Safe::Never };
        let mut head = Some(parts);
        let mut tried = Tried::default();
        let mut retries = 0;
        // Held while the call is being tried again.
        let mut retrying = None;
        loop {
            let Some((index, upstream)) = self.to.pick(&tried, self.key) else {
                return answer::fault(self.form, self.to.none());
            };
            // A call that cannot be repeated copies nothing.
            let sent = if self.rule.retry.is_some() { head.as_ref().map(copy_of) } else { head.take() };
            let Some(sent) = sent else { return answer::fault(self.form, answer::BROKEN) };
            let until = self.rule.backend_timeout.map(|limit| Instant::now() + limit);
            let (outcome, unsent) = self.attempt(upstream, Request::from_parts(sent, body.body()), until).await;
            let was_unsent = unsent.is_some();
            if let Some(unsent) = unsent {
                let (parts, returned) = unsent.into_parts();
                head = Some(parts);
                body.restore(returned);
            }
            // What certainly never left goes to another endpoint at once, as it does without any retry policy.
            if was_unsent && !outcome.is_denial() && self.to.unsent(&mut tried, index) {
                continue;
            }
            let safe = if was_unsent || refused(&outcome) { Safe::Always } else { safe };
            if let Some(delay) = self.again(&outcome, safe, &body, retries, deadline)
                && let Ok(ticket) = self.ticket(retrying.is_some())
            {
                if retrying.is_none() {
                    retrying = ticket;
                }
                drop(outcome);
                tokio::time::sleep(delay).await;
                retries += 1;
                tried.again(index);
                continue;
            }
            return match (outcome, until) {
                (Outcome::Answered(response), Some(until)) => response.map(|body| body.until(until)),
                (Outcome::Answered(response), None) => *response,
                (Outcome::Failed(error), _) => answer::unreachable(self.form, &error),
                (Outcome::Late, _) => answer::fault(self.form, answer::REQUEST_TIMEOUT),
            };
        }
    }

    /// The call's place among retries; none is needed where no policy bounds them.
    fn ticket(&self, has: bool) -> Result<Option<Ticket>, Limit> {
        match self.to.ward() {
            Some(ward) if !has => ward.ticket(Limit::Retries).map(Some),
            _ => Ok(None),
        }
    }

    async fn attempt(
        &self,
        upstream: &Arc<Upstream>,
        request: Request<Body>,
        until: Option<Instant>,
    ) -> (Outcome, Option<Box<Request<Body>>>) {
        let sending = upstream.send(request);
        let sent = match until {
            None => sending.await,
            Some(until) => match tokio::time::timeout_at(until, sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    // As slow as that at least: others are preferred for a while.
                    let limit = self.rule.backend_timeout.unwrap_or_default();
                    upstream.load().observe(std::time::Instant::now(), limit);
                    upstream.judge(false);
                    return (Outcome::Late, None);
                }
            },
        };
        match sent {
            Ok(response) => (Outcome::Answered(Box::new(response)), None),
            Err(Failure { error, unsent }) => {
                debug!(service = %self.to.service.service, error = %signet_observe::error_chain(&error), "no answer");
                (Outcome::Failed(error), unsent)
            }
        }
    }

    /// How long to wait before the next attempt; none when this was the last.
    fn again(
        &self,
        outcome: &Outcome,
        safe: Safe,
        body: &replay::Source,
        retries: u32,
        deadline: Option<Instant>,
    ) -> Option<Duration> {
        let retry = self.rule.retry.as_ref()?;
        if retries >= retry.attempts {
            return None;
        }
        let safe = match outcome {
            Outcome::Answered(response) => {
                let unavailable = retry.codes.contains(&StatusCode::SERVICE_UNAVAILABLE) && is_unavailable(response);
                let worth = unavailable || retry.codes.contains(&response.status());
                // A denial is an answer: asking again cannot change it.
                if !worth || response.headers().contains_key(headers::DECISION) {
                    return None;
                }
                if unavailable { Safe::Always } else { safe }
            }
            Outcome::Failed(_) if outcome.is_denial() => return None,
            Outcome::Failed(_) | Outcome::Late => safe,
        };
        if safe == Safe::Never || !body.replayable() || !self.budget.take(std::time::Instant::now()) {
            return None;
        }
        // `backoff` is the least delay (GEP-1731): jitter comes on top of it.
        let base = retry.backoff.saturating_mul(1_u32.checked_shl(retries).unwrap_or(MOST).min(MOST));
        let delay = base.mul_f64(1.0 + fastrand::f64() / 2.0);
        deadline.is_none_or(|deadline| Instant::now() + delay < deadline).then_some(delay)
    }
}

/// RFC 9110, section 9.2.2.
fn idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

/// A gRPC answer that is UNAVAILABLE and nothing else.
fn is_unavailable(response: &Response<Body>) -> bool {
    response.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == b"14")
}

/// HTTP/2's REFUSED_STREAM: the other side says that it did nothing.
fn refused(outcome: &Outcome) -> bool {
    let Outcome::Failed(UpstreamError::Broken { source, .. }) = outcome else { return false };
    let mut cause = std::error::Error::source(source);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        cause = error.source();
    }
    false
}
