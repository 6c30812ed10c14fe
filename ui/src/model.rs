//! What the REST API says, as types; `openapi.json` and the dashboard's TypeScript types are generated from them.
//!
//! These are wire types only: they hold no behaviour and no type of the audit store or of the components' APIs, so
//! that a change there does not silently change what browsers and scripts see. Times are RFC 3339 in UTC.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The answer to every request that failed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable and short, for programs: `not_signed_in`, `not_found`, ...
    pub code: String,
    /// What was wrong and what to do next, for people.
    pub message: String,
}

/// What a person signs in with.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SignIn {
    /// The dashboard token.
    pub token: String,
}

/// The session that the cookie of this request belongs to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    /// When the session ends; absent for a request that carried the token itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    pub version: String,
}

/// Whether a part could be asked, and since when this has been so.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reach {
    pub status: ReachStatus,
    /// Since when `status` holds.
    pub since: String,
    /// Why it cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReachStatus {
    /// Not asked yet: the dashboard has just started.
    Unknown,
    Reachable,
    Unreachable,
}

/// How the mesh is now. Each part that could not be asked says so; the others are still told.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Posture {
    pub at: String,
    /// The audit database.
    pub store: Reach,
    /// Absent while the audit database cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    pub clusters: Vec<ClusterPosture>,
    /// What fails in recording, latest first; as last heard while the audit database cannot be asked.
    pub alerts: Vec<Alert>,
}

/// Something that fails in recording.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    pub log: String,
    /// `clock_offset`, `export_failed`, `ingestion_failed`, `records_missing`, `review_overdue`, `sequencing_failed` or `spool_failed`.
    pub cause: String,
    /// A producer's SPIFFE ID, a log, or a part of the audit service.
    pub subject: String,
    pub detail: String,
    pub since: String,
}

