//! Invites: one file that carries everything a partner needs to link with this trust domain.
//!
//! An armoured JSON envelope: a payload, a signature over exactly the payload's bytes by the identity server's SVID, and
//! the SVID's chain, which must verify against the bundle *inside* the payload at the moment of issue. So an invite cannot
//! be altered, and cannot name one trust domain with the keys of another; that it came from the right people is what the
//! fingerprint is compared for. Reading is pure: time is an argument.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use signet_mtls::{SpiffeId, TrustDomain};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    bundle::{BundleError, TrustBundle},
    ca::sha256_hex,
    chain,
    endpoint_url::EndpointUrl,
};

const BEGIN: &str = "-----BEGIN SIGNET INVITE-----";
const END: &str = "-----END SIGNET INVITE-----";
/// Kept apart from anything else that an SVID's key may ever sign.
const CONTEXT: &[u8] = b"signet-invite-v1\n";
const VERSION: u32 = 1;
const MAX_TEXT: usize = 256 << 10;
/// The longest life of an invite, seconds.
pub const MAX_LIFE: u32 = 30 * 86_400;
/// The life of an invite when none is asked for, seconds.
pub const DEFAULT_LIFE: u32 = 86_400;
/// How far the clocks of two organisations may differ, seconds.
const SKEW: i64 = 120;

/// What an invite says, after everything about it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Whose invite this is.
    pub trust_domain: TrustDomain,
    /// Where its bundle is published.
    pub bundle_endpoint_url: EndpointUrl,
    /// Whom that endpoint must prove to be.
    pub bundle_endpoint_spiffe_id: SpiffeId,
    /// The first bundle.
    pub bundle: TrustBundle,
    /// `host:port` of its east-west gateway; empty when it has none.
    pub gateway: String,
    /// `host:port` of its control plane's link; empty when it has none.
    pub control: String,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
    /// Makes each invite another one.
    pub nonce: String,
}

