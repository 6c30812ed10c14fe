//! Trust bundles: the roots of one trust domain, and the SPIFFE bundle document that publishes them.
//!
//! Follows SPIFFE Trust Domain and Bundle, section 4 (JWKS with `spiffe_sequence` and `spiffe_refresh_hint`), and
//! X509-SVID, section 6.2 (`x509-svid` keys: one `x5c` certificate each, no `kid`). Keys of another `use` are passed
//! over; a document that names another trust domain's authority is refused whole.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use signet_api::identity as api;
use signet_mtls::TrustDomain;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

use crate::{
    ca::sha256_hex,
    store::{self, DataDir, StoreError},
};

/// What a relationship is polled at when its document has no hint (SPIFFE Federation, section 6.1 leaves it to us).
pub const DEFAULT_REFRESH_HINT: u32 = 300;
/// No trust domain has more roots than this at a time.
const MAX_AUTHORITIES: usize = 32;
const BUNDLE_STATE_FILE: &str = "bundle.json";

/// The roots of one trust domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose roots these are.
    pub trust_domain: TrustDomain,
    /// The roots. None of them: the trust domain is distrusted.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Grows whenever the roots change.
    pub sequence: u64,
    /// Seconds between polls.
    pub refresh_hint: u32,
}

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BundleError {
    /// Not the JSON that a bundle document is.
    #[error("bundle document line {line}: {message}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// One field of it.
    #[error("bundle document field `{field}`: {why}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong.
        why: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    x5c: Vec<String>,
}

