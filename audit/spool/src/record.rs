//! The audit record: one decision, event, aggregated refusal or gap, as its producer knew it.
//!
//! The field numbers of the canonical encoding live in `encoding`; adding a field here means a new version
//! of that encoding.

use std::sync::Arc;

use uuid::Uuid;

/// What a record speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One authorisation result.
    Decision,
    /// Something a component did or met: issuance, rotation, bundle activation, recovery.
    Event,
    /// Connections refused before there was anything to decide, counted in [`Record::count`].
    Refusal,
    /// Records that are known to be missing, counted in [`Record::count`].
    Gap,
}

impl Kind {
    /// Stable lowercase name, for tables, queries and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Event => "event",
            Self::Refusal => "refusal",
            Self::Gap => "gap",
        }
    }
}

/// Whether the decision took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Enforcement {
    /// The decision was enforced.
    Enforce,
    /// The decision was made and recorded, and had no effect.
    Shadow,
}

impl Enforcement {
    /// Stable lowercase name, as in the view `decisions`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// One audit record. Build it with `Record { kind: .., ..Record::default() }`.
///
/// Strings longer than their limit are cut, with a marker, when the record is encoded; see
/// `docs/record-encoding.md` for the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// UUID v7; of a decision, the decision's id.
    pub id: Uuid,
    /// When it happened by the producer's clock, Unix microseconds.
    pub time_us: i64,
    /// What the record speaks of.
    pub kind: Kind,
    /// SPIFFE ID of the component that made the record.
    pub producer: String,
    /// SPIFFE ID of the caller, where one was read from its certificate.
    pub source_spiffe_id: Option<String>,
    /// SPIFFE ID of the workload that was called.
    pub destination_spiffe_id: Option<String>,
    /// `<trust domain>/<namespace>/<name>`, or empty where there is none.
    pub destination_service: String,
    /// A Cedar action id such as `http:GET`, or the name of an event.
    pub action: String,
    /// Normalised path without query, or gRPC `<service>/<method>`.
    pub path: Option<String>,
    /// `true` when paths are personal by configuration: the path, and a context value named `path`, enter the
    /// canonical bytes as commitments.
    pub personal_path: bool,
    /// Whether the call was allowed.
    pub allow: bool,
    /// Whether the decision took effect.
    pub enforcement: Enforcement,
    /// Ids of the policies that determined the decision.
    pub policy_ids: Vec<Arc<str>>,
    /// Commit of the policy bundle, 40 hex digits, or empty where there was none.
    pub policy_commit: String,
    /// Digest of the policy bundle, `sha256:<hex>`, or empty where there was none.
    pub bundle_digest: String,
    /// Stable snake_case reason.
    pub reason: String,
    /// `ip:port` of the peer. Personal: enters the canonical bytes as a commitment.
    pub source_address: Option<String>,
    /// `TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384`, or `none`.
    pub tls: String,
    /// W3C trace id, 32 hex digits.
    pub trace_id: Option<String>,
    /// From arrival to the decision, microseconds.
    pub latency_us: Option<u64>,
    /// Every value that a policy could read. Values named `src_ip`, and those whose name begins with `jwt.`,
    /// are personal and enter the canonical bytes as commitments.
    pub context: Vec<(String, String)>,
    /// How many occurrences the record stands for: 1, more for aggregated refusals and gaps.
    pub count: u64,
    /// Free text or JSON for events.
    pub detail: Option<String>,
    /// What the decision would be with shadow policies enforced, where that differs: allow, and the policies.
    pub shadow: Option<(bool, Vec<Arc<str>>)>,
    /// Fields whose personal value was erased, by opening number; set only by decoding. Such a field reads as
    /// absent (as an empty value in `context`), and the record cannot be encoded again to the same bytes.
    pub erased: Vec<u32>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            id: Uuid::nil(),
            time_us: 0,
            kind: Kind::Decision,
            producer: String::new(),
            source_spiffe_id: None,
            destination_spiffe_id: None,
            destination_service: String::new(),
            action: String::new(),
            path: None,
            personal_path: false,
            allow: false,
            enforcement: Enforcement::Enforce,
            policy_ids: Vec::new(),
            policy_commit: String::new(),
            bundle_digest: String::new(),
            reason: String::new(),
            source_address: None,
            tls: String::new(),
            trace_id: None,
            latency_us: None,
            context: Vec::new(),
            count: 1,
            detail: None,
            shadow: None,
            erased: Vec::new(),
        }
    }
}
