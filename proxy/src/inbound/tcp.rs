//! Raw TCP: one decision per connection, made before the app hears of it. What is behind an upgrade goes on here too.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tracing::debug;

use super::{Inbound, Port, Trust};
use crate::decide::{ActionOwned, Again, Asked, Peer, Verdict};
use crate::serve::{Signal, Signals};
use crate::snapshot::Protocol;
use crate::tcp;
use crate::token::Presented;

pub(super) async fn serve<T>(inbound: &Inbound, mut stream: T, peer: Arc<Peer>, received: Instant)
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Some(port) = inbound.port.load_full() else { return };
    // Before deciding, so that no change falls between the decision and the waiting for changes.
    let changes = inbound.enforcer.changes();
    let (asked, verdict) = decide(inbound, &port, peer, received).await;
    let status = if verdict.allow { 200 } else { 403 };
    inbound.shared.metrics.inbound.answered(Protocol::Tcp, status, received.elapsed());
    let seen = inbound.seen(&asked, &verdict);
    seen.connected(received.elapsed());
    if !verdict.allow {
        // A clean end without a byte of the server's.
        let _ = stream.shutdown().await;
        return;
    }
    let (mut app, _in_flight) = match port.app.raw(&HeaderMap::new()).await {
        Ok(app) => app,
        Err(error) => {
            debug!(error = %signet_observe::error_chain(&error), "the app could not be reached");
            seen.flow.failed();
            let _ = stream.shutdown().await;
            return;
        }
    };
    relay(inbound, (&mut stream, &mut app), &asked, verdict, changes).await;
}

/// Bytes both ways until both ends are done, or until a new decision closes the connection that `verdict` allowed.
/// `changes` were looked at before `asked` was decided.
pub(super) async fn relay<A, B>(
    inbound: &Inbound,
    (client, app): (&mut A, &mut B),
    asked: &Asked,
    verdict: Verdict,
    changes: watch::Receiver<u64>,
) where
    A: AsyncRead + AsyncWrite + Unpin + Send,
    B: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut due_us = due(asked, verdict.expires_at_us);
    // Draining leaves opaque connections alone until the deadline: their end is the application's.
    let mut signals = Signals::new(changes, inbound.stop.drain.clone(), None, due_us);
    let mut trust = Trust::default();
    let flow = inbound.flow(asked);
    let closed = {
        let relay = tcp::relay(client, app, &flow);
        tokio::pin!(relay);
        loop {
            tokio::select! {
                biased;
                copied = relay.as_mut() => {
                    match copied {
                        Ok((received, sent)) => inbound.shared.metrics.copied(received, sent),
                        Err(error) => debug!(%error, "a TCP connection broke"),
                    }
                    break false;
                }
                signal = signals.next(|| due_us) => {
                    if signal == Signal::Drain {
                        continue;
                    }
                    let trusted = trust.look(&inbound.enforcer, &asked.peer, signal == Signal::Due);
                    let serves = inbound.serves(asked, trusted);
                    match inbound.enforcer.decide_again(&asked.call(), verdict.decision_id, serves).await {
                        Again::Closed(_) => break true,
                        Again::GoesOn { expires_at_us } => due_us = due(asked, expires_at_us),
                    }
                }
            }
        }
    };
    if closed {
        inbound.shared.metrics.closed_by_policy.inc();
        // Dropping both ends resets what is in flight; nothing more is delivered.
    }
}

async fn decide(inbound: &Inbound, port: &Port, peer: Arc<Peer>, received: Instant) -> (Asked, Verdict) {
    let service = port.services.first();
    let mut asked = Asked {
        peer,
        destination: inbound.own_id().unwrap_or_default(),
        dst_cluster: Arc::clone(&port.cluster),
        service: service.map(|s| Arc::clone(&s.service)).unwrap_or_default(),
        action: ActionOwned::Tcp { sni: None },
        dst_port: service.map_or(0, |s| s.port),
        end_user: None,
        trace_id: None,
        received,
    };
    let verdict = match inbound.over_limit(port, &mut asked).await {
        Some(limited) => limited.verdict,
        None => inbound.decide(port, &mut asked, Presented::Nothing).await,
    };
    (asked, verdict)
}

/// The sooner of what the decision read and the end of the peer's certificate, Unix microseconds.
fn due(asked: &Asked, expires_at_us: Option<i64>) -> Option<i64> {
    // A certificate is valid through the whole second that it names.
    let ends = asked.peer.not_after.map(|s| s.saturating_add(1).saturating_mul(1_000_000));
    [ends, expires_at_us].into_iter().flatten().min()
}
