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

impl Record {
    /// The names of the values that were erased: `path`, `source_address`, or that of a context value.
    pub fn erased_names(&self) -> impl Iterator<Item = &str> {
        self.erased.iter().filter_map(|field| match field {
            10 => Some("path"),
            17 => Some("source_address"),
            _ => {
                let place = usize::try_from(field.checked_sub(0x1_0000)?).ok()?;
                self.context.get(place).map(|(name, _)| name.as_str())
            }
        })
    }
}

/// A [`Record`] whose values lie where their owner has them, so that keeping it costs no copies of them.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    pub id: Uuid,
    pub time_us: i64,
    pub kind: Kind,
    pub producer: &'a str,
    pub source_spiffe_id: Option<&'a str>,
    pub destination_spiffe_id: Option<&'a str>,
    pub destination_service: &'a str,
    pub action: &'a str,
    pub path: Option<&'a str>,
    pub personal_path: bool,
    pub allow: bool,
    pub enforcement: Enforcement,
    pub policy_ids: &'a [Arc<str>],
    pub policy_commit: &'a str,
    pub bundle_digest: &'a str,
    pub reason: &'a str,
    pub source_address: Option<&'a str>,
    pub tls: &'a str,
    pub trace_id: Option<&'a str>,
    pub latency_us: Option<u64>,
    pub context: ContextRef<'a>,
    pub count: u64,
    pub detail: Option<&'a str>,
    pub shadow: Option<(bool, &'a [Arc<str>])>,
}

/// Names and values of a record's context.
#[derive(Debug, Clone, Copy)]
pub enum ContextRef<'a> {
    Owned(&'a [(String, String)]),
    Borrowed(&'a [(&'a str, &'a str)]),
}

impl<'a> ContextRef<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Owned(pairs) => pairs.len(),
            Self::Borrowed(pairs) => pairs.len(),
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let (owned, borrowed) = match self {
            Self::Owned(pairs) => (pairs, &[][..]),
            Self::Borrowed(pairs) => (&[][..], pairs),
        };
        owned.iter().map(|(key, value)| (key.as_str(), value.as_str())).chain(borrowed.iter().copied())
    }
}

impl<'a> From<&'a Record> for RecordRef<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            id: record.id,
            time_us: record.time_us,
            kind: record.kind,
            producer: &record.producer,
            source_spiffe_id: record.source_spiffe_id.as_deref(),
            destination_spiffe_id: record.destination_spiffe_id.as_deref(),
            destination_service: &record.destination_service,
            action: &record.action,
            path: record.path.as_deref(),
            personal_path: record.personal_path,
            allow: record.allow,
            enforcement: record.enforcement,
            policy_ids: &record.policy_ids,
            policy_commit: &record.policy_commit,
            bundle_digest: &record.bundle_digest,
            reason: &record.reason,
            source_address: record.source_address.as_deref(),
            tls: &record.tls,
            trace_id: record.trace_id.as_deref(),
            latency_us: record.latency_us,
            context: ContextRef::Owned(&record.context),
            count: record.count,
            detail: record.detail.as_deref(),
            shadow: record.shadow.as_ref().map(|(allow, policies)| (*allow, policies.as_slice())),
        }
    }
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
