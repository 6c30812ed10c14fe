//! Break-glass: a grant that opens, for an emergency and for a time, what policies hold back for one.
//!
//! A grant is a JSON document and SSH signatures over its very bytes, in a namespace of its own, so that no signature
//! over a commit can be taken for one. It permits nothing by itself: where a call is covered, policies see
//! `context.break_glass`. Accepting one reads no clock and keeps nothing; what was granted before is the caller's to know.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use signet_policy::{split_id, split_spiffe_id};
use thiserror::Error;

use crate::refusal::Cause;
use crate::signers::TrustedSigners;

/// The namespace of the signatures (`ssh-keygen -Y sign -n signet-break-glass`).
pub const BREAK_GLASS_NAMESPACE: &str = "signet-break-glass";

const VERSION: u32 = 1;
/// The record of a grant holds all of its document.
const DOCUMENT_BYTES: usize = 3 * 1024;
const SIGNATURE_BYTES: usize = 8 * 1024;
const SIGNATURES: usize = 8;
/// Callers, and services, of one grant. A grant for everything would be none.
const NAMES: usize = 32;
const ID_BYTES: usize = 64;
const TICKET_BYTES: usize = 128;
const REASON_BYTES: usize = 500;
/// By how much the clock of whoever made a grant may be ahead of ours.
const AHEAD_SECONDS: i64 = 60;

/// What is signed. Unknown fields are refused: nobody signs what is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantDocument {
    /// 1.
    pub version: u32,
    /// Unique: a grant is given once. Letters, digits and `-`.
    pub id: String,
    /// Where it holds.
    pub trust_domain: String,
    /// SPIFFE IDs of the callers, each named by itself.
    pub principals: BTreeSet<String>,
    /// `<trust domain>/<namespace>/<name>`, or the name of an external service.
    pub services: BTreeSet<String>,
    /// Which incident it is for.
    pub ticket: String,
    /// Why.
    pub reason: String,
    /// RFC 3339, UTC. What it covers, it covers from when it is given.
    pub issued_at: Timestamp,
    /// RFC 3339, UTC, whole seconds: the first moment at which it is over.
    pub until: Timestamp,
}

/// What a control plane asks of a grant.
#[derive(Clone, Debug)]
pub struct GrantRules<'a> {
    pub trust_domain: &'a str,
    pub signers: &'a TrustedSigners,
    /// Different people who have to sign; at least one does in any case.
    pub signatures: u32,
    /// From `issued_at` to `until`.
    pub max_minutes: u32,
}

/// A grant that enough trusted people signed and that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedGrant {
    pub document: GrantDocument,
    /// Who signed, by e-mail address, in order.
    pub approvers: BTreeSet<String>,
}

/// A grant that is not given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {message}")]
pub struct GrantRefusal {
    /// Stable: `malformed`, `other_trust_domain`, `too_long`, `not_yet`, `over`, `too_few_signatures`,
    /// `bad_signature`, `unsupported_signature`, `untrusted_signer`, `signer_expired`, `signer_not_yet_valid`.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl From<Cause> for GrantRefusal {
    fn from(Cause { code, message }: Cause) -> Self {
        Self { code, message }
    }
}

fn refuse(code: &'static str, message: impl Into<String>) -> GrantRefusal {
    GrantRefusal { code, message: message.into() }
}

impl GrantDocument {
    /// A document of this version about calls of `principals` to `services`.
    pub fn new(id: &str, trust_domain: &str, principals: BTreeSet<String>, services: BTreeSet<String>) -> Self {
        let (id, trust_domain) = (id.to_owned(), trust_domain.to_owned());
        let (issued_at, until) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let (ticket, reason) = (String::new(), String::new());
        Self { version: VERSION, id, trust_domain, principals, services, ticket, reason, issued_at, until }
    }

    /// Reads a document that came from elsewhere.
    ///
    /// # Errors
    /// `malformed`, with the field.
    pub fn parse(text: &str) -> Result<Self, GrantRefusal> {
        let malformed = |why: String| refuse("malformed", format!("the grant is malformed: {why}"));
        if text.len() > DOCUMENT_BYTES {
            return Err(malformed(format!("it has more than {DOCUMENT_BYTES} bytes")));
        }
        let document: Self = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        document.fault().map_or(Ok(document), |why| Err(malformed(why)))
    }