/// Why an invite was refused: what, where, what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InviteError {
    /// The text is not an armoured invite.
    #[error("invite line {line}: {why}; copy the whole file, from its BEGIN to its END line")]
    Armour {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// One field is wrong.
    #[error("invite field `{field}`: {why}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong and what to do.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    signature: String,
    chain: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    version: u32,
    trust_domain: String,
    bundle_endpoint_url: String,
    bundle_endpoint_spiffe_id: String,
    bundle: PayloadBundle,
    gateway: String,
    control: String,
    issued_at: i64,
    expires_at: i64,
    nonce: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayloadBundle {
    x509_authorities: Vec<String>,
    sequence: u64,
    refresh_hint_seconds: u32,
}

fn field(field: impl Into<String>, why: impl Into<String>) -> InviteError {
    InviteError::Field { field: field.into(), why: why.into() }
}

fn armour(line: usize, why: impl Into<String>) -> InviteError {
    InviteError::Armour { line, why: why.into() }
}

/// Reads an invite and verifies everything that can be verified without knowing who reads it: form, life, that the
/// trust domain, the endpoint's SPIFFE ID, the bundle and the signer belong together, and the signature.
///
/// # Errors
/// Naming the line or field at fault.
pub fn parse(text: &str, now: i64) -> Result<Invite, InviteError> {
    let (envelope, payload) = open(text)?;
    let signature = STANDARD.decode(&envelope.signature).map_err(|_| field("signature", "is not base64"))?;
    let chain = decode_all("chain", &envelope.chain)?;
    let invite = read_payload(&payload)?;
    let signer = signet_mtls::peer_id(&chain).map_err(|error| field("chain", error.to_string()))?;
    if signer.trust_domain() != &invite.trust_domain {
        let why = format!("signed by `{signer}`, which is not of trust domain `{}`", invite.trust_domain);
        return Err(field("chain", why));
    }
    if signer.as_component() != Some("identity") {
        return Err(field("chain", format!("signed by `{signer}`, not by an identity server")));
    }
    // The server's SVID lives shorter than an invite may, so the chain is judged at the moment that the payload claims.
    chain::verify(&chain, &invite.trust_domain, &invite.bundle.authorities, invite.issued_at)
        .map_err(|error| field("chain", format!("{error}; judged against the bundle in the invite")))?;
    verify_signature(&chain, &payload, &signature)?;
    if invite.issued_at > now + SKEW {
        return Err(field("issued_at", "lies in the future; compare the clocks of the two clusters"));
    }
    if invite.expires_at <= now {
        let why = format!("expired {} seconds ago; ask for a fresh invite", now - invite.expires_at);
        return Err(field("expires_at", why));
    }
    if invite.expires_at - invite.issued_at > i64::from(MAX_LIFE) {
        return Err(field("expires_at", "lies more than 30 days after `issued_at`"));
    }
    Ok(invite)
}

/// The fingerprint that two people compare: SHA-256 of the payload in groups of four hexadecimal digits.
///
/// # Errors
/// When the text is no invite; nothing else about it is verified.
pub fn fingerprint(text: &str) -> Result<String, InviteError> {
    let (_, payload) = open(text)?;
    let digest = sha256_hex(&payload);
    let groups: Vec<&str> = (0..16).filter_map(|group| digest.get(group * 4..group * 4 + 4)).collect();
    Ok(groups.join(" "))
}

impl Invite {
    /// Signs this invite with the identity server's SVID (`chain`, leaf first, and its PKCS#8 key) and armours it.
    ///
    /// # Errors
    /// When the result would not be accepted, so that nobody sends an invite that cannot work.
    pub fn sign(&self, chain: &[CertificateDer<'static>], pkcs8: &[u8]) -> Result<String, InviteError> {
        let payload = Payload {
            version: VERSION,
            trust_domain: self.trust_domain.to_string(),
            bundle_endpoint_url: self.bundle_endpoint_url.to_string(),
            bundle_endpoint_spiffe_id: self.bundle_endpoint_spiffe_id.to_string(),
            bundle: PayloadBundle {
                x509_authorities: self.bundle.authorities.iter().map(|a| STANDARD.encode(a)).collect(),
                sequence: self.bundle.sequence,
                refresh_hint_seconds: self.bundle.refresh_hint,
            },
            gateway: self.gateway.clone(),
            control: self.control.clone(),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            nonce: self.nonce.clone(),
        };
        let payload = serde_json::to_vec(&payload).map_err(|error| field("payload", error.to_string()))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map_err(|_| field("signature", "the SVID's key is not ECDSA P-256"))?;
        let signature = key
            .sign(&SystemRandom::new(), &[CONTEXT, &payload].concat())
            .map_err(|_| field("signature", "could not be made"))?;
        let text = seal(&payload, signature.as_ref(), chain)?;
        parse(&text, self.issued_at)?;
        Ok(text)
    }
}

fn seal(payload: &[u8], signature: &[u8], chain: &[CertificateDer<'static>]) -> Result<String, InviteError> {
    let envelope = Envelope {
        payload: STANDARD.encode(payload),
        signature: STANDARD.encode(signature),
        chain: chain.iter().map(|certificate| STANDARD.encode(certificate)).collect(),
    };
    let json = serde_json::to_vec(&envelope).map_err(|error| field("payload", error.to_string()))?;
    let encoded = STANDARD.encode(json);
    let mut text = format!("{BEGIN}\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(76));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(END);
    text.push('\n');
    Ok(text)
}

/// Takes off armour and envelope; gives the payload's exact bytes.
fn open(text: &str) -> Result<(Envelope, Vec<u8>), InviteError> {
    if text.len() > MAX_TEXT {
        return Err(armour(1, format!("longer than {MAX_TEXT} bytes")));
    }
    let mut body = String::new();
    let mut begun = None;
    let mut ended = false;
    for (number, line) in text.lines().map(str::trim).enumerate().map(|(index, line)| (index + 1, line)) {
        match (begun, line) {
            (None, BEGIN) => begun = Some(number),
            // Text before the armour is somebody's greeting.
            (None, _) => {}
            (Some(_), END) => {
                ended = true;
                break;
            }
            (Some(_), line) if line.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=')) => {
                body.push_str(line);
            }
            (Some(_), _) => return Err(armour(number, "holds a character that is not base64")),
        }
    }
    let Some(begun) = begun else { return Err(armour(1, format!("no `{BEGIN}` line"))) };
    if !ended {
        return Err(armour(text.lines().count(), format!("no `{END}` line")));
    }
    let json = STANDARD.decode(&body).map_err(|_| armour(begun + 1, "the text between is not whole base64"))?;
    let envelope: Envelope = serde_json::from_slice(&json).map_err(|error| field("envelope", error.to_string()))?;
    let payload = STANDARD.decode(&envelope.payload).map_err(|_| field("payload", "is not base64"))?;
    Ok((envelope, payload))
}

fn decode_all(name: &str, encoded: &[String]) -> Result<Vec<CertificateDer<'static>>, InviteError> {
    if encoded.len() > 32 {
        return Err(field(name, "holds more than 32 certificates"));
    }
    encoded
        .iter()
        .enumerate()
        .map(|(index, text)| {
            STANDARD
                .decode(text)
                .map(CertificateDer::from)
                .map_err(|_| field(format!("{name}[{index}]"), "is not base64"))
        })
        .collect()
}

fn read_payload(bytes: &[u8]) -> Result<Invite, InviteError> {
    let payload: Payload = serde_json::from_slice(bytes).map_err(|error| field("payload", error.to_string()))?;
    if payload.version != VERSION {
        let why = format!("is {}, this program reads {VERSION}; use the release that wrote it", payload.version);
        return Err(field("version", why));
    }
    let trust_domain: TrustDomain = payload
        .trust_domain
        .parse()
        .map_err(|error| field("trust_domain", format!("`{}`: {error}", payload.trust_domain)))?;
    let bundle_endpoint_url = payload
        .bundle_endpoint_url
        .parse()
        .map_err(|error| field("bundle_endpoint_url", format!("`{}`: {error}", payload.bundle_endpoint_url)))?;
    let bundle_endpoint_spiffe_id: SpiffeId = payload.bundle_endpoint_spiffe_id.parse().map_err(|error| {
        field("bundle_endpoint_spiffe_id", format!("`{}`: {error}", payload.bundle_endpoint_spiffe_id))
    })?;
    if bundle_endpoint_spiffe_id.trust_domain() != &trust_domain {
        return Err(field("bundle_endpoint_spiffe_id", format!("is not of trust domain `{trust_domain}`")));
    }
    let bundle = TrustBundle {
        trust_domain: trust_domain.clone(),
        authorities: decode_all("bundle.x509_authorities", &payload.bundle.x509_authorities)?,
        sequence: payload.bundle.sequence,
        refresh_hint: payload.bundle.refresh_hint_seconds,
    };
    if bundle.authorities.is_empty() {
        return Err(field("bundle.x509_authorities", "is empty; nobody could be trusted with it"));
    }
    bundle.check("bundle.x509_authorities").map_err(|error| match error {
        BundleError::Field { field: name, why } => field(name, why),
        other @ BundleError::Json { .. } => field("bundle", other.to_string()),
    })?;
    if !payload.gateway.is_empty() && !is_host_ports(&payload.gateway) {
        return Err(field(
            "gateway",
            format!("`{}` is not host:port, or several with commas between", payload.gateway),
        ));
    }
    if !payload.control.is_empty() && !is_host_port(&payload.control) {
        return Err(field("control", format!("`{}` is not host:port", payload.control)));
    }
    Ok(Invite {
        trust_domain,
        bundle_endpoint_url,
        bundle_endpoint_spiffe_id,
        bundle,
        gateway: payload.gateway,
        control: payload.control,
        issued_at: payload.issued_at,
        expires_at: payload.expires_at,
        nonce: payload.nonce,
    })
}

/// Whether `text` is `host:port` (IPv6 in brackets).
#[must_use]
pub fn is_host_port(text: &str) -> bool {
    let Ok(authority) = text.parse::<http::uri::Authority>() else { return false };
    !text.contains('@') && !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port > 0)
}

/// The most replicas of a gateway that are named one by one; more stand behind a name or a balancer.
const MAX_GATEWAYS: usize = 16;

/// `host:port`, or several with commas between.
pub fn is_host_ports(text: &str) -> bool {
    text.split(',').count() <= MAX_GATEWAYS && text.split(',').all(is_host_port)
}

fn verify_signature(chain: &[CertificateDer<'static>], payload: &[u8], signature: &[u8]) -> Result<(), InviteError> {
    let refused = || field("signature", "does not verify: the invite was altered; ask for it again");
    let leaf = chain.first().ok_or_else(refused)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| refused())?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &leaf.public_key().subject_public_key.data)
        .verify(&[CONTEXT, payload].concat(), signature)
        .map_err(|_| refused())
}

#[cfg(test)]
mod tests;
