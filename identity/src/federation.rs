//! Relationships with other trust domains: accepted by invite, kept on disk, refreshed by polling.
//!
//! INVARIANT: a relationship's bundle holds authorities of its own trust domain only, and its sequence never goes back.
//! Nothing here touches the own trust domain: a dead partner cannot block local identities.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use signet_api::identity as api;
use signet_mtls::{SpiffeId, TrustDomain};
use tokio::sync::watch;

use crate::{
    bundle::TrustBundle,
    endpoint_url::EndpointUrl,
    invite::{self, Invite, InviteError},
    store::{self, StoreError},
};

const MAX_RELATIONSHIPS: usize = 256;

/// A link to another trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relationship {
    /// Where its bundle is published.
    pub bundle_endpoint_url: EndpointUrl,
    /// Whom that endpoint must prove to be.
    pub bundle_endpoint_spiffe_id: SpiffeId,
    /// `host:port` of its gateway, or empty.
    pub gateway: String,
    /// `host:port` of its control plane's link, or empty.
    pub control: String,
    /// Unix seconds.
    pub accepted_at: i64,
    /// Of the invite that was accepted.
    pub fingerprint: String,
    /// Its roots as they were last fetched.
    pub bundle: TrustBundle,
    /// Unix seconds; 0 before the first success.
    pub last_refresh: i64,
    /// Why the last poll failed; empty when it did not.
    pub last_error: String,
}

impl Relationship {
    /// As operators and the control plane see it.
    #[must_use]
    pub fn to_api(&self) -> api::Relationship {
        api::Relationship {
            trust_domain: self.bundle.trust_domain.to_string(),
            bundle_endpoint_url: self.bundle_endpoint_url.to_string(),
            bundle_endpoint_spiffe_id: self.bundle_endpoint_spiffe_id.to_string(),
            gateway: self.gateway.clone(),
            control: self.control.clone(),
            accepted_at: self.accepted_at,
            last_refresh: self.last_refresh,
            last_error: self.last_error.clone(),
            bundle_sequence: self.bundle.sequence,
            authorities: u32::try_from(self.bundle.authorities.len()).unwrap_or(u32::MAX),
            fingerprint: self.fingerprint.clone(),
        }
    }
}

/// All relationships at one moment.
pub type Relationships = BTreeMap<TrustDomain, Relationship>;

/// Why an invite was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The invite itself.
    #[error(transparent)]
    Invite(#[from] InviteError),
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a fetched bundle was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RefreshError {
    /// An older one than we have.
    #[error("field `spiffe_sequence`: went back from {have} to {got}")]
    Backwards {
        /// Ours.
        have: u64,
        /// Theirs.
        got: u64,
    },
    /// Other keys under a number that we know.
    #[error("field `keys`: changed without a new `spiffe_sequence` ({0})")]
    SameSequence(u64),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    trust_domain: TrustDomain,
    bundle_endpoint_url: String,
    bundle_endpoint_spiffe_id: SpiffeId,
    gateway: String,
    control: String,
    accepted_at: i64,
    fingerprint: String,
    authorities: Vec<String>,
    sequence: u64,
    refresh_hint: u32,
    last_refresh: i64,
}

/// The relationships of one server.
#[derive(Debug)]
pub struct Federation {
    own: TrustDomain,
    path: PathBuf,
    /// Held while a change is written, so that disk and memory change in the same order.
    writing: Mutex<()>,
    state: watch::Sender<Arc<Relationships>>,
}

impl Federation {
    /// Reads the relationships of earlier starts.
    ///
    /// # Errors
    /// When their file is damaged; it is never replaced in silence.
    pub fn open(own: TrustDomain, path: PathBuf) -> Result<Self, StoreError> {
        let stored: Vec<Stored> = store::read_json(&path)?.unwrap_or_default();
        let mut relationships = Relationships::new();
        for row in stored {
            let trust_domain = row.trust_domain.clone();
            match restore(row) {
                Some(relationship) => {
                    relationships.insert(trust_domain, relationship);
                }
                None => tracing::error!(%trust_domain, file = %path.display(),
                    "a relationship on disk is damaged and left out; accept a fresh invite of that trust domain"),
            }
        }
        Ok(Self { own, path, writing: Mutex::new(()), state: watch::Sender::new(Arc::new(relationships)) })
    }

    /// The relationships now and at each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Relationships>> {
        self.state.subscribe()
    }

    /// The relationships now.
    #[must_use]
    pub fn current(&self) -> Arc<Relationships> {
        Arc::clone(&self.state.borrow())
    }

    /// Verifies an invite and links with its trust domain; gives the relationship.
    ///
    /// A second invite of the same trust domain replaces addresses and adopts its bundle, unless that is older than the
    /// one already fetched.
    ///
    /// # Errors
    /// Naming the field at fault; nothing has changed then.
    pub fn accept(&self, text: &str, now: i64) -> Result<Relationship, AcceptError> {
        let invite = invite::parse(text, now)?;
        let fingerprint = invite::fingerprint(text)?;
        let field = |field: &str, why: String| InviteError::Field { field: field.to_owned(), why };
        if invite.trust_domain == self.own {
            let why = format!("`{}` is this cluster's own; carry the invite to the other cluster", self.own);
            return Err(field("trust_domain", why).into());
        }
        let _writing = self.writing.lock();
        let mut changed = Relationships::clone(&self.state.borrow());
        let earlier = changed.get(&invite.trust_domain);
        if earlier.is_none() && changed.len() >= MAX_RELATIONSHIPS {
            return Err(field("trust_domain", format!("there are {MAX_RELATIONSHIPS} relationships already")).into());
        }
        if let Some(earlier) = earlier {
            check_newer(&earlier.bundle, &invite.bundle).map_err(|error| {
                field("bundle.sequence", format!("{error}; this invite is stale, ask for a fresh one"))
            })?;
        }
        let last_refresh = earlier.map_or(0, |earlier| earlier.last_refresh);
        let relationship = from_invite(invite, fingerprint, now, last_refresh);
        changed.insert(relationship.bundle.trust_domain.clone(), relationship.clone());
        self.persist(&changed)?;
        self.state.send_replace(Arc::new(changed));
        Ok(relationship)
    }

    /// Ends the relationship with `trust_domain` and gives it as it was; `None` when there was none.
    ///
    /// Whoever watches no longer sees its authorities, so that its identities verify nowhere in this trust domain.
    ///
    /// # Errors
    /// When the change could not be written down; the relationship then still stands.
    pub fn unlink(&self, trust_domain: &TrustDomain) -> Result<Option<Relationship>, StoreError> {
        let _writing = self.writing.lock();
        let mut changed = Relationships::clone(&self.state.borrow());
        let Some(removed) = changed.remove(trust_domain) else { return Ok(None) };
        self.persist(&changed)?;
        self.state.send_replace(Arc::new(changed));
        Ok(Some(removed))
    }

    /// Takes what a poll of `trust_domain`'s endpoint gave. An error leaves the bundle as it was.
    ///
    /// # Errors
    /// Why the fetched bundle was not taken; the relationship shows it too.
    pub fn refreshed(
        &self,
        trust_domain: &TrustDomain,
        fetched: Result<TrustBundle, String>,
        now: i64,
    ) -> Result<(), String> {
        let _writing = self.writing.lock();
        let mut changed = Relationships::clone(&self.state.borrow());
        // Removed while the poll was under way.
        let Some(relationship) = changed.get_mut(trust_domain) else { return Ok(()) };
        let checked = fetched.and_then(|bundle| match check_newer(&relationship.bundle, &bundle) {
            Ok(()) => Ok(bundle),
            Err(error) => Err(error.to_string()),
        });
        let outcome = match checked {
            Ok(bundle) => {
                let differs = relationship.bundle != bundle;
                relationship.bundle = bundle;
                relationship.last_refresh = now;
                relationship.last_error.clear();
                // Authorities must be on disk before anyone trusts them, or a restart would go back.
                if differs { self.persist(&changed).map_err(|error| error.to_string()) } else { Ok(()) }
            }
            Err(error) => {
                relationship.last_error.clone_from(&error);
                self.state.send_replace(Arc::new(changed));
                return Err(error);
            }
        };
        if outcome.is_ok() {
            self.state.send_replace(Arc::new(changed));
        }
        outcome
    }

    fn persist(&self, relationships: &Relationships) -> Result<(), StoreError> {
        let rows: Vec<Stored> = relationships.values().map(to_stored).collect();
        store::write_json(&self.path, &rows)
    }
}

