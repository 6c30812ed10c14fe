//! What happened to the mesh itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use serde_json::json;

use crate::access::counts;
use crate::app::App;
use crate::guard::Caller;
use crate::model::{EventPage, EventQuery, Problem};
use crate::problem::Failure;

/// Issuance, rotation, federation, bundle activation and refusals, newest first.
#[utoipa::path(get, path = "/api/events", tag = "events", params(EventQuery), responses(
    (status = 200, body = EventPage), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 503, body = Problem),
))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Json<EventPage>, Failure> {
    let Query(query) = query.map_err(|error| Failure::BadRequest(error.body_text()))?;
    let page = app.store.events(query.cursor.as_deref(), query.limit).await?;
    let asked = json!({ "kinds": ["event", "gap"], "after": query.cursor, "limit": query.limit });
    let read = counts(page.items.iter().map(|event| event.log.as_str()));
    app.clusters.access().answered(&caller, "query", &asked, &read).await?;
    Ok(Json(page))
}
