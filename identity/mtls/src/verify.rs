//! Verification of a peer: one SPIFFE ID, roots of its trust domain only (X.509-SVID, sections 2 to 5).

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::refusal::PeerError;
use crate::{Identity, IdentitySource, PeerRule, Refusal, SpiffeId};

/// A chain longer than this is nobody's; webpki has budgets of its own.
const MAX_CHAIN: usize = 8;

/// Which side the certificate's holder plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// The SPIFFE ID in the leaf of `certs`, after the checks that need no root. It proves nothing by itself: use it on chains
/// that a handshake has verified.
///
/// # Errors
/// When the leaf is not an X.509-SVID of a workload.
pub fn peer_id(certs: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    let leaf = certs.first().ok_or_else(|| PeerError::new(Refusal::NoCertificate, None, "no certificate"))?;
    let malformed = |why: &str| PeerError::new(Refusal::Protocol, None, why);
    let (rest, leaf) =
        X509Certificate::from_der(leaf).map_err(|_| malformed("the leaf is not an X.509 certificate"))?;
    if !rest.is_empty() {
        return Err(malformed("bytes follow the leaf"));
    }
    let names = leaf.subject_alternative_name().map_err(|_| malformed("the leaf has a malformed SAN extension"))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(PeerError::new(Refusal::NotOneUri, None, format!("the leaf has {} URI SANs, not one", uris.len())));
    };
    let id: SpiffeId = uri
        .parse()
        .map_err(|error: crate::SpiffeIdError| PeerError::new(Refusal::BadSpiffeId, None, error.to_string()))?;
    let refuse = |refusal, why: &str| PeerError::new(refusal, Some(&id), why);
    if leaf
        .basic_constraints()
        .map_err(|_| refuse(Refusal::Protocol, "malformed basic constraints"))?
        .is_some_and(|b| b.value.ca)
    {
        return Err(refuse(Refusal::CaLeaf, "the leaf is a CA's certificate"));
    }
    if id.path().is_empty() {
        return Err(refuse(Refusal::BadSpiffeId, "the SPIFFE ID of a leaf needs a path"));
    }
    let usage = leaf
        .key_usage()
        .map_err(|_| refuse(Refusal::Protocol, "malformed key usage"))?
        .ok_or_else(|| refuse(Refusal::KeyUsage, "the leaf has no key usage extension"))?;
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(refuse(Refusal::CaLeaf, "the leaf's key may sign certificates or CRLs"));
    }
    if !usage.value.digital_signature() {
        return Err(refuse(Refusal::KeyUsage, "the leaf's key may not make digital signatures"));
    }
    Ok(id)
}

/// Verifies a peer's chain at `now` (Unix seconds) against the roots of the trust domain that its leaf names.
///
/// Handshakes do this by themselves; call it to check a live connection again when the identity has changed.
///
/// # Errors
/// The cause of the refusal.
pub fn verify_chain(
    identity: &Identity,
    certs: &[CertificateDer<'_>],
    usage: Usage,
    now: u64,
) -> Result<SpiffeId, PeerError> {
    let id = peer_id(certs)?;
    let refuse = |refusal, why: String| PeerError::new(refusal, Some(&id), why);
    let (leaf, intermediates) =
        certs.split_first().ok_or_else(|| refuse(Refusal::NoCertificate, "no certificate".to_owned()))?;
    if intermediates.len() >= MAX_CHAIN {
        return Err(refuse(Refusal::Protocol, format!("a chain of more than {MAX_CHAIN} certificates")));
    }
    let anchors = identity.anchors(id.trust_domain()).ok_or_else(|| {
        refuse(Refusal::UnknownTrustDomain, format!("no bundle of trust domain `{}`", id.trust_domain()))
    })?;
    let parsed = EndEntityCert::try_from(leaf)
        .map_err(|error| refuse(Refusal::Protocol, format!("the leaf cannot be verified: {error}")))?;
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    parsed
        .verify_for_usage(algorithms().all, anchors, intermediates, time, usage, None, None)
        .map_err(|error| refuse(cause(&error), error.to_string()))?;
    Ok(id)
}

fn cause(error: &webpki::Error) -> Refusal {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => Refusal::Expired,
        E::CertNotValidYet { .. } => Refusal::NotYetValid,
        E::CaUsedAsEndEntity => Refusal::CaLeaf,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Refusal::KeyUsage,
        E::UnknownIssuer
        | E::InvalidSignatureForPublicKey
        | E::EndEntityUsedAsCa
        | E::PathLenConstraintViolated
        | E::NameConstraintViolation
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded => Refusal::WrongTrustDomainRoot,
        _ => Refusal::Protocol,
    }
}

pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    crate::config::provider().signature_verification_algorithms
}

/// The verifier of both sides. It reads the live identity at each handshake.
pub(crate) struct PeerVerifier {
    pub(crate) source: IdentitySource,
    pub(crate) rule: PeerRule,
    pub(crate) mandatory: bool,
}

impl PeerVerifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut chain = Vec::with_capacity(intermediates.len() + 1);
        chain.push(leaf.clone());
        chain.extend(intermediates.iter().cloned());
        let identity = self.source.current();
        let id = verify_chain(&identity, &chain, usage, now.as_secs()).map_err(PeerError::into_rustls)?;
        if self.rule.allows(&id) {
            Ok(())
        } else {
            Err(PeerError::new(Refusal::NotAllowed, Some(&id), format!("`{id}` is not expected here")).into_rustls())
        }
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Usage::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// Whom we trust is nobody's business; a client has few SVIDs to choose from anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Usage::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
