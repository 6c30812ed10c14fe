//! The dashboard's files, held in the binary.
//!
//! Vite names everything under `assets/` by its content's hash, so those files are cached for ever and `index.html`
//! never. Unknown paths without a file ending are pages of the single-page application.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Dist;

const NOT_BUILT: &str =
    "signet-ui runs, but the dashboard assets were not built: run `make build`, then start it again.\n";

/// Whether the binary holds the dashboard's files.
pub fn built() -> bool {
    Dist::get("index.html").is_some()
}

pub(crate) async fn serve(uri: Uri, request: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    if !path.is_empty() && path != "index.html" {
        if let Some(file) = Dist::get(path) {
            return answer(path, file, &request);
        }
        if path.starts_with("assets/") || path.rsplit('/').next().is_some_and(|last| last.contains('.')) {
            return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
        }
    }
    match Dist::get("index.html") {
        Some(index) => answer("index.html", index, &request),
        None => (StatusCode::SERVICE_UNAVAILABLE, NOT_BUILT).into_response(),
    }
}

fn answer(path: &str, file: EmbeddedFile, request: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", hex::encode(file.metadata.sha256_hash()));
    let immutable = path.starts_with("assets/");
    let unchanged = request.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let mut response =
        if unchanged { StatusCode::NOT_MODIFIED.into_response() } else { file.data.into_owned().into_response() };
    let headers = response.headers_mut();
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    if let Ok(value) = HeaderValue::from_str(kind.essence_str()) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, value);
    }
    let cache = if immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}
