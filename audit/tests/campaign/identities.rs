//! Certificates that child processes read from a file, because the CA that made them lives in another process.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use signet_mtls::testing::Ca;
use signet_mtls::{IdentityMaterial, IdentitySource, Svid};

pub const TRUST_DOMAIN: &str = "east.bank.example";
pub const AUDIT: &str = "spiffe://east.bank.example/signet/audit";

/// SPIFFE ID of a producer.
pub fn producer(index: usize) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/bank/proxy/producer-{index}")
}

/// One identity as bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    root: Vec<u8>,
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

/// Issues an SVID into a file.
pub fn issue(ca: &Ca, id: &str, file: &Path) {
    let forged = ca.forge(&[id], |_| {});
    let chain = forged.chain.iter().map(|one| one.to_vec()).collect();
    let kept = Kept { root: ca.certificate().to_vec(), chain, key: forged.key };
    std::fs::write(file, serde_json::to_vec(&kept).unwrap()).unwrap();
}

/// The identity in a file.
pub fn read(file: &Path) -> IdentitySource {
    let kept: Kept = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let chain = kept.chain.into_iter().map(CertificateDer::from).collect();
    let svid = Svid::new(chain, kept.key, "").unwrap();
    let bundles = [(TRUST_DOMAIN.parse().unwrap(), vec![CertificateDer::from(kept.root)])].into();
    IdentitySource::fixed(IdentityMaterial { svids: vec![svid], bundles })
}
