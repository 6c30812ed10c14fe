//! The server's own SVID, `/signet/identity`, which it signs for itself and replaces at half of its life.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use rcgen::KeyPair;
use signet_mtls::{IdentityError, IdentityMaterial, IdentitySource, SpiffeId, SpiffeIdError, Svid};

use crate::ca::{Authority, CaError, Minted, subject_key};

/// Why the server cannot make its own SVID.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Not an SVID after all.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The trust domain's name is too long for it.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
}

/// The server's live identity: its SVID and its own trust domain's bundle alone, so that no partner's SVID can even
/// finish a handshake with it.
pub(crate) struct Own {
    id: SpiffeId,
    life: Duration,
    source: IdentitySource,
    renew_at: Mutex<i64>,
}

impl Own {
    /// Signs the first SVID.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(authority: &Authority, life: Duration, now: i64) -> Result<(Self, Minted), OwnError> {
        let id = SpiffeId::component(authority.trust_domain(), "identity")?;
        let own =
            Self { id, life, source: IdentitySource::fixed(IdentityMaterial::default()), renew_at: Mutex::new(0) };
        let minted = own.renew(authority, now)?;
        Ok((own, minted))
    }

    /// `spiffe://<trust domain>/signet/identity`
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// For TLS configurations.
    pub(crate) fn source(&self) -> &IdentitySource {
        &self.source
    }

    /// Replaces the SVID when half of its life is over.
    ///
    /// # Errors
    /// When it cannot be made; the old one stays.
    pub(crate) fn renew_if_due(&self, authority: &Authority, now: i64) -> Result<Option<Minted>, OwnError> {
        if now < *self.renew_at.lock() {
            return Ok(None);
        }
        self.renew(authority, now).map(Some)
    }

    fn renew(&self, authority: &Authority, now: i64) -> Result<Minted, OwnError> {
        let key = KeyPair::generate().map_err(CaError::from)?;
        let minted = authority.sign(&self.id, &subject_key(&key)?, self.life, now)?;
        let svid = Svid::new(minted.chain.clone(), key.serialize_der(), "")?;
        let bundles = BTreeMap::from([(authority.trust_domain().clone(), authority.roots())]);
        self.source.replace(IdentityMaterial { svids: vec![svid], bundles });
        *self.renew_at.lock() = now + (minted.not_after - now) / 2;
        Ok(minted)
    }
}
