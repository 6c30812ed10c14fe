//! Clusters and services, as their control planes and identity servers tell.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;

use crate::app::App;
use crate::model::{ClusterList, Problem, ServiceList};

/// Each cluster with its proxies and authorities.
#[utoipa::path(get, path = "/api/clusters", tag = "mesh", responses(
    (status = 200, body = ClusterList), (status = 401, body = Problem),
))]
pub(crate) async fn clusters(State(app): State<Arc<App>>) -> Json<ClusterList> {
    let now = Timestamp::now();
    Json(ClusterList { clusters: app.clusters.snapshot().iter().map(|state| state.detail(now)).collect() })
}

/// Each cluster's services, imported ones included.
#[utoipa::path(get, path = "/api/services", tag = "mesh", responses(
    (status = 200, body = ServiceList), (status = 401, body = Problem),
))]
pub(crate) async fn services(State(app): State<Arc<App>>) -> Json<ServiceList> {
    Json(ServiceList { clusters: app.clusters.snapshot().iter().map(|state| state.services()).collect() })
}