/// A bundle may follow another when its sequence is higher, or equal with the same authorities. Documents without a
/// sequence (0) come from publishers that do not count.
fn check_newer(have: &TrustBundle, got: &TrustBundle) -> Result<(), RefreshError> {
    if got.sequence < have.sequence {
        return Err(RefreshError::Backwards { have: have.sequence, got: got.sequence });
    }
    if got.sequence == have.sequence && got.sequence > 0 && got.authorities != have.authorities {
        return Err(RefreshError::SameSequence(got.sequence));
    }
    Ok(())
}

fn from_invite(invite: Invite, fingerprint: String, now: i64, last_refresh: i64) -> Relationship {
    Relationship {
        bundle_endpoint_url: invite.bundle_endpoint_url,
        bundle_endpoint_spiffe_id: invite.bundle_endpoint_spiffe_id,
        gateway: invite.gateway,
        control: invite.control,
        accepted_at: now,
        fingerprint,
        bundle: invite.bundle,
        last_refresh,
        last_error: String::new(),
    }
}

fn to_stored(relationship: &Relationship) -> Stored {
    Stored {
        trust_domain: relationship.bundle.trust_domain.clone(),
        bundle_endpoint_url: relationship.bundle_endpoint_url.to_string(),
        bundle_endpoint_spiffe_id: relationship.bundle_endpoint_spiffe_id.clone(),
        gateway: relationship.gateway.clone(),
        control: relationship.control.clone(),
        accepted_at: relationship.accepted_at,
        fingerprint: relationship.fingerprint.clone(),
        authorities: relationship.bundle.authorities.iter().map(hex::encode).collect(),
        sequence: relationship.bundle.sequence,
        refresh_hint: relationship.bundle.refresh_hint,
        last_refresh: relationship.last_refresh,
    }
}

fn restore(row: Stored) -> Option<Relationship> {
    let authorities = row
        .authorities
        .iter()
        .map(|text| hex::decode(text).ok().map(CertificateDer::from))
        .collect::<Option<Vec<_>>>()?;
    let bundle = TrustBundle {
        trust_domain: row.trust_domain,
        authorities,
        sequence: row.sequence,
        refresh_hint: row.refresh_hint,
    };
    bundle.check("authorities").ok()?;
    Some(Relationship {
        bundle_endpoint_url: row.bundle_endpoint_url.parse().ok()?,
        bundle_endpoint_spiffe_id: row.bundle_endpoint_spiffe_id,
        gateway: row.gateway,
        control: row.control,
        accepted_at: row.accepted_at,
        fingerprint: row.fingerprint,
        bundle,
        last_refresh: row.last_refresh,
        last_error: String::new(),
    })
}

#[cfg(test)]
mod tests;
