//! `Discovery.Stream`: each proxy gets its snapshot at once and again whenever it differs from what it was sent.
//!
//! There is no queue: a stream that is slow misses the versions between and gets the newest. Nothing is spawned: the
//! stream is polled by its connection and ends with it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use signet_api::control::discovery_server::Discovery;
use signet_api::control::{Report, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::authorise::{Caller, Method};
use crate::gate::Gate;
use crate::metrics::{ByKind, Metrics};
use crate::model::World;
use crate::policy::{Flow, Lost};
use crate::proxies::{Connected, Proxies};
use crate::snapshot::{Held, Subject, build, seal};

const FIRST_REPORT: Duration = Duration::from_secs(10);
/// More flows in one report are not counted.
const MAX_LOST: usize = 256;

/// The service.
pub(crate) struct DiscoveryService {
    pub(crate) gate: Gate,
    pub(crate) world: watch::Receiver<Arc<World>>,
    pub(crate) proxies: Proxies,
    pub(crate) metrics: Metrics,
    /// Where reports of lost calls go.
    pub(crate) lost: mpsc::Sender<Lost>,
    pub(crate) cancel: CancellationToken,
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<Snapshot, Status>> + Send>>;

    async fn stream(&self, request: Request<Streaming<Report>>) -> Result<Response<Self::StreamStream>, Status> {
        let (id, caller) = self.gate.admit(Method::DiscoveryStream, request.extensions())?;
        let Caller::Proxy(subject) = caller else {
            return Err(Status::permission_denied("only proxies may call this"));
        };
        let connected = self.proxies.connect(&id, &subject).map_err(|_| {
            tracing::warn!(proxy = %id, "too many discovery streams; this one is refused");
            Status::resource_exhausted("too many streams")
        })?;
        tracing::info!(proxy = %id, "proxy connected");
        let session = Session {
            id: id.to_string(),
            subject,
            reports: request.into_inner(),
            world: self.world.clone(),
            connected,
            metrics: self.metrics.clone(),
            lost: self.lost.clone(),
            cancel: self.cancel.clone(),
            phase: Phase::Opening,
            held: Held::default(),
            sent: None,
        };
        let stream =
            futures::stream::unfold(
                session,
                |mut session| async move { session.next().await.map(|item| (item, session)) },
            );
        Ok(Response::new(Box::pin(stream)))
    }
}

#[derive(PartialEq, Eq)]
enum Phase {
    /// Waiting for the first report, which says what bundle the proxy has.
    Opening,
    Open,
    Over,
}

struct Sent {
    version: u64,
    made_at: Instant,
    content: Snapshot,
    acknowledged: bool,
}

struct Session {
    id: String,
    subject: Subject,
    reports: Streaming<Report>,
    world: watch::Receiver<Arc<World>>,
    connected: Connected,
    metrics: Metrics,
    lost: mpsc::Sender<Lost>,
    cancel: CancellationToken,
    phase: Phase,
    /// What the proxy says it enforces.
    held: Held,
    sent: Option<Sent>,
}

impl Session {
    /// The next thing to send; None ends the stream.
    ///
    /// # Cancel safety
    /// Nothing is lost: reports are noted as soon as they are read, and `sent` changes only with what is returned.
    async fn next(&mut self) -> Option<Result<Snapshot, Status>> {
        if self.phase == Phase::Opening {
            match tokio::time::timeout(FIRST_REPORT, self.reports.message()).await {
                Ok(Ok(Some(report))) => self.note(&report),
                Ok(Ok(None) | Err(_)) => return None,
                Err(_) => return self.over(Status::deadline_exceeded("no first report came")),
            }
            self.phase = Phase::Open;
        }
        loop {
            if self.phase == Phase::Over {
                return None;
            }
            if let Some(snapshot) = self.due() {
                return Some(Ok(snapshot));
            }
            tokio::select! {
                () = self.cancel.cancelled() => {
                    return self.over(Status::unavailable("the control plane is stopping"));
                }
                report = self.reports.message() => match report {
                    Ok(Some(report)) => self.note(&report),
                    Ok(None) | Err(_) => return None,
                },
                changed = self.world.changed() => if changed.is_err() {
                    return self.over(Status::unavailable("the control plane is stopping"));
                },
            }
        }
    }

    fn over(&mut self, status: Status) -> Option<Result<Snapshot, Status>> {
        self.phase = Phase::Over;
        Some(Err(status))
    }

    /// Hands on what a proxy lost, of what it decides about.
    fn note_lost(&self, report: &Report) {
        let Some(sent) = &self.sent else { return };
        let decides = |service: &str| {
            sent.content.inbound.iter().any(|s| s.service == service)
                || sent.content.exported.iter().any(|s| s.service == service)
                || sent.content.external.iter().any(|s| s.name == service)
        };
        for lost in report.lost.iter().take(MAX_LOST).filter(|lost| decides(&lost.service)) {
            let flow =
                Flow { principal: lost.principal.clone(), action: lost.action.clone(), service: lost.service.clone() };
            let lost = Lost { digest: report.bundle_digest.clone(), flow, calls: lost.calls };
            if self.lost.try_send(lost).is_err() {
                tracing::warn!(proxy = self.id, "reports of lost calls come faster than they are counted");
                return;
            }
        }
    }

    fn note(&mut self, report: &Report) {
        if !report.lost.is_empty() {
            self.note_lost(report);
            return;
        }
        self.connected.report(report);
        self.held = Held {
            commit: report.policy_commit.clone(),
            digest: report.bundle_digest.clone(),
            slice: report.slice_digest.clone(),
        };
        if report.version == 0 {
            return;
        }
        if !report.error.is_empty() {
            tracing::error!(
                proxy = self.id,
                version = report.version,
                error = report.error,
                "a proxy refused a snapshot; it goes on with the one before"
            );
            return;
        }
        if let Some(sent) = self.sent.as_mut()
            && sent.version == report.version
            && !sent.acknowledged
        {
            sent.acknowledged = true;
            self.connected.current(sent.version);
            self.metrics.push_seconds.observe(sent.made_at.elapsed().as_secs_f64());
        }
    }

    /// The newest snapshot when it differs from what was sent.
    fn due(&mut self) -> Option<Snapshot> {
        let world = Arc::clone(&self.world.borrow_and_update());
        let content = build(&world, &self.subject)?;
        if let Some(sent) = self.sent.as_ref().filter(|sent| sent.content == content) {
            if sent.acknowledged {
                self.connected.current(world.version);
            }
            return None;
        }
        let snapshot = seal(content.clone(), &world, &self.subject, &self.held);
        self.sent = Some(Sent {
            version: world.version,
            // A proxy that connects long after a change did not wait for it.
            made_at: if self.sent.is_some() { world.made_at } else { Instant::now() },
            content,
            acknowledged: false,
        });
        let label = ByKind { kind: self.subject.kind() };
        self.metrics.snapshots_sent.get_or_create(&label).inc();
        Some(snapshot)
    }
}
