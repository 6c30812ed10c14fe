//! Why a peer was refused: one small vocabulary for metrics, records and logs.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

use crate::SpiffeId;

/// The cause of a refused handshake. [`Refusal::as_str`] is stable: metrics and records carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    NotTls,
    Tls12,
    NoCertificate,
    UnknownTrustDomain,
    /// The chain does not verify against the roots of the trust domain that the leaf names.
    WrongTrustDomainRoot,
    Expired,
    NotYetValid,
    NotOneUri,
    CaLeaf,
    BadSpiffeId,
    /// The leaf's key may not sign handshakes.
    KeyUsage,
    /// A good SVID of somebody who is not expected here.
    NotAllowed,
    Alpn,
    Timeout,
    Protocol,
}

impl Refusal {
    pub const ALL: [Self; 15] = [
        Self::NotTls,
        Self::Tls12,
        Self::NoCertificate,
        Self::UnknownTrustDomain,
        Self::WrongTrustDomainRoot,
        Self::Expired,
        Self::NotYetValid,
        Self::NotOneUri,
        Self::CaLeaf,
        Self::BadSpiffeId,
        Self::KeyUsage,
        Self::NotAllowed,
        Self::Alpn,
        Self::Timeout,
        Self::Protocol,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Tls12 => "tls12",
            Self::NoCertificate => "no_certificate",
            Self::UnknownTrustDomain => "unknown_trust_domain",
            Self::WrongTrustDomainRoot => "wrong_trust_domain_root",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NotOneUri => "not_one_uri",
            Self::CaLeaf => "ca_leaf",
            Self::BadSpiffeId => "bad_spiffe_id",
            Self::KeyUsage => "key_usage",
            Self::NotAllowed => "not_allowed",
            Self::Alpn => "alpn",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A peer's certificate was refused. It travels inside `rustls::Error` to [`classify`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("peer certificate refused ({refusal}): {why}")]
pub struct PeerError {
    pub refusal: Refusal,
    /// The SPIFFE ID that the leaf claims, when one could be read. It is *not* verified.
    pub claimed: Option<SpiffeId>,
    pub why: String,
}

impl PeerError {
    pub(crate) fn new(refusal: Refusal, claimed: Option<&SpiffeId>, why: impl Into<String>) -> Self {
        Self { refusal, claimed: claimed.cloned(), why: why.into() }
    }

    pub(crate) fn into_rustls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(std::sync::Arc::new(self))))
    }
}

/// The cause inside the error of a handshake.
pub fn classify(error: &io::Error) -> Refusal {
    if error.kind() == io::ErrorKind::TimedOut {
        return Refusal::Timeout;
    }
    let Some(tls) = tls_error(error) else { return Refusal::Protocol };
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(_)) => {
            peer_error(tls).map_or(Refusal::Protocol, |peer| peer.refusal)
        }
        rustls::Error::NoCertificatesPresented => Refusal::NoCertificate,
        rustls::Error::NoApplicationProtocol
        | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Refusal::Alpn,
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => Refusal::Tls12,
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => Refusal::NotTls,
        _ => Refusal::Protocol,
    }
}

/// The SPIFFE ID that a refused peer claimed, unverified, when one could be read.
pub fn refused_peer(error: &io::Error) -> Option<SpiffeId> {
    peer_error(tls_error(error)?)?.claimed.clone()
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn peer_error(error: &rustls::Error) -> Option<&PeerError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}