    /// What is wrong with the document's own fields.
    pub fn fault(&self) -> Option<String> {
        let plain = |text: &str, most: usize| {
            !text.trim().is_empty() && text.len() <= most && !text.chars().any(char::is_control)
        };
        let named = |service: &str| {
            let external = !service.is_empty()
                && service.len() <= 253
                && service.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            external || split_id(service).is_some_and(|(td, _, _)| td == self.trust_domain)
        };
        let id =
            |id: &str| (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if self.version != VERSION {
            return Some(format!("`version` is {}, and this program knows {VERSION}", self.version));
        }
        if !id(&self.id) {
            return Some(format!("`id` is not 1 to {ID_BYTES} letters, digits and `-`"));
        }
        for (field, names) in [("principals", &self.principals), ("services", &self.services)] {
            if names.is_empty() || names.len() > NAMES {
                return Some(format!("`{field}` has {} entries; name 1 to {NAMES}", names.len()));
            }
        }
        if let Some(bad) = self.principals.iter().find(|id| split_spiffe_id(id).is_none()) {
            return Some(format!("`principals`: `{bad}` is no SPIFFE ID; name each caller"));
        }
        if let Some(bad) = self.services.iter().find(|service| !named(service)) {
            let td = &self.trust_domain;
            return Some(format!("`services`: `{bad}` is neither `{td}/<namespace>/<name>` nor an external service"));
        }
        if !plain(&self.ticket, TICKET_BYTES) {
            return Some(format!("`ticket` is not a text of 1 to {TICKET_BYTES} bytes on one line"));
        }
        if !plain(&self.reason, REASON_BYTES) {
            return Some(format!("`reason` is not a text of 1 to {REASON_BYTES} bytes on one line"));
        }
        (self.until.subsec_nanosecond() != 0).then(|| "`until` is not a whole second".to_owned())
    }
}

impl AcceptedGrant {
    /// Judges a document with the armoured signatures over it, at `now` (Unix seconds).
    ///
    /// Every signature has to be good, also those beyond what the rules ask for. A person counts once, whatever number of
    /// keys or addresses they have.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn judge(text: &str, signatures: &[String], rules: &GrantRules<'_>, now: i64) -> Result<Self, GrantRefusal> {
        let document = GrantDocument::parse(text)?;
        if document.trust_domain != rules.trust_domain {
            let (of, here) = (&document.trust_domain, rules.trust_domain);
            return Err(refuse("other_trust_domain", format!("the grant is for `{of}`, and this is `{here}`")));
        }
        let (issued_at, until) = (document.issued_at.as_second(), document.until.as_second());
        if until <= now {
            return Err(refuse("over", format!("the grant was over at {}; make a new one", document.until)));
        }
        if issued_at > now + AHEAD_SECONDS {
            let message = format!("the grant is of {}, which is not yet; check the clocks", document.issued_at);
            return Err(refuse("not_yet", message));
        }
        if until - issued_at > i64::from(rules.max_minutes) * 60 {
            let most = rules.max_minutes;
            return Err(refuse("too_long", format!("the grant is for longer than {most} minutes; make a shorter one")));
        }
        let approvers = approvers(text, signatures, rules, now)?;
        let (has, needs) = (approvers.len(), usize::try_from(rules.signatures.max(1)).unwrap_or(usize::MAX));
        if has < needs {
            let who = approvers.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let message = format!("the grant needs signatures of {needs} people and has {has} ({who})");
            return Err(refuse("too_few_signatures", message));
        }
        Ok(Self { document, approvers })
    }
}

/// One name for each person who signed.
fn approvers(
    text: &str,
    signatures: &[String],
    rules: &GrantRules<'_>,
    now: i64,
) -> Result<BTreeSet<String>, GrantRefusal> {
    if signatures.len() > SIGNATURES || signatures.iter().any(|signature| signature.len() > SIGNATURE_BYTES) {
        let message = format!("a grant has at most {SIGNATURES} signatures of {SIGNATURE_BYTES} bytes");
        return Err(refuse("malformed", message));
    }
    let (mut approvers, mut known) = (BTreeSet::new(), BTreeSet::new());
    for signature in signatures {
        let signature = signature.trim().as_bytes();
        let holders = rules.signers.holders(BREAK_GLASS_NAMESPACE, text.as_bytes(), signature, now)?;
        if !holders.iter().any(|holder| known.contains(holder)) {
            approvers.extend(holders.first().cloned());
        }
        known.extend(holders);
    }
    Ok(approvers)
}
