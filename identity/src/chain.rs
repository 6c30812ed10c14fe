//! Verifies a certificate chain against given roots at a given moment, outside of a TLS handshake (invites).

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;
use signet_mtls::{IdentityMaterial, IdentitySource, PeerError, SpiffeId, TrustDomain, Usage};

/// Checks that `chain` (leaf first) leads to one of `trust_domain`'s `roots` at `now` (Unix seconds).
///
/// # Errors
/// With the reason, as in a handshake; a chain of another trust domain has no roots here.
pub(crate) fn verify(
    chain: &[CertificateDer<'static>],
    trust_domain: &TrustDomain,
    roots: &[CertificateDer<'static>],
    now: i64,
) -> Result<SpiffeId, PeerError> {
    let bundles = BTreeMap::from([(trust_domain.clone(), roots.to_vec())]);
    let identity = IdentitySource::fixed(IdentityMaterial { svids: Vec::new(), bundles }).current();
    signet_mtls::verify_chain(&identity, chain, Usage::Client, u64::try_from(now).unwrap_or(0))
}
