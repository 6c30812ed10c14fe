//! One token: the compact form of a JWS (RFC 7515, section 7.1) and the claims in it.
//!
//! What a token says is believed after [`Compact::signed_by`]; until then its `iss` and `kid` only choose the key.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use signet_policy::{Claims, Issuer};

use super::keys::Key;
use super::{EndUser, MAX_CLAIM, TokenError};

/// A JSON object in which no name comes twice: which of two values counts would be up to the reader (RFC 8725, 2.4).
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name that comes twice"));
                    }
                }
                Ok(Object(map))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A token taken apart.
pub(super) struct Compact<'a> {
    header: Map<String, Value>,
    payload: Map<String, Value>,
    signature: Vec<u8>,
    /// What the signature is over.
    signed: &'a [u8],
}

impl<'a> Compact<'a> {
    pub(super) fn parse(token: &'a [u8]) -> Result<Self, TokenError> {
        let mut dots = token.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(TokenError::Malformed);
        };
        let part = |range: std::ops::Range<usize>| {
            let text = token.get(range).ok_or(TokenError::Malformed)?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)
        };
        let object = |bytes: Vec<u8>| {
            serde_json::from_slice::<Object>(&bytes).map(|object| object.0).map_err(|_| TokenError::Malformed)
        };
        let compact = Self {
            header: object(part(0..first)?)?,
            payload: object(part(first + 1..second)?)?,
            signature: part(second + 1..token.len())?,
            signed: token.get(..second).unwrap_or_default(),
        };
        // RFC 7515, section 4.1.11: what is critical has to be understood, and no extension is.
        if compact.header.contains_key("crit") || !compact.is_access_or_id_token() {
            return Err(TokenError::Malformed);
        }
        Ok(compact)
    }

    /// RFC 8725, section 3.11: a token of another kind by the same issuer must not pass for one of these.
    fn is_access_or_id_token(&self) -> bool {
        match self.header.get("typ") {
            None => true,
            Some(Value::String(kind)) => {
                let kind = kind.to_ascii_lowercase();
                matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
            }
            Some(_) => false,
        }
    }

    /// `iss`, not verified.
    pub(super) fn issuer(&self) -> Result<&str, TokenError> {
        self.text("iss")?.ok_or(TokenError::Malformed)
    }

    /// The key that signed the token. Without a `kid` there has to be only one that it can be.
    pub(super) fn signed_by<'k>(&self, keys: &'k [Key]) -> Result<&'k Key, TokenError> {
        let text = |name: &str| match self.header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(TokenError::Malformed),
        };
        let algorithm = text("alg")?.ok_or(TokenError::Malformed)?;
        let named: Vec<&Key> = match (text("kid")?, keys) {
            (Some(id), keys) => keys.iter().filter(|key| key.id() == Some(id)).collect(),
            (None, [only]) => vec![only],
            (None, _) => Vec::new(),
        };
        if named.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        let mut fitting = named.into_iter().filter(|key| key.is_for(algorithm)).peekable();
        if fitting.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        fitting.find(|key| key.signed(self.signed, &self.signature)).ok_or(TokenError::Signature)
    }

    /// The claims of a token whose signature was verified.
    pub(super) fn end_user(&self, issuer: &Issuer, key: &Key) -> Result<EndUser, TokenError> {
        let expires_us = self.time_us("exp")?.ok_or(TokenError::Malformed)?;
        let not_before_us = self.time_us("nbf")?.unwrap_or(i64::MIN);
        let mut scopes = self.words("scope")?;
        scopes.extend(self.words("scp")?);
        let claims = Claims {
            issuer: issuer.issuer.clone(),
            subject: self.text("sub")?.filter(|sub| !sub.is_empty()).ok_or(TokenError::Malformed)?.to_owned(),
            audiences: self.set("aud")?,
            scopes,
            groups: self.set(&issuer.groups_claim)?,
            acr: self.text("acr")?.map(str::to_owned),
        };
        if issuer.audiences.is_disjoint(&claims.audiences) {
            return Err(TokenError::Audience);
        }
        let pairs = claims.pairs();
        if pairs.iter().any(|(_, value)| value.len() > MAX_CLAIM) {
            return Err(TokenError::Oversized);
        }
        Ok(EndUser { claims, pairs, expires_us, not_before_us, key: *key.digest() })
    }

    fn text(&self, name: &str) -> Result<Option<&str>, TokenError> {
        match self.payload.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Malformed),
        }
    }

    /// One string, or several.
    fn set(&self, name: &str) -> Result<BTreeSet<String>, TokenError> {
        match self.payload.get(name) {
            None => Ok(BTreeSet::new()),
            Some(Value::String(text)) => Ok([text.clone()].into()),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or(TokenError::Malformed)).collect()
            }
            Some(_) => Err(TokenError::Malformed),
        }
    }

    /// As [`Compact::set`], where one string holds words with spaces between them (RFC 8693, section 4.2).
    fn words(&self, name: &str) -> Result<BTreeSet<String>, TokenError> {
        Ok(self.set(name)?.iter().flat_map(|text| text.split_ascii_whitespace()).map(str::to_owned).collect())
    }

    /// A NumericDate (RFC 7519, section 2) in Unix microseconds, to the second.
    fn time_us(&self, name: &str) -> Result<Option<i64>, TokenError> {
        let Some(value) = self.payload.get(name) else { return Ok(None) };
        let seconds = value
            .as_i64()
            .or_else(|| value.as_f64().and_then(|seconds| seconds.floor().to_string().parse().ok()))
            .ok_or(TokenError::Malformed)?;
        Ok(Some(seconds.saturating_mul(1_000_000)))
    }
}
