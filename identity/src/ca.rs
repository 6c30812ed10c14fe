//! A trust domain's authority: a root on disk, a short-lived intermediate in memory, and the SVIDs it signs.
//!
//! The root key signs intermediates and nothing else. An intermediate is made at start and replaced well before half its
//! life, so a leaf signed by it has at least the other half to live in. Time is an argument (Unix seconds).
//!
//! INVARIANT: no leaf outlives its issuer, no leaf is a CA, and no leaf names anything but the SPIFFE ID given.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use signet_mtls::{SpiffeId, TrustDomain};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::store::{self, DataDir, StoreError};

/// How far a leaf's `not_before` lies in the past, for clocks that run behind.
const BACKDATE_LEAF: i64 = 30;
const BACKDATE_INTERMEDIATE: i64 = 60;
const BACKDATE_ROOT: i64 = 120;
const ROOT_LIFE: i64 = 10 * 365 * 86_400;
const ROOT_KEY_FILE: &str = "root-key.pem";
const ROOT_FILE: &str = "root.pem";

/// What can go wrong with an authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the data directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root on disk cannot be used.
    #[error(
        "root in `{file}`: {why}; restore it from a backup, or move the data directory away to start a new trust root"
    )]
    Root {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A SPIFFE ID of another trust domain was to be signed.
    #[error("`{0}` is not of this trust domain")]
    ForeignId(SpiffeId),
    /// The certificate could not be made.
    #[error("could not make a certificate")]
    Make(#[from] rcgen::Error),
    /// The clock is outside what a certificate can say.
    #[error("the clock is out of range")]
    Clock,
}

/// A signed SVID without its key.
#[derive(Debug, Clone)]
pub struct Minted {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Leaf first, then the intermediate.
    pub chain: Vec<CertificateDer<'static>>,
    /// Hexadecimal serial number.
    pub serial: String,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
}

/// What `signet identity list` shows of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityInfo {
    /// `root` or `intermediate`.
    pub kind: &'static str,
    /// Its unique subject.
    pub subject: String,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// Of the certificate, hexadecimal.
    pub sha256: String,
}

struct Certified {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    info: AuthorityInfo,
}

/// The authority of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    root: Certified,
    intermediate: RwLock<Arc<Certified>>,
    intermediate_life: i64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the root in `dir`, making it at first start, and signs a fresh intermediate.
    ///
    /// # Errors
    /// When the root on disk is damaged, expired or of another trust domain: it is never replaced in silence.
    pub fn open(
        dir: &DataDir,
        trust_domain: TrustDomain,
        intermediate_life: Duration,
        now: i64,
    ) -> Result<Self, CaError> {
        let root = match load_root(dir, &trust_domain, now)? {
            Some(root) => root,
            None => make_root(dir, &trust_domain, now)?,
        };
        let intermediate_life = i64::try_from(intermediate_life.as_secs()).map_err(|_| CaError::Clock)?;
        let intermediate = make_intermediate(&root, &trust_domain, intermediate_life, now)?;
        Ok(Self { trust_domain, root, intermediate: RwLock::new(Arc::new(intermediate)), intermediate_life })
    }

    /// The trust domain that this authority speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates that verifiers trust.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.certificate.clone()]
    }

    /// Root and current intermediate.
    #[must_use]
    pub fn authorities(&self) -> Vec<AuthorityInfo> {
        vec![self.root.info.clone(), self.intermediate.read().info.clone()]
    }

    /// When the current intermediate is due to be replaced: at two fifths of its life.
    #[must_use]
    pub fn rotation_due(&self) -> i64 {
        let not_before = self.intermediate.read().info.not_before;
        not_before + BACKDATE_INTERMEDIATE + self.intermediate_life * 2 / 5
    }

    /// Replaces the intermediate when it is due; what it signed stays valid, because a chain carries its intermediate.
    ///
    /// # Errors
    /// When the new one cannot be made; the old one stays.
    pub fn rotate_if_due(&self, now: i64) -> Result<Option<AuthorityInfo>, CaError> {
        if now < self.rotation_due() {
            return Ok(None);
        }
        let fresh = make_intermediate(&self.root, &self.trust_domain, self.intermediate_life, now)?;
        let info = fresh.info.clone();
        *self.intermediate.write() = Arc::new(fresh);
        Ok(Some(info))
    }

    /// Signs an SVID for `id` over `key`, valid for `life` from `now` or until its issuer ends, whichever is first.
    ///
    /// # Errors
    /// When `id` is of another trust domain or the certificate cannot be made.
    pub fn sign(&self, id: &SpiffeId, key: &SubjectPublicKeyInfo, life: Duration, now: i64) -> Result<Minted, CaError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(CaError::ForeignId(id.clone()));
        }
        // A machine that slept may ask before the rotation task has woken up.
        self.rotate_if_due(now)?;
        let issuer = Arc::clone(&self.intermediate.read());
        let life = i64::try_from(life.as_secs()).map_err(|_| CaError::Clock)?;
        let not_after = now.saturating_add(life).min(issuer.info.not_after);
        let not_before = (now - BACKDATE_LEAF).max(issuer.info.not_before);
        let mut params = params_between(not_before, not_after)?;
        params.subject_alt_names = vec![uri(id.as_str())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial = fresh_serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let leaf = params.signed_by(key, &issuer.issuer)?;
        Ok(Minted {
            id: id.clone(),
            chain: vec![leaf.der().clone(), issuer.certificate.clone()],
            serial: hex::encode(serial),
            not_before,
            not_after,
        })
    }
}

