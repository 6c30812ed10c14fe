//! A small CA for tests, in memory. Behind the feature `testing`; never in a binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::{IdentityMaterial, IdentitySource, SpiffeId, Svid, TrustDomain};

/// A trust domain's root, and an issuer of SVIDs directly under it.
pub struct Ca {
    domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    /// # Panics
    /// When `domain` is not a trust domain's name.
    pub fn new(domain: &str) -> Self {
        static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let domain: TrustDomain = domain.parse().expect("a trust domain");
        let mut params = CertificateParams::default();
        // Each CA needs a subject of its own: equal ones run into webpki's signature budget.
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{domain} test root {serial}"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(3600);
        params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(24 * 3600);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
        Self { domain, issuer }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// An SVID that ends after `ttl`. The CA signs any ID, also one of another trust domain: that is how mis-issuance is
    /// tested.
    pub fn issue(&self, id: &SpiffeId, ttl: Duration) -> Svid {
        self.forge(&[id.as_str()], |params| params.not_after = OffsetDateTime::now_utc() + ttl)
            .into_svid()
            .expect("an acceptable SVID")
    }

    /// A leaf with these URI SANs, changed by `change` before it is signed: for certificates that must be refused.
    pub fn forge(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Forged {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris.iter().map(|text| uri(text)).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(300);
        params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Forged { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }
}

/// A certificate with its key that may be no SVID at all.
#[derive(Clone)]
pub struct Forged {
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8 DER.
    pub key: Vec<u8>,
}

impl Forged {
    /// # Errors
    /// When it is not an X.509-SVID.
    pub fn into_svid(self) -> Result<Svid, crate::IdentityError> {
        Svid::new(self.chain, self.key, "")
    }

    /// A TLS client that presents this certificate and takes any server: what an attacker would run.
    pub fn client_config(&self, alpn: &[&[u8]]) -> std::sync::Arc<rustls::ClientConfig> {
        client_of_strangers(Some(self), alpn, &[&rustls::version::TLS13])
    }
}

/// A TLS client that takes any server, with or without a certificate, of any TLS version.
pub fn client_of_strangers(
    certificate: Option<&Forged>,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::sync::Arc<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(TakesAny));
    let mut config = match certificate {
        Some(forged) => builder
            .with_client_auth_cert(
                forged.chain.clone(),
                rustls::pki_types::PrivatePkcs8KeyDer::from(forged.key.clone()).into(),
            )
            .expect("a key that fits"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    std::sync::Arc::new(config)
}

#[derive(Debug)]
struct TakesAny;

impl rustls::client::danger::ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        crate::verify::algorithms().supported_schemes()
    }
}

/// SVIDs for `ids`, each from the CA of its trust domain (else from the first), and the bundles of all `cas`.
pub fn material(cas: &[&Ca], ids: &[SpiffeId]) -> IdentityMaterial {
    let own = cas.first().expect("at least one CA");
    let svids = ids
        .iter()
        .map(|id| {
            let ca = cas.iter().find(|ca| ca.domain == *id.trust_domain()).unwrap_or(own);
            ca.issue(id, Duration::from_secs(3600))
        })
        .collect();
    IdentityMaterial { svids, bundles: cas.iter().map(|ca| (ca.domain.clone(), vec![ca.certificate()])).collect() }
}

/// A fixed source over [`material`].
pub fn source(cas: &[&Ca], ids: &[SpiffeId]) -> IdentitySource {
    IdentitySource::fixed(material(cas, ids))
}

/// Parses an ID.
///
/// # Panics
/// When it is none.
pub fn id(text: &str) -> SpiffeId {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("an IA5 string"))
}
