//! From the text of files to typed Kubernetes objects, each with the place it came from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ManifestError;
use super::external::ExternalService;
use super::place::Place;
use super::routes::{Attached, GrpcRoute, HttpRoute};
use super::traffic::TrafficPolicy;

/// `multicluster.x-k8s.io` ServiceExport (MCS API 0.5); Signet reads its name alone.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServiceExport {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// `multicluster.x-k8s.io` ServiceImport (MCS API 0.5): Signet reads its name and `spec.ips`. What is behind it comes over
/// the link with the exporting cluster.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServiceImport {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: ServiceImportSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ServiceImportSpec {
    #[serde(default)]
    pub ips: Vec<String>,
}

/// The kinds that Signet reads.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    ServiceExport(Box<ServiceExport>),
    ServiceImport(Box<ServiceImport>),
    ExternalService(Box<ExternalService>),
    HttpRoute(Box<HttpRoute>),
    GrpcRoute(Box<GrpcRoute>),
    TrafficPolicy(Box<TrafficPolicy>),
}

#[derive(Deserialize)]
struct TypeMeta {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
}

type Parsed = (Vec<(Place, Object)>, Vec<String>);

/// Reads all documents of all files; kinds that Signet does not read are named once each in the warnings.
pub(super) fn parse_all(texts: &[(PathBuf, String)]) -> Result<Parsed, Vec<ManifestError>> {
    let mut objects = Vec::new();
    let mut errors = Vec::new();
    let mut ignored = BTreeSet::new();
    for (file, text) in texts {
        for place in split(file, text) {
            match parse(&place) {
                Ok(object) => objects.push((place, object)),
                Err(Unreadable::Ignored(kind)) => {
                    ignored.insert(kind);
                }
                Err(Unreadable::Broken(error)) => errors.push(error),
            }
        }
    }
    if errors.is_empty() {
        let warnings =
            ignored.into_iter().map(|kind| format!("kind `{kind}` is not read by Signet and was ignored")).collect();
        Ok((objects, warnings))
    } else {
        Err(errors)
    }
}

enum Unreadable {
    Ignored(String),
    Broken(ManifestError),
}

/// A route of gateways alone is not the mesh's: it may hold what the mesh does not know, and that is no error.
fn attached(place: &Place, kind: &str) -> Result<(), Unreadable> {
    let route: Attached = typed(place)?;
    if route.concerns_mesh() {
        return Ok(());
    }
    let name = route.metadata.name.unwrap_or_default();
    Err(Unreadable::Ignored(format!("{kind} {name} (no parentRef is a Service)")))
}

impl From<ManifestError> for Unreadable {
    fn from(error: ManifestError) -> Self {
        Self::Broken(error)
    }
}

fn parse(place: &Place) -> Result<Object, Unreadable> {
    let meta: TypeMeta = typed(place)?;
    let object = match (meta.api_version.as_str(), meta.kind.as_str()) {
        ("v1", "Service") => Object::Service(typed(place)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Object::EndpointSlice(typed(place)?),
        ("multicluster.x-k8s.io/v1alpha1" | "multicluster.x-k8s.io/v1beta1", "ServiceExport") => {
            Object::ServiceExport(typed(place)?)
        }
        ("multicluster.x-k8s.io/v1alpha1" | "multicluster.x-k8s.io/v1beta1", "ServiceImport") => {
            Object::ServiceImport(typed(place)?)
        }
        ("signet.dev/v1alpha1", "ExternalService") => Object::ExternalService(typed(place)?),
        ("signet.dev/v1alpha1", "TrafficPolicy") => Object::TrafficPolicy(typed(place)?),
        ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", "HTTPRoute") => {
            attached(place, "HTTPRoute")?;
            Object::HttpRoute(typed(place)?)
        }
        ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1alpha2", "GRPCRoute") => {
            attached(place, "GRPCRoute")?;
            Object::GrpcRoute(typed(place)?)
        }
        // A known kind under another version would silently take a service out of the mesh.
        (
            version,
            kind @ ("Service" | "EndpointSlice" | "ServiceExport" | "ServiceImport" | "ExternalService" | "HTTPRoute"
            | "GRPCRoute" | "TrafficPolicy"),
        ) => {
            let message = format!("`{version}` is not a version of {kind} that Signet reads");
            return Err(place.error("apiVersion", message).into());
        }
        (version, kind) => return Err(Unreadable::Ignored(format!("{version} {kind}"))),
    };
    Ok(object)
}

fn typed<T: DeserializeOwned>(place: &Place) -> Result<T, ManifestError> {
    let mut field = String::new();
    let outcome = serde_saphyr::with_deserializer_from_str(&place.text, |deserializer| {
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        T::deserialize(tracked).inspect_err(|_| field = track.path().to_string())
    });
    let error = match outcome {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let line = error.location().map_or(place.first_line, |at| place.first_line + at.line().max(1) - 1);
    Err(ManifestError {
        file: place.file.clone(),
        document: place.document,
        line,
        field: if field == "." { String::new() } else { field },
        message: one_line(&error),
    })
}

/// The error's own words without its snippet, and without the place: it counts from the document's start.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or("not readable");
    first.split(" at line ").next().unwrap_or(first).trim_end_matches([':', ',']).to_owned()
}

/// Cuts a file at its `---` lines; documents that say nothing are not counted. A block scalar cannot hold such a line:
/// its lines are indented.
fn split(file: &Path, text: &str) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let mut first_line = 1;
    let mut current = String::new();
    let mut close = |text: String, first_line: u64| {
        let silent = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if !text.lines().all(silent) {
            let document = places.len() + 1;
            places.push(Place { file: file.to_owned(), document, first_line, text });
        }
    };
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            close(std::mem::take(&mut current), first_line);
            first_line = index as u64 + 2;
        } else {
            current.push_str(line);
            current.push('\n');
        }
    }
    close(current, first_line);
    places
}
