//! End users' tokens: signed JWTs (RFC 7519) in `Authorization: Bearer`, verified with the keys of the bundle in force.
//!
//! INVARIANT: a key says its algorithm (RFC 8725, section 3.1). What a token's header says has to agree with it, and only
//! chooses among the keys of the issuer that `signet.yaml` declares for the service. Keys that a token brings or points to
//! (`jwk`, `jku`, `x5c`, `x5u`) are never looked at, and there are no symmetric keys.
//!
//! A token's text is kept nowhere: what was verified is remembered by SHA-256.
//!
//! Left out on purpose: encrypted tokens, and opaque ones, which only their issuer can read.

mod jws;
mod keys;
mod seen;

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use signet_policy::{Bundle, Claims, Issuer};
use thiserror::Error;
use tracing::warn;

use crate::metrics::Metrics;
use jws::Compact;
use keys::Key;
use seen::{Digest, Seen, digest};

/// A token that is longer is refused.
const MAX_TOKEN: usize = 16 * 1024;
/// Records keep values of this many bytes whole (docs/record-encoding.md). A decision must not read what its record lacks.
const MAX_CLAIM: usize = 8 * 1024;
/// How far an issuer's clock may be ahead of ours.
const AHEAD_US: i64 = 30_000_000;

/// Why a token was refused. [`TokenError::reason`] is what records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("more than one `Authorization` header")]
    Ambiguous,
    #[error("the token or one of its claims is too long")]
    Oversized,
    #[error("not a signed JWT in compact form with the claims that are needed")]
    Malformed,
    #[error("no issuer of this name is declared for the service")]
    UnknownIssuer,
    #[error("the issuer has no such key")]
    UnknownKey,
    #[error("the token's algorithm is not its key's")]
    Algorithm,
    #[error("the signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is for another audience")]
    Audience,
}

impl TokenError {
    /// Stable: records carry it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Ambiguous => "token_ambiguous",
            Self::Oversized => "token_oversized",
            Self::Malformed => "token_malformed",
            Self::UnknownIssuer => "token_unknown_issuer",
            Self::UnknownKey => "token_unknown_key",
            Self::Algorithm => "token_algorithm",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience => "token_audience",
        }
    }
}

/// What a request presents about its end user.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// Nothing, or credentials of another scheme, which are the application's.
    Nothing,
    /// What follows `Bearer`.
    Bearer(&'a [u8]),
    /// Several credentials: which of them the application would take is for nobody to guess.
    Several,
}

impl<'a> Presented<'a> {
    /// RFC 9110, section 11.6.2: one `Authorization`, with a scheme compared without case.
    #[must_use]
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Self::Nothing };
        if values.next().is_some() {
            return Self::Several;
        }
        let value = value.as_bytes();
        let end = value.iter().position(|byte| *byte == b' ' || *byte == b'\t').unwrap_or(value.len());
        match value.split_at_checked(end) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer") => Self::Bearer(token.trim_ascii()),
            _ => Self::Nothing,
        }
    }
}

/// An end user for whom a verified token speaks.
#[derive(Debug, PartialEq, Eq)]
pub struct EndUser {
    claims: Claims,
    /// The claims as records keep them.
    pairs: Vec<(&'static str, String)>,
    /// Unix microseconds.
    expires_us: i64,
    not_before_us: i64,
    /// Which key signed.
    key: Digest,
}

impl EndUser {
    /// What policies read.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What records keep, all of it personal.
    #[must_use]
    pub fn pairs(&self) -> &[(&'static str, String)] {
        &self.pairs
    }

    /// When the token ends, Unix microseconds.
    #[must_use]
    pub fn expires_us(&self) -> i64 {
        self.expires_us
    }
}

/// One issuer and its usable keys.
struct Trusted {
    issuer: Issuer,
    keys: Vec<Key>,
}

/// The issuers that one bundle declares.
pub(crate) struct Tokens {
    issuers: Vec<Trusted>,
    seen: Seen<Arc<EndUser>>,
    metrics: Arc<Metrics>,
}

impl Tokens {
    /// `None` where the bundle declares no issuer. A key that cannot be used is left out and logged.
    pub(crate) fn of(bundle: &Bundle, metrics: &Arc<Metrics>) -> Option<Self> {
        let issuers: Vec<Trusted> = bundle
            .settings()
            .end_users
            .issuers
            .iter()
            .map(|issuer| {
                let keys = keys::read(bundle.keys_of(issuer).unwrap_or_default(), |which, why| {
                    warn!(issuer = issuer.issuer, key = which, why, "a key for end users' tokens cannot be used");
                });
                if keys.is_empty() {
                    warn!(issuer = issuer.issuer, "no key for end users' tokens can be used; all of them are denied");
                }
                Trusted { issuer: issuer.clone(), keys }
            })
            .collect();
        (!issuers.is_empty()).then(|| Self { issuers, seen: Seen::default(), metrics: Arc::clone(metrics) })
    }

    /// Whether an issuer is declared for the service.
    pub(crate) fn serve(&self, service: &str) -> bool {
        self.issuers.iter().any(|trusted| trusted.issuer.serves(service))
    }

    /// Who the end user is that `presented` names to `service`. Without a token there is none.
    pub(crate) fn end_user(
        &self,
        service: &str,
        presented: Presented<'_>,
        now_us: i64,
    ) -> Result<Option<Arc<EndUser>>, TokenError> {
        let user = match presented {
            Presented::Nothing => return Ok(None),
            Presented::Several => Err(TokenError::Ambiguous),
            Presented::Bearer(token) => self.verify(service, token, now_us),
        };
        match &user {
            Ok(_) => self.metrics.tokens_verified.inc(),
            Err(_) => self.metrics.tokens_refused.inc(),
        };
        user.map(Some)
    }

    fn verify(&self, service: &str, token: &[u8], now_us: i64) -> Result<Arc<EndUser>, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Oversized);
        }
        let known = digest(token);
        if let Some(user) = self.seen.find(&known) {
            self.metrics.tokens_known.inc();
            self.issuer(&user.claims.issuer, service)?;
            in_time(&user, now_us)?;
            return Ok(user);
        }
        let compact = Compact::parse(token)?;
        let trusted = self.issuer(compact.issuer()?, service)?;
        compact.signed_by(&trusted.keys).and_then(|key| {
            let user = Arc::new(compact.end_user(&trusted.issuer, key)?);
            in_time(&user, now_us)?;
            self.seen.keep(known, Arc::clone(&user));
            Ok(user)
        })
    }

    fn issuer(&self, name: &str, service: &str) -> Result<&Trusted, TokenError> {
        let found = self.issuers.iter().find(|trusted| trusted.issuer.issuer == name);
        found.filter(|trusted| trusted.issuer.serves(service)).ok_or(TokenError::UnknownIssuer)
    }

    /// Whether a token that was verified once would be verified now, by these issuers and keys.
    pub(crate) fn vouch(&self, user: &EndUser, service: &str, now_us: i64) -> bool {
        self.issuer(&user.claims.issuer, service).is_ok_and(|trusted| {
            trusted.keys.iter().any(|key| *key.digest() == user.key)
                && !trusted.issuer.audiences.is_disjoint(&user.claims.audiences)
                && in_time(user, now_us).is_ok()
        })
    }
}

fn in_time(user: &EndUser, now_us: i64) -> Result<(), TokenError> {
    if now_us >= user.expires_us {
        return Err(TokenError::Expired);
    }
    if now_us.saturating_add(AHEAD_US) < user.not_before_us {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
