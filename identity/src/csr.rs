//! Certificate signing requests: made by whoever holds a key, read for nothing but their public key.
//!
//! INVARIANT: a request's subject, names and extensions are never looked at; what a certificate says comes from the
//! server's own registration entries.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo,
};
use x509_parser::{certification_request::X509CertificationRequest, oid_registry, prelude::FromDer};

/// No honest request for a P-256 key comes near this.
const MAX_CSR: usize = 8 << 10;

/// Why a request was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CsrError {
    /// Too long to be one.
    #[error("csr: {0} bytes, at most {MAX_CSR} are read")]
    TooLong(usize),
    /// Not PKCS#10 in DER.
    #[error("csr: not a PKCS#10 request in DER")]
    Malformed,
    /// A key or signature of another kind.
    #[error("csr: only ECDSA P-256 keys with SHA-256 are signed")]
    Algorithm,
    /// The requester does not hold the key.
    #[error("csr: its signature does not verify with its own key")]
    Signature,
    /// The key could not be used (making a request).
    #[error("csr: could not be made with this key")]
    Make,
}

/// The public key of a request, after checking that the requester holds the private key.
///
/// # Errors
/// When it is not a well-formed, self-signed P-256 request.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::TooLong(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    if request.signature_algorithm.algorithm != oid_registry::OID_SIG_ECDSA_WITH_SHA256 {
        return Err(CsrError::Algorithm);
    }
    let info = &request.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Algorithm)?;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(CsrError::Algorithm);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.der_bytes())
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| CsrError::Signature)?;
    Ok(key)
}

/// A request for `key` that claims nothing else.
///
/// # Errors
/// When the key cannot sign.
pub fn make(key: &KeyPair) -> Result<Vec<u8>, CsrError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(|_| CsrError::Make)?;
    Ok(request.der().to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn gives_the_key_of_a_request_and_nothing_else() {
        let key = KeyPair::generate().unwrap();
        let read = public_key(&make(&key).unwrap()).unwrap();
        assert_eq!(read.der_bytes(), key.public_key_raw());
    }

    #[test]
    fn refuses_requests_that_do_not_prove_possession_or_are_of_another_kind() {
        let key = KeyPair::generate().unwrap();
        let mut altered = make(&key).unwrap();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert_eq!(public_key(&altered).unwrap_err(), CsrError::Signature);
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(public_key(&make(&p384).unwrap()).unwrap_err(), CsrError::Algorithm);
        assert_eq!(public_key(b"hello").unwrap_err(), CsrError::Malformed);
        assert_eq!(public_key(&vec![0; 9000]).unwrap_err(), CsrError::TooLong(9000));
    }
}