/// Decisions over the last `window_seconds`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    pub window_seconds: u32,
    pub decisions: u64,
    pub allowed: u64,
    pub denied: u64,
    /// Handshakes and requests that were refused before a caller was known; part of `denied`.
    pub refused: u64,
    pub per_second: f64,
    /// Calls that were carried (allowed) in the window, and how many of those were mutual TLS.
    pub encryption: Encryption,
    /// One point a second, oldest first, seconds without a decision included.
    pub series: Vec<SeriesPoint>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Encryption {
    pub carried: u64,
    pub encrypted: u64,
    /// `encrypted / carried`, 0 to 1; absent when nothing was carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SeriesPoint {
    /// Unix seconds.
    pub at: i64,
    pub allowed: u64,
    pub denied: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterPosture {
    pub name: String,
    pub trust_domain: String,
    pub control: Reach,
    pub identity: Reach,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyPosture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxyPosture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svids: Option<SvidPosture>,
    pub federation: Vec<FederationPosture>,
    /// Manifests that the control plane refused; what they said before still holds.
    pub manifest_errors: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PolicyPosture {
    pub commit: String,
    pub digest: String,
    pub signer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activated_at: Option<String>,
    /// The newest head of the policy repository, when it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedHead>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RefusedHead {
    pub commit: String,
    pub reason: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProxyPosture {
    pub total: u32,
    pub connected: u32,
    /// Connected and enforcing the active policy commit.
    pub current: u32,
    /// Refused the newest snapshot and still run the one before.
    pub refusing: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SvidPosture {
    /// SPIFFE IDs with a valid SVID.
    pub valid: u32,
    /// The valid SVID that was issued longest ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<SvidInfo>,
    /// The valid SVID that expires first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_expiry: Option<SvidInfo>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SvidInfo {
    pub spiffe_id: String,
    pub serial: String,
    pub not_before: String,
    pub not_after: String,
}

/// This cluster's side of one federation relationship.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FederationPosture {
    pub trust_domain: String,
    /// `linked` when the trust bundle is fresh and the control planes' stream is up.
    pub state: FederationState,
    /// What keeps it from `linked`, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub gateway: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refresh: Option<String>,
    pub bundle_sequence: u64,
    pub authorities: u32,
    /// Services that the other cluster exports to this one.
    pub services: u32,
    pub fingerprint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FederationState {
    Linked,
    /// Trust bundles are exchanged, but the control planes do not hear each other (or cannot be asked).
    Degraded,
    /// The other side's trust bundle could not be refreshed.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Allow,
    Deny,
}

/// One decision, as the list shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    pub id: String,
    pub time: String,
    /// Origin of the log that holds the record: `<trust domain>/signet-log`.
    pub log: String,
    /// Who recorded it.
    pub proxy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// `<trust domain>/<namespace>/<name>`; empty when the call was refused before one was known.
    pub service: String,
    /// A Cedar action id such as `http:GET`.
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub decision: Verdict,
    pub enforcement: String,
    pub policy_ids: Vec<String>,
    pub policy_commit: String,
    pub bundle_digest: String,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// `TLSv1.3 ...`, or `none` for plaintext.
    pub tls: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<i64>,
    /// A refusal ended the call before there was anything to decide.
    pub refusal: bool,
    /// How many occurrences the record stands for; refusals of strangers are recorded in aggregate.
    pub count: i64,
    /// Place in the log.
    pub leaf_index: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DecisionPage {
    /// Newest first.
    pub items: Vec<Decision>,
    /// Give it as `cursor` for the next, older page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Give it as `after` to the stream for everything recorded since; only on the first page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
}

/// Which decisions; all that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DecisionQuery {
    /// `allow` or `deny`.
    #[param(inline)]
    pub decision: Option<Verdict>,
    /// The caller's SPIFFE ID.
    pub source: Option<String>,
    /// The service that was called (`<trust domain>/<namespace>/<name>`), or a workload's SPIFFE ID.
    pub destination: Option<String>,
    /// A Cedar action id such as `http:GET`.
    pub action: Option<String>,
    /// Part of a SPIFFE ID, service, action, path, reason or policy id; or a whole decision id or trace id.
    pub q: Option<String>,
    /// From `next` of the page before.
    pub cursor: Option<String>,
    /// 1 to 500; 100 when absent.
    pub limit: Option<u32>,
}

/// Why a call was decided as it was, computed again from the recorded inputs and the bundle of that time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Why {
    pub decision: Decision,
    /// Every value that a policy could read.
    pub context: Vec<ContextValue>,
    /// One or two sentences.
    pub summary: String,
    pub recomputation: Recomputation,
    /// The policies that decided.
    pub determining: Vec<PolicyText>,
    /// For a default deny: the permits that came nearest, nearest first.
    pub nearest: Vec<NearestPolicy>,
    /// Who signed the policy commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// What shadow policies would have changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowOutcome>,
    /// Text or JSON that the recorder added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContextValue {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Recomputation {
    pub status: RecomputationStatus,
    /// Why it differs or could not be computed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputationStatus {
    /// Decided again with the recorded bundle and inputs: the same answer.
    Same,
    /// Decided again: another answer than the record's. This should never happen.
    Different,
    /// No policy was asked (a refused handshake), or inputs are gone.
    NotRecomputable,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PolicyText {
    pub id: String,
    pub path: String,
    pub line: u32,
    pub text: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NearestPolicy {
    pub policy: PolicyText,
    pub failed: Vec<FailedClause>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FailedClause {
    pub text: String,
    pub line: u32,
    pub expected: String,
    pub actual: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ShadowOutcome {
    pub decision: Verdict,
    pub policy_ids: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceList {
    pub clusters: Vec<ClusterServices>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterServices {
    pub cluster: String,
    pub trust_domain: String,
    pub control: Reach,
    pub services: Vec<Service>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Service {
    pub service: String,
    pub hosts: Vec<String>,
    pub port: u32,
    pub protocol: String,
    pub endpoints: u32,
    pub exported: bool,
    /// The trust domain whose gateway leads to it; absent for the cluster's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

/// Clusters with their proxies, one by one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterList {
    pub clusters: Vec<Cluster>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    pub posture: ClusterPosture,
    pub proxies: Vec<Proxy>,
    pub authorities: Vec<Authority>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Proxy {
    pub spiffe_id: String,
    pub kind: String,
    pub connected: bool,
    pub snapshot_version: u64,
    pub policy_commit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Authority {
    pub kind: String,
    pub subject: String,
    pub not_before: String,
    pub not_after: String,
    pub sha256: String,
}

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// From `next` of the page before.
    pub cursor: Option<String>,
    /// 1 to 500; 100 when absent.
    pub limit: Option<u32>,
}

/// What happened to the mesh itself: issuance, rotation, federation, bundle activation, refusals.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub id: String,
    pub time: String,
    pub log: String,
    pub producer: String,
    pub action: String,
    pub reason: String,
    pub succeeded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    pub object: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    pub items: Vec<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