impl TrustBundle {
    /// The bundle document, JSON.
    ///
    /// # Errors
    /// When an authority's key is not one that this server makes (elliptic curve).
    pub fn to_document(&self) -> Result<Vec<u8>, BundleError> {
        let keys = self
            .authorities
            .iter()
            .enumerate()
            .map(|(index, authority)| {
                jwk(authority).ok_or_else(|| field(format!("keys[{index}]"), "not a certificate over an EC key"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let document =
            Document { keys, spiffe_sequence: Some(self.sequence), spiffe_refresh_hint: Some(self.refresh_hint) };
        serde_json::to_vec_pretty(&document).map_err(json_error)
    }

    /// Reads `trust_domain`'s bundle document.
    ///
    /// # Errors
    /// Naming the line or field. A document without keys is no error: it distrusts its trust domain.
    pub fn from_document(trust_domain: &TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        let document: Document = serde_json::from_slice(json).map_err(json_error)?;
        let mut authorities = Vec::new();
        for (index, key) in document.keys.iter().enumerate() {
            if key.usage.as_deref() != Some("x509-svid") {
                continue;
            }
            let name = || format!("keys[{index}].x5c");
            let [encoded] = key.x5c.as_slice() else {
                return Err(field(name(), "must hold exactly one certificate"));
            };
            let der = STANDARD.decode(encoded).map_err(|_| field(name(), "is not base64"))?;
            authorities.push(CertificateDer::from(der));
        }
        let bundle = Self {
            trust_domain: trust_domain.clone(),
            authorities,
            sequence: document.spiffe_sequence.unwrap_or(0),
            refresh_hint: document.spiffe_refresh_hint.filter(|hint| *hint > 0).unwrap_or(DEFAULT_REFRESH_HINT),
        };
        bundle.check("keys")?;
        Ok(bundle)
    }

    /// Checks that every authority is a CA certificate and, where it names a trust domain, names this one.
    ///
    /// # Errors
    /// Naming the authority as `<list>[index]`.
    pub fn check(&self, list: &str) -> Result<(), BundleError> {
        if self.authorities.len() > MAX_AUTHORITIES {
            return Err(field(list.to_owned(), "holds more than 32 authorities"));
        }
        let own = format!("spiffe://{}", self.trust_domain);
        for (index, authority) in self.authorities.iter().enumerate() {
            let name = || format!("{list}[{index}]");
            let (rest, parsed) =
                X509Certificate::from_der(authority).map_err(|_| field(name(), "is not an X.509 certificate"))?;
            if !rest.is_empty() {
                return Err(field(name(), "has bytes after its certificate"));
            }
            if !parsed.is_ca() {
                return Err(field(name(), "is not a CA certificate"));
            }
            if authority_domain(&parsed).is_some_and(|named| named != own) {
                return Err(field(name(), "belongs to another trust domain"));
            }
        }
        Ok(())
    }

    /// As the agent and the Workload API's clients get it.
    #[must_use]
    pub fn to_api(&self) -> api::TrustBundle {
        api::TrustBundle {
            trust_domain: self.trust_domain.to_string(),
            x509_authorities: self.authorities.iter().map(|a| a.to_vec()).collect(),
            sequence: self.sequence,
            refresh_hint_seconds: self.refresh_hint,
        }
    }

    /// Reads what [`TrustBundle::to_api`] made.
    ///
    /// # Errors
    /// Naming the field.
    pub fn from_api(bundle: &api::TrustBundle) -> Result<Self, BundleError> {
        let trust_domain: TrustDomain =
            bundle.trust_domain.parse().map_err(|_| field("trust_domain".into(), "is not a trust domain name"))?;
        let read = Self {
            trust_domain,
            authorities: bundle.x509_authorities.iter().map(|a| CertificateDer::from(a.clone())).collect(),
            sequence: bundle.sequence,
            refresh_hint: bundle.refresh_hint_seconds,
        };
        read.check("x509_authorities")?;
        Ok(read)
    }
}

/// The trust domain that an authority's certificate names (its URI SAN), where it names one.
#[must_use]
pub fn authority_domain<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

fn field(field: String, why: &'static str) -> BundleError {
    BundleError::Field { field, why }
}

fn json_error(error: serde_json::Error) -> BundleError {
    BundleError::Json { line: error.line(), message: error.to_string() }
}

fn jwk(authority: &CertificateDer<'_>) -> Option<Jwk> {
    let (_, parsed) = X509Certificate::from_der(authority).ok()?;
    let PublicKey::EC(point) = parsed.public_key().parsed().ok()? else { return None };
    // Uncompressed point: 04, x, y (SEC 1, 2.3.3).
    let (tag, coordinates) = point.data().split_first()?;
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    let crv = match (tag, x.len()) {
        (4, 32) => "P-256",
        (4, 48) => "P-384",
        (4, 66) => "P-521",
        _ => return None,
    };
    Some(Jwk {
        kty: "EC".into(),
        usage: Some("x509-svid".into()),
        crv: Some(crv.into()),
        x: Some(URL_SAFE_NO_PAD.encode(x)),
        y: Some(URL_SAFE_NO_PAD.encode(y)),
        x5c: vec![STANDARD.encode(authority)],
    })
}

#[derive(Serialize, Deserialize)]
struct OwnState {
    sequence: u64,
    roots: Vec<String>,
}

/// The own trust domain's bundle, with a sequence that grows whenever the roots differ from those of the last start.
///
/// A new sequence is at least the clock's, so that a trust domain rebuilt from nothing still counts on.
///
/// # Errors
/// When the state file cannot be read or written.
pub fn own_bundle(
    dir: &DataDir,
    trust_domain: &TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    refresh_hint: u32,
    now: i64,
) -> Result<TrustBundle, StoreError> {
    let path = dir.file(BUNDLE_STATE_FILE);
    let digests: Vec<String> = roots.iter().map(|root| sha256_hex(root)).collect();
    let sequence = match store::read_json::<OwnState>(&path)? {
        Some(state) if state.roots == digests => state.sequence,
        earlier => {
            let floor = u64::try_from(now).unwrap_or(0);
            let sequence = earlier.map_or(0, |state| state.sequence).saturating_add(1).max(floor);
            store::write_json(&path, &OwnState { sequence, roots: digests })?;
            sequence
        }
    };
    Ok(TrustBundle { trust_domain: trust_domain.clone(), authorities: roots, sequence, refresh_hint })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ca::Authority;

    const NOW: i64 = 1_800_000_000;

    fn roots(name: &str) -> Vec<CertificateDer<'static>> {
        let dir = tempfile::tempdir().unwrap();
        let dir = DataDir::open(dir.path()).unwrap();
        Authority::open(&dir, name.parse().unwrap(), Duration::from_secs(60), NOW).unwrap().roots()
    }

    fn bundle() -> TrustBundle {
        TrustBundle {
            trust_domain: "east.bank.example".parse().unwrap(),
            authorities: roots("east.bank.example"),
            sequence: 7,
            refresh_hint: 11,
        }
    }

    #[test]
    fn a_document_reads_back_as_the_bundle_it_was_made_of() {
        let bundle = bundle();
        let json = bundle.to_document().unwrap();
        assert_eq!(TrustBundle::from_document(&bundle.trust_domain, &json).unwrap(), bundle);
        assert_eq!(TrustBundle::from_api(&bundle.to_api()).unwrap(), bundle);
    }

    #[test]
    fn the_document_has_the_fields_of_the_standard() {
        let json: serde_json::Value = serde_json::from_slice(&bundle().to_document().unwrap()).unwrap();
        assert_eq!((&json["spiffe_sequence"], &json["spiffe_refresh_hint"]), (&7.into(), &11.into()));
        let key = &json["keys"][0];
        assert_eq!((&key["use"], &key["kty"], &key["crv"]), (&"x509-svid".into(), &"EC".into(), &"P-384".into()));
        assert_eq!(key["x5c"].as_array().unwrap().len(), 1);
        assert!(key.get("kid").is_none());
    }

    #[test]
    fn other_uses_are_passed_over_and_no_keys_means_distrust() {
        let td = "east.bank.example".parse().unwrap();
        let json = br#"{"keys": [{"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": "", "y": ""}, {"kty": "RSA"}]}"#;
        let read = TrustBundle::from_document(&td, json).unwrap();
        assert!(read.authorities.is_empty());
        assert_eq!((read.sequence, read.refresh_hint), (0, DEFAULT_REFRESH_HINT));
    }

    #[test]
    fn errors_name_line_or_field() {
        let td: TrustDomain = "west.bank.example".parse().unwrap();
        let check = |json: &str, expected: &str| {
            let error = TrustBundle::from_document(&td, json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("{\n\"keys\": 1}", "line 2");
        check(r#"{"keys": [{"kty": "EC", "use": "x509-svid"}]}"#, "`keys[0].x5c`: must hold exactly one");
        check(r#"{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["!"]}]}"#, "not base64");
        check(r#"{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["AAAA"]}]}"#, "not an X.509 certificate");
        let east = String::from_utf8(bundle().to_document().unwrap()).unwrap();
        check(&east, "`keys[0]`: belongs to another trust domain");
    }

    #[test]
    fn the_sequence_grows_only_when_the_roots_change() {
        let dir = tempfile::tempdir().unwrap();
        let dir = DataDir::open(dir.path()).unwrap();
        let td = "east.bank.example".parse().unwrap();
        let (a, b) = (roots("east.bank.example"), roots("east.bank.example"));
        let sequence = |roots: &Vec<_>, now| own_bundle(&dir, &td, roots.clone(), 5, now).unwrap().sequence;
        let first = sequence(&a, NOW);
        assert_eq!(sequence(&a, NOW + 100), first);
        let second = sequence(&b, NOW);
        assert!(second > first);
        assert!(sequence(&a, NOW - 1000) > second, "a clock that went back does not take the sequence back");
    }
}