/// Subject key of a key pair made here.
///
/// # Errors
/// Never for a key that rcgen made.
pub fn subject_key(key: &KeyPair) -> Result<SubjectPublicKeyInfo, CaError> {
    Ok(SubjectPublicKeyInfo::from_der(&key.subject_public_key_info())?)
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into()?))
}

fn moment(unix: i64) -> Result<OffsetDateTime, CaError> {
    OffsetDateTime::from_unix_timestamp(unix).map_err(|_| CaError::Clock)
}

/// An empty subject between two moments; rcgen's defaults (a common name, 1975 to 4096) are all replaced.
fn params_between(not_before: i64, not_after: i64) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = moment(not_before)?;
    params.not_after = moment(not_after)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn fresh_serial() -> Result<[u8; 16], CaError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive and of full length (RFC 5280, 4.1.2.2).
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(serial)
}

/// CAs with equal subjects would cost a verifier one signature check each, so every subject carries a random part.
fn ca_params(
    kind: &str,
    trust_domain: &TrustDomain,
    path: u8,
    from: i64,
    to: i64,
) -> Result<CertificateParams, CaError> {
    let mut params = params_between(from, to)?;
    let serial = fresh_serial()?;
    let unique = hex::encode(serial.get(..6).unwrap_or_default());
    params.distinguished_name.push(DnType::OrganizationName, "Signet");
    // A common name holds 64 characters at most (RFC 5280, A.1); the whole trust domain is in the URI.
    let domain: String = trust_domain.to_string().chars().take(32).collect();
    params.distinguished_name.push(DnType::CommonName, format!("{domain} {kind} {unique}"));
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn make_intermediate(root: &Certified, trust_domain: &TrustDomain, life: i64, now: i64) -> Result<Certified, CaError> {
    let key = KeyPair::generate()?;
    let from = now - BACKDATE_INTERMEDIATE;
    let to = now.saturating_add(life).min(root.info.not_after);
    let params = ca_params("intermediate", trust_domain, 0, from, to)?;
    let certificate = params.signed_by(&key, &root.issuer)?.der().clone();
    let info = describe("intermediate", &certificate).ok_or(rcgen::Error::CouldNotParseCertificate)?;
    Ok(Certified { issuer: Issuer::new(params, key), certificate, info })
}

fn make_root(dir: &DataDir, trust_domain: &TrustDomain, now: i64) -> Result<Certified, CaError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?;
    let params = ca_params("root", trust_domain, 1, now - BACKDATE_ROOT, now + ROOT_LIFE)?;
    let certificate = params.self_signed(&key)?;
    // The key first: a key without certificate has signed nothing and may be replaced, the reverse is a loss.
    store::write_private(&dir.file(ROOT_KEY_FILE), key.serialize_pem().as_bytes())?;
    store::write_private(&dir.file(ROOT_FILE), certificate.pem().as_bytes())?;
    let certificate = certificate.der().clone();
    let info = describe("root", &certificate).ok_or(rcgen::Error::CouldNotParseCertificate)?;
    tracing::info!(subject = %info.subject, sha256 = %info.sha256, "made a new root");
    Ok(Certified { issuer: Issuer::new(params, key), certificate, info })
}

fn load_root(dir: &DataDir, trust_domain: &TrustDomain, now: i64) -> Result<Option<Certified>, CaError> {
    let file = dir.file(ROOT_FILE);
    let Some(pem) = store::read(&file)? else { return Ok(None) };
    let shown = file.display().to_string();
    let bad = |why| CaError::Root { file: shown.clone(), why };
    let certificate = pem_certificates(&pem).into_iter().next().ok_or_else(|| bad("holds no certificate"))?;
    let key = store::read(&dir.file(ROOT_KEY_FILE))?.ok_or_else(|| bad("its key file `root-key.pem` is missing"))?;
    let key = String::from_utf8(key).map_err(|_| bad("its key file is not PEM"))?;
    let key = KeyPair::from_pem(&key).map_err(|_| bad("its key file holds no PKCS#8 key"))?;
    let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| bad("is not a certificate"))?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(bad("belongs to another key than `root-key.pem`"));
    }
    if crate::bundle::authority_domain(&parsed).is_none_or(|named| named != format!("spiffe://{trust_domain}")) {
        return Err(bad("belongs to another trust domain than `trust_domain` says"));
    }
    let info = describe("root", &certificate).ok_or_else(|| bad("is not a certificate"))?;
    if info.not_after <= now {
        return Err(bad("has expired"));
    }
    let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
    Ok(Some(Certified { issuer, certificate, info }))
}

/// The certificates of a PEM file, in order; anything else in it is passed over.
#[must_use]
pub fn pem_certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// PEM of some certificates.
#[must_use]
pub fn to_pem(certificates: &[CertificateDer<'static>]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = more;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn describe(kind: &'static str, certificate: &CertificateDer<'static>) -> Option<AuthorityInfo> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(AuthorityInfo {
        kind,
        subject: parsed.subject().to_string(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        sha256: sha256_hex(certificate),
    })
}

/// SHA-256, hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

#[cfg(test)]
mod tests;
