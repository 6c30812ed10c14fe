//! HTTPRoute and GRPCRoute of the Gateway API as they are written, for the mesh: attached to Services.
//!
//! Unknown fields are errors here, because a misspelt filter or reference would silently change where calls go. `check`
//! makes [`Route`](crate::model::Route)s of them.

mod check;
mod filters;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

pub(super) use check::{duration_ms, grpc, http};

/// As much of any route as tells whether the mesh is concerned.
#[derive(Deserialize)]
pub(super) struct Attached {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    spec: AttachedSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachedSpec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
}

impl Attached {
    pub(super) fn concerns_mesh(&self) -> bool {
        self.spec.parent_refs.iter().any(|parent| parent.kind().is_some())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ParentRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    #[serde(rename = "sectionName")]
    _section_name: Option<String>,
    port: Option<i32>,
}

/// What a reference to a service refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    ServiceImport,
}

impl Kind {
    fn read(group: Option<&str>, kind: &str) -> Option<Self> {
        match (group.unwrap_or(""), kind) {
            ("", "Service") => Some(Self::Service),
            ("multicluster.x-k8s.io", "ServiceImport") => Some(Self::ServiceImport),
            _ => None,
        }
    }
}

impl ParentRef {
    /// None: a Gateway, which is the default, or something else that is not the mesh's.
    fn kind(&self) -> Option<Kind> {
        // The default group is the Gateway API's; many manifests leave it out beside `kind: Service` and mean the core.
        Kind::read(self.group.as_deref(), self.kind.as_deref()?)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct HttpRoute {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: HttpSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpSpec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    /// GEP-1294: a mesh infers nothing from it.
    #[serde(rename = "hostnames")]
    _hostnames: Option<IgnoredAny>,
    #[serde(rename = "useDefaultGateways")]
    _use_default_gateways: Option<IgnoredAny>,
    /// Without any, one that takes every request.
    rules: Option<Vec<HttpRule>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct HttpRule {
    name: Option<String>,
    matches: Vec<HttpMatch>,
    filters: Vec<Filter>,
    backend_refs: Vec<BackendRef>,
    timeouts: Option<Timeouts>,
    retry: Option<Retry>,
    session_persistence: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct HttpMatch {
    path: Option<PathMatch>,
    headers: Vec<ValueMatch>,
    query_params: Vec<ValueMatch>,
    method: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathMatch {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueMatch {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    #[serde(rename = "type")]
    kind: String,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<RequestMirror>,
    request_redirect: Option<RequestRedirect>,
    url_rewrite: Option<UrlRewrite>,
    #[serde(rename = "extensionRef")]
    _extension_ref: Option<IgnoredAny>,
    #[serde(rename = "cors")]
    _cors: Option<IgnoredAny>,
    #[serde(rename = "externalAuth")]
    _external_auth: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeaderModifier {
    set: Vec<Header>,
    add: Vec<Header>,
    remove: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestMirror {
    backend_ref: BackendRef,
    percent: Option<i32>,
    fraction: Option<Fraction>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fraction {
    numerator: i32,
    denominator: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestRedirect {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathModifier>,
    port: Option<i32>,
    status_code: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UrlRewrite {
    hostname: Option<String>,
    path: Option<PathModifier>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PathModifier {
    #[serde(rename = "type")]
    kind: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
    weight: Option<i32>,
    #[serde(default)]
    filters: Vec<Filter>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Timeouts {
    request: Option<String>,
    backend_request: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    #[serde(default)]
    codes: Vec<i32>,
    attempts: Option<i32>,
    backoff: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct GrpcRoute {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: GrpcSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GrpcSpec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(rename = "hostnames")]
    _hostnames: Option<IgnoredAny>,
    #[serde(rename = "useDefaultGateways")]
    _use_default_gateways: Option<IgnoredAny>,
    rules: Option<Vec<GrpcRule>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GrpcRule {
    name: Option<String>,
    matches: Vec<GrpcMatch>,
    filters: Vec<Filter>,
    backend_refs: Vec<BackendRef>,
    session_persistence: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GrpcMatch {
    method: Option<MethodMatch>,
    headers: Vec<ValueMatch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodMatch {
    #[serde(rename = "type")]
    kind: Option<String>,
    service: Option<String>,
    method: Option<String>,
}
