//! How the mesh is now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;

use crate::app::App;
use crate::model::{Posture, Problem};

/// How the mesh is now: encryption, decisions, policy, identities, federation. A part that does not answer is said to
/// be unreachable; the others are still told.
#[utoipa::path(get, path = "/api/posture", tag = "posture", responses(
    (status = 200, body = Posture), (status = 401, body = Problem),
))]
pub(crate) async fn posture(State(app): State<Arc<App>>) -> Json<Posture> {
    let traffic = app.store.traffic().await;
    let now = Timestamp::now();
    Json(Posture {
        at: now.to_string(),
        store: app.store.reach(),
        traffic,
        alerts: app.store.alerts().await,
        clusters: app.clusters.snapshot().iter().map(|state| state.posture(now)).collect(),
    })
}
