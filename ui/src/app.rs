//! What the handlers share, and the router that puts them together.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::{Router, routing};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clusters::Clusters;
use crate::live::Live;
use crate::metrics::{self, Metrics};
use crate::problem::Failure;
use crate::session::Sessions;
use crate::store::Store;
use crate::{api, assets, guard};

/// Live lists that may be open at once; the next one is told so.
pub(crate) const MAX_STREAMS: usize = 64;
/// The largest body that any endpoint takes.
const MAX_BODY: usize = 8 * 1024;

/// What the handlers share.
pub struct App {
    pub sessions: Sessions,
    /// Name of the session cookie. Cookies do not tell ports apart, so the port is part of the name.
    pub cookie: String,
    pub store: Store,
    pub clusters: Clusters,
    pub live: Live,
    pub streams: Arc<Semaphore>,
    pub metrics: Metrics,
    /// Owns the tasks of the live lists.
    pub tasks: TaskTracker,
    /// Ends the live lists when the server stops.
    pub stop: CancellationToken,
}

impl App {
    pub fn new(
        token: &str,
        port: u16,
        store: Store,
        clusters: Clusters,
        live: Live,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            sessions: Sessions::new(token),
            cookie: format!("signet_session_{port}"),
            store,
            clusters,
            live,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            metrics: Metrics::default(),
            tasks,
            stop,
        }
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Signet dashboard",
    description = "What the dashboard shows, for programs too. Every path but `POST /api/session` needs the session \
                   cookie or `Authorization: Bearer <dashboard token>`."
))]
struct Document;

/// All endpoints but the one that signs in.
fn protected() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(api::session::current, api::session::sign_out))
        .routes(routes!(api::posture::posture))
        .routes(routes!(api::decisions::list))
        .routes(routes!(api::stream::stream))
        .routes(routes!(api::decisions::one))
        .routes(routes!(api::decisions::why))
        .routes(routes!(api::mesh::clusters))
        .routes(routes!(api::mesh::services))
        .routes(routes!(api::events::list))
}

fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(api::session::sign_in))
}

/// The OpenAPI document, as it is committed in `ui/openapi.json`.
pub fn openapi() -> Result<String, serde_json::Error> {
    let (_, document) =
        OpenApiRouter::with_openapi(Document::openapi()).merge(protected()).merge(open()).split_for_parts();
    let mut document = serde_json::to_value(&document)?;
    without_null(&mut document);
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}

/// A field that has no value is left out of every answer, never null: the document says so too.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_null);
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".into(), only);
                }
            }
            let is_null = |choice: &Value| choice.get("type").is_some_and(|name| name == "null");
            let inner = match fields.get("oneOf").and_then(Value::as_array).map(Vec::as_slice) {
                Some([inner, null] | [null, inner]) if is_null(null) => inner.clone(),
                _ => return,
            };
            fields.remove("oneOf");
            if let Value::Object(inner) = inner {
                fields.extend(inner);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// The whole server: API, dashboard files, checks and headers.
pub fn router(app: App) -> Router {
    let app = Arc::new(app);
    let (protected, _) = protected().split_for_parts();
    let (open, _) = open().split_for_parts();
    let unknown = routing::any(|| async { Failure::NotFound("endpoint").into_response() });
    let protected =
        protected.route("/api/{*rest}", unknown).route_layer(from_fn_with_state(app.clone(), guard::signed_in));
    protected
        .merge(open)
        .fallback_service(routing::get(assets::serve))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(guard::same_origin))
        .layer(from_fn(guard::secure_headers))
        .layer(from_fn_with_state(app.metrics.clone(), metrics::count))
        .with_state(app)
}
