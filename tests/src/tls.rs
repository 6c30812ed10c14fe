//! TLS as an attacker speaks it: any certificate, any version, no look at who answers.
//!
//! It signs with the demo's own root keys on disk, as somebody who stole them would: what is refused then is refused for
//! what the certificate says, not because the harness cannot sign.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::demo::Demo;

const HANDSHAKE: Duration = Duration::from_secs(5);

/// Somebody who signs certificates.
pub struct Authority(Issuer<'static, KeyPair>);

/// A certificate with its key; an SVID or not.
pub struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Authority {
    /// The root of a cluster of the demo, from its data directory.
    ///
    /// # Errors
    /// When it does not lie there.
    pub fn of_cluster(demo: &Demo, cluster: &str) -> anyhow::Result<Self> {
        let dir = demo.dir().join(cluster).join("identity");
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let key = KeyPair::from_pem(&read(&dir.join("root-key.pem"))?)?;
        Ok(Self(Issuer::from_ca_cert_pem(&read(&dir.join("root.pem"))?, key)?))
    }

    /// A root of `trust_domain` that nobody here has heard of.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn stranger(trust_domain: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} root"));
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(Issuer::new(params, KeyPair::generate()?)))
    }

    /// What a good SVID with these URIs would be, after `change`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> anyhow::Result<Leaf> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(300);
        params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Leaf { chain: vec![certificate.der().clone()], key: key.serialize_der() })
    }
}

/// A client that presents `leaf`, if any, and takes any server.
///
/// # Errors
/// When rustls refuses the key.
pub fn client(
    leaf: Option<&Leaf>,
    alpn: &[&[u8]],
    version: &'static SupportedProtocolVersion,
) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAny(provider)));
    let mut config = match leaf {
        Some(leaf) => {
            builder.with_client_auth_cert(leaf.chain.clone(), PrivatePkcs8KeyDer::from(leaf.key.clone()).into())?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Connects. With TLS 1.3 this may succeed although the server refuses: its answer to a certificate comes afterwards.
///
/// # Errors
/// When the handshake fails.
pub async fn connect(address: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("signet").map_err(io::Error::other)?;
    tokio::time::timeout(HANDSHAKE, TlsConnector::from(config).connect(name, stream)).await?
}

#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
