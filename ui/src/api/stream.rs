//! The live list: server-sent events, resumable and bounded.
//!
//! An event named `decisions` carries an array of decisions in commit order; its id says where the logs stood after
//! them, and a client that comes back with it (`Last-Event-ID`) misses nothing. An event named `skipped` says that so
//! much happened meanwhile that the client should load its list again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use http::HeaderMap;
use serde::Deserialize;
use signet_audit::query::TailCursor;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use crate::access::Begun;
use crate::app::App;
use crate::guard::Caller;
use crate::live::{BATCH_ROWS, Batch, Seen};
use crate::model::{Decision, DecisionQuery, Problem, Verdict};
use crate::problem::Failure;
use crate::selection::Selection;
use crate::store::Row;

/// Pages that a returning viewer is given from the store before it is told to load its list again.
const CATCH_UP_PAGES: usize = 5;
/// Events waiting for one viewer's connection; a viewer that does not read blocks here, not in memory.
const WAITING: usize = 16;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamQuery {
    #[param(inline)]
    decision: Option<Verdict>,
    source: Option<String>,
    destination: Option<String>,
    action: Option<String>,
    q: Option<String>,
    /// `live` of a page of decisions: what came after it is sent first. `Last-Event-ID` wins over it.
    after: Option<String>,
}

/// New decisions that match, less than a second after they were recorded.
#[utoipa::path(get, path = "/api/decisions/stream", tag = "decisions", params(StreamQuery), responses(
    (status = 200, content_type = "text/event-stream", body = Vec<Decision>),
    (status = 400, body = Problem), (status = 401, body = Problem), (status = 503, body = Problem),
))]
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<StreamQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let Query(query) = query.map_err(|error| Failure::BadRequest(error.body_text()))?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    let from: Option<TailCursor> = last
        .or(query.after.as_deref())
        .map(str::parse)
        .transpose()
        .map_err(|_| Failure::BadRequest("the position to resume from was not made by this server".into()))?;
    let place = app.streams.clone().try_acquire_owned().map_err(|_| Failure::TooManyStreams)?;
    let selection = Selection::of(&DecisionQuery {
        decision: query.decision,
        source: query.source,
        destination: query.destination,
        action: query.action,
        q: query.q,
        cursor: None,
        limit: None,
    });
    let feed = app.live.subscribe();
    let from = match from {
        Some(cursor) => cursor,
        None => app.store.end().await?,
    };
    let asked = serde_json::json!({ "filter": selection.filter(), "after": from.to_string() });
    let access = Arc::new(app.clusters.access().begin(&caller, "stream", &asked).await?);
    let (out, events) = mpsc::channel(WAITING);
    let viewer = Viewer { app: app.clone(), access: access.clone(), selection, feed, cursor: from, out };
    let stop = app.stop.clone();
    let live_lists = app.metrics.live_lists.clone();
    app.tasks.spawn(async move {
        let _place = place;
        live_lists.inc();
        match caller {
            Caller::Session(session) => {
                let until = tokio::time::Instant::from_std(session.ends);
                tokio::select! {
                    () = viewer.run() => {}
                    () = session.ended.cancelled() => {}
                    () = tokio::time::sleep_until(until) => {}
                    () = stop.cancelled() => {}
                }
            }
            Caller::Token => {
                tokio::select! {
                    () = viewer.run() => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        live_lists.dec();
        access.end().await;
    });
    Ok(Sse::new(ReceiverStream::new(events)).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))))
}

/// One open list.
struct Viewer {
    app: Arc<App>,
    access: Arc<Begun>,
    selection: Selection,
    feed: broadcast::Receiver<Arc<Batch>>,
    cursor: TailCursor,
    out: mpsc::Sender<Result<Event, Infallible>>,
}

/// The viewer went away.
struct Gone;

impl Viewer {
    async fn run(mut self) {
        let gone = self.out.clone();
        tokio::select! {
            _ = self.serve() => {}
            // Without this a viewer of a silent list would keep its place after it left.
            () = gone.closed() => {}
        }
    }

    async fn serve(&mut self) -> Result<(), Gone> {
        self.catch_up().await?;
        let mut seen = Seen::at(&self.cursor);
        loop {
            match self.feed.recv().await {
                Ok(batch) => {
                    let rows = batch.rows.iter().filter(|row| seen.is_new(row));
                    self.send(rows, &batch.end).await?;
                    self.cursor = batch.end.clone();
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up().await?,
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
            seen = Seen::at(&self.cursor);
        }
    }

    /// Sends what the store has after the viewer's position.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        for _ in 0..CATCH_UP_PAGES {
            let before = self.cursor.clone();
            let Ok(rows) = self.app.store.tail(&mut self.cursor, BATCH_ROWS).await else {
                return self.skipped().await;
            };
            self.send(rows.iter(), &self.cursor.clone()).await?;
            if self.cursor == before {
                return Ok(());
            }
        }
        match self.app.store.end().await {
            Ok(end) => self.cursor = end,
            Err(_) => return Err(Gone),
        }
        self.skipped().await
    }

    async fn skipped(&self) -> Result<(), Gone> {
        let event = Event::default().event("skipped").id(self.cursor.to_string()).data("{}");
        self.out.send(Ok(event)).await.map_err(|_| Gone)
    }

    async fn send<'r>(&self, rows: impl Iterator<Item = &'r Row>, end: &TailCursor) -> Result<(), Gone> {
        let decisions = rows.map(|row| &row.decision);
        let rows: Vec<&Decision> = decisions
            .filter(|decision| self.access.covers(&decision.log) && self.selection.matches(decision))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.access.reads(rows.iter().map(|decision| decision.log.as_str()));
        let Ok(event) = Event::default().event("decisions").id(end.to_string()).json_data(&rows) else {
            return Err(Gone);
        };
        self.out.send(Ok(event)).await.map_err(|_| Gone)
    }
}
