//! Decisions: the list, one of them, and why it was decided so.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use serde_json::json;
use uuid::Uuid;

use crate::access::counts;
use crate::app::App;
use crate::guard::Caller;
use crate::model::{Decision, DecisionPage, DecisionQuery, Problem, Why};
use crate::problem::Failure;
use crate::selection::Selection;

/// Decisions that match, newest first, by pages.
#[utoipa::path(get, path = "/api/decisions", tag = "decisions", params(DecisionQuery), responses(
    (status = 200, body = DecisionPage), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 503, body = Problem),
))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<DecisionQuery>, QueryRejection>,
) -> Result<Json<DecisionPage>, Failure> {
    let Query(query) = query.map_err(|error| Failure::BadRequest(error.body_text()))?;
    let selection = Selection::of(&query);
    let page = app.store.decisions(&selection, query.cursor.as_deref(), query.limit).await?;
    let asked = json!({
        "filter": selection.filter(), "id": selection.decision_id(), "after": query.cursor, "limit": query.limit,
    });
    let read = counts(page.items.iter().map(|decision| decision.log.as_str()));
    app.clusters.access().answered(&caller, "query", &asked, &read).await?;
    Ok(Json(page))
}

/// One decision.
#[utoipa::path(get, path = "/api/decisions/{id}", tag = "decisions",
    params(("id" = String, Path, description = "The decision's id, as in `x-signet-decision`")),
    responses(
        (status = 200, body = Decision), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem),
))]
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Decision>, Failure> {
    let id = parse(&id)?;
    let found = app.store.decision(id).await?;
    let read = counts(found.iter().map(|decision| decision.log.as_str()));
    app.clusters.access().answered(&caller, "query", &json!({ "id": id }), &read).await?;
    found.map(Json).ok_or(Failure::NotFound("decision"))
}

/// Why a call was decided as it was, computed again from the recorded inputs and the policy bundle of that time.
#[utoipa::path(get, path = "/api/decisions/{id}/why", tag = "decisions",
    params(("id" = String, Path, description = "The decision's id, as in `x-signet-decision`")),
    responses(
        (status = 200, body = Why), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem),
))]
pub(crate) async fn why(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Why>, Failure> {
    let id = parse(&id)?;
    let found = app.store.why(id).await?;
    let read = counts(found.iter().map(|why| why.decision.log.as_str()));
    app.clusters.access().answered(&caller, "why", &json!({ "id": id }), &read).await?;
    found.map(Json).ok_or(Failure::NotFound("decision"))
}

fn parse(id: &str) -> Result<Uuid, Failure> {
    id.parse().map_err(|_| Failure::NotFound("decision"))
}
