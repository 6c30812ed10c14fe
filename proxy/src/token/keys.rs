//! Keys of an issuer: a JWK set (RFC 7517), of which the asymmetric signature keys are used.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::seen::{Digest, digest};

/// More keys of one issuer are left out.
const MAX_KEYS: usize = 64;

/// A public key and the one algorithm that it is for.
pub(super) struct Key {
    id: Option<String>,
    /// Names of the algorithm in a token's header.
    algorithm: &'static [&'static str],
    public: ParsedPublicKey,
    digest: Digest,
}

impl Key {
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn is_for(&self, algorithm: &str) -> bool {
        self.algorithm.contains(&algorithm)
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify_sig(message, signature).is_ok()
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// The usable keys of a JWK set; `unusable` hears of each other one: its `kid` or place, and why.
pub(super) fn read(set: &str, unusable: impl Fn(&str, &str)) -> Vec<Key> {
    let Ok(Set { keys }) = serde_json::from_str::<Set>(set) else {
        unusable("-", "the set is no JWK set");
        return Vec::new();
    };
    let mut usable = Vec::new();
    for (place, value) in keys.into_iter().enumerate() {
        let name = value.get("kid").and_then(Value::as_str).map_or_else(|| format!("#{place}"), str::to_owned);
        if usable.len() == MAX_KEYS {
            unusable(&name, "there are more than 64 keys");
            break;
        }
        match serde_json::from_value(value).map_err(|_| "it is malformed").and_then(key) {
            Ok(key) => usable.push(key),
            Err(why) => unusable(&name, why),
        }
    }
    usable
}

fn key(jwk: Jwk) -> Result<Key, &'static str> {
    if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures");
    }
    if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
        return Err("it is not for verifying");
    }
    let (algorithm, public) = match jwk.kty.as_str() {
        "RSA" => rsa(&jwk)?,
        "EC" => elliptic(&jwk)?,
        "OKP" if jwk.crv.as_deref() == Some("Ed25519") => {
            agrees(&jwk, ED)?;
            (ED, ParsedPublicKey::new(&ED25519, part(jwk.x.as_deref())?).map_err(|_| REJECTED)?)
        }
        "oct" => return Err("it is symmetric: whoever can verify with it could sign"),
        _ => return Err("its type is none that is supported"),
    };
    let digest = digest(&[public.as_ref(), algorithm.concat().as_bytes()].concat());
    Ok(Key { id: jwk.kid, algorithm, public, digest })
}

const REJECTED: &str = "it is no public key of its type";
/// RFC 8037, and RFC 9864 for the name that says the curve.
const ED: &[&str] = &["EdDSA", "Ed25519"];

/// The `alg` of a key, where it is there, has to be what its type and curve say.
fn agrees(jwk: &Jwk, algorithm: &[&str]) -> Result<(), &'static str> {
    match jwk.alg.as_deref() {
        Some(other) if !algorithm.contains(&other) => Err("its `alg` does not fit its type"),
        _ => Ok(()),
    }
}

/// RFC 7518, sections 3.3 and 3.5. Many issuers leave `alg` out and sign with RS256.
fn rsa(jwk: &Jwk) -> Result<(&'static [&'static str], ParsedPublicKey), &'static str> {
    let (names, parameters): (&'static [&'static str], &'static RsaParameters) =
        match jwk.alg.as_deref().unwrap_or("RS256") {
            "RS256" => (&["RS256"], &RSA_PKCS1_2048_8192_SHA256),
            "RS384" => (&["RS384"], &RSA_PKCS1_2048_8192_SHA384),
            "RS512" => (&["RS512"], &RSA_PKCS1_2048_8192_SHA512),
            "PS256" => (&["PS256"], &RSA_PSS_2048_8192_SHA256),
            "PS384" => (&["PS384"], &RSA_PSS_2048_8192_SHA384),
            "PS512" => (&["PS512"], &RSA_PSS_2048_8192_SHA512),
            _ => return Err("its `alg` is no signature algorithm for RSA keys"),
        };
    let (n, e) = (part(jwk.n.as_deref())?, part(jwk.e.as_deref())?);
    let n = n.get(n.iter().position(|byte| *byte != 0).unwrap_or(n.len())..).unwrap_or_default();
    if !(256..=1024).contains(&n.len()) {
        return Err("RSA keys have 2048 to 8192 bits");
    }
    let components = RsaPublicKeyComponents { n, e: e.as_slice() };
    Ok((names, components.to_parsed_public_key(parameters).map_err(|_| REJECTED)?))
}

/// RFC 7518, section 3.4: the curve says the hash.
fn elliptic(jwk: &Jwk) -> Result<(&'static [&'static str], ParsedPublicKey), &'static str> {
    let (names, verification, size): (&'static [&'static str], &'static dyn VerificationAlgorithm, _) =
        match jwk.crv.as_deref() {
            Some("P-256") => (&["ES256"], &ECDSA_P256_SHA256_FIXED, 32),
            Some("P-384") => (&["ES384"], &ECDSA_P384_SHA384_FIXED, 48),
            Some("P-521") => (&["ES512"], &ECDSA_P521_SHA512_FIXED, 66),
            _ => return Err("its curve is none of P-256, P-384 and P-521"),
        };
    agrees(jwk, names)?;
    let (x, y) = (part(jwk.x.as_deref())?, part(jwk.y.as_deref())?);
    if x.len() != size || y.len() != size {
        return Err("its coordinates have not the length of the curve's field");
    }
    // SEC 1, section 2.3.3: the uncompressed form.
    let point = [&[4_u8], x.as_slice(), y.as_slice()].concat();
    Ok((names, ParsedPublicKey::new(verification, point).map_err(|_| REJECTED)?))
}

fn part(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a part of the key is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of the key is not base64url")
}
