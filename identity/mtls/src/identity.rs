//! What a process is (its SVIDs) and whom it can verify (one bundle per trust domain), as one immutable value.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{PeerError, SpiffeId, SpiffeIdError, TrustDomain};

/// Why identity material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("`{0}` is not a Workload API address; use `unix:/path/to/socket`")]
    Endpoint(String),
    #[error("stopped while waiting for the first SVID from `{0}`")]
    Cancelled(String),
    #[error("a certificate chain needs a leaf")]
    EmptyChain,
    #[error("the SVID is not one that a peer would accept")]
    Leaf(#[source] PeerError),
    #[error("the private key of `{id}` cannot be used")]
    Key {
        id: SpiffeId,
        #[source]
        source: rustls::Error,
    },
    #[error("the Workload API answered with a bad SPIFFE ID")]
    SpiffeId(#[from] SpiffeIdError),
    #[error("the Workload API answered without an SVID")]
    NoSvid,
}

/// One X.509-SVID with its key. The key never shows in `Debug`.
#[derive(Clone)]
pub struct Svid {
    pub id: SpiffeId,
    /// Leaf first, then the intermediates up to, not including, the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    pub hint: String,
    key: Arc<PrivatePkcs8KeyDer<'static>>,
    pub(crate) certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Reads ID and validity from the leaf of `chain`; `key` is PKCS#8 DER.
    ///
    /// # Errors
    /// When the leaf is not an X.509-SVID or the key is not usable for TLS.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Vec<u8>, hint: &str) -> Result<Self, IdentityError> {
        let id = crate::peer_id(&chain).map_err(IdentityError::Leaf)?;
        let (not_before, not_after) = chain.first().and_then(validity).ok_or(IdentityError::EmptyChain)?;
        let key = PrivatePkcs8KeyDer::from(key);
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Pkcs8(key.clone_key()))
            .map_err(|source| IdentityError::Key { id: id.clone(), source })?;
        let certified = Arc::new(CertifiedKey::new(chain.clone(), signing));
        // `Unknown` means that this kind of key cannot tell; a known difference is an error.
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(source) => return Err(IdentityError::Key { id, source }),
        }
        Ok(Self { id, chain, not_before, not_after, hint: hint.to_owned(), key: Arc::new(key), certified })
    }

    /// The private key in PKCS#8 DER. It must not leave the process or reach a log.
    pub fn key_der(&self) -> &[u8] {
        self.key.secret_pkcs8_der()
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id.as_str())
            .field("not_after", &self.not_after)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

fn validity(leaf: &CertificateDer<'static>) -> Option<(i64, i64)> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Some((leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp()))
}

/// SVIDs and bundles before they become an [`Identity`].
#[derive(Debug, Clone, Default)]
pub struct IdentityMaterial {
    pub svids: Vec<Svid>,
    pub bundles: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
}

/// All that a process has at one time. Each update of the source is a new value with the next generation.
#[derive(Debug)]
pub struct Identity {
    pub svids: Vec<Svid>,
    pub bundles: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    pub generation: u64,
    /// Parsed once per generation, so that a handshake parses no root.
    anchors: BTreeMap<TrustDomain, Vec<TrustAnchor<'static>>>,
}

impl Identity {
    pub(crate) fn new(material: IdentityMaterial, generation: u64) -> Self {
        let anchors = material.bundles.iter().map(|(domain, roots)| (domain.clone(), anchors(domain, roots))).collect();
        Self { svids: material.svids, bundles: material.bundles, generation, anchors }
    }

    /// The roots of one trust domain; `None` when it is not known here.
    pub(crate) fn anchors(&self, domain: &TrustDomain) -> Option<&[TrustAnchor<'static>]> {
        self.anchors.get(domain).map(Vec::as_slice)
    }

    /// The earliest end of an SVID, Unix seconds.
    pub fn not_after(&self) -> Option<i64> {
        self.svids.iter().map(|svid| svid.not_after).min()
    }
}

/// A root that cannot be parsed is left out: it can verify nothing, and its trust domain's other roots go on.
fn anchors(domain: &TrustDomain, roots: &[CertificateDer<'static>]) -> Vec<TrustAnchor<'static>> {
    roots
        .iter()
        .filter_map(|root| match webpki::anchor_from_trusted_cert(root) {
            Ok(anchor) => Some(anchor.to_owned()),
            Err(error) => {
                tracing::warn!(trust_domain = %domain, %error, "a root of the bundle cannot be parsed and is left out");
                None
            }
        })
        .collect()
}
