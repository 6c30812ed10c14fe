//! Join tokens: random, stored as hashes, expiring, and good for one attestation.
//!
//! INVARIANT: a token is written down as spent before it is honoured, so that neither a crash nor a restart lets it work
//! twice. The token itself is never stored or logged.

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    ca::sha256_hex,
    store::{self, StoreError},
};

const MAX_OUTSTANDING: usize = 10_000;
/// Spent and expired tokens are remembered this long, so that a late attempt is told why.
const REMEMBER: i64 = 86_400;
/// The longest life of a token.
pub const MAX_LIFE: u32 = 7 * 86_400;

/// Why a token is not honoured, or none could be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Never made here, or forgotten.
    #[error("join token: unknown; create one with the identity server's operator")]
    Unknown,
    /// Too old.
    #[error("join token: expired; create a new one")]
    Expired,
    /// Used before.
    #[error("join token: already spent; a token works once, create a new one")]
    Spent,
    /// Too many are outstanding.
    #[error("join tokens: {MAX_OUTSTANDING} are outstanding; wait for some to expire")]
    Full,
    /// The random generator failed.
    #[error("join tokens: no randomness")]
    Random,
    /// The file of tokens.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    sha256: String,
    expires_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent_at: Option<i64>,
}

/// The join tokens of one server.
#[derive(Debug)]
pub struct JoinTokens {
    path: PathBuf,
    tokens: Mutex<Vec<Stored>>,
}

impl JoinTokens {
    /// Reads the tokens of earlier starts.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub fn open(path: PathBuf) -> Result<Self, StoreError> {
        let tokens = store::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, tokens: Mutex::new(tokens) })
    }

    /// Makes a token of 256 random bits that works once until `now + life` seconds; gives it and when it expires.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn create(&self, life: u32, now: i64) -> Result<(String, i64), TokenError> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| TokenError::Random)?;
        let token = URL_SAFE_NO_PAD.encode(secret);
        let expires_at = now + i64::from(life.min(MAX_LIFE));
        let mut tokens = self.tokens.lock();
        let mut changed: Vec<Stored> =
            tokens.iter().filter(|token| token.expires_at + REMEMBER > now).cloned().collect();
        if changed.iter().filter(|token| token.spent_at.is_none() && token.expires_at > now).count() >= MAX_OUTSTANDING
        {
            return Err(TokenError::Full);
        }
        changed.push(Stored { sha256: sha256_hex(token.as_bytes()), expires_at, spent_at: None });
        store::write_json(&self.path, &changed)?;
        *tokens = changed;
        Ok((token, expires_at))
    }

    /// Spends a token. When this returns `Ok`, the token is spent on disk.
    ///
    /// # Errors
    /// When the token is unknown, expired or spent, or spending it cannot be written down.
    pub fn spend(&self, token: &str, now: i64) -> Result<(), TokenError> {
        let digest = sha256_hex(token.trim().as_bytes());
        let mut tokens = self.tokens.lock();
        let mut changed = tokens.clone();
        let found = changed.iter_mut().find(|stored| stored.sha256 == digest).ok_or(TokenError::Unknown)?;
        if found.spent_at.is_some() {
            return Err(TokenError::Spent);
        }
        if found.expires_at <= now {
            return Err(TokenError::Expired);
        }
        found.spent_at = Some(now);
        store::write_json(&self.path, &changed)?;
        *tokens = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_token_works_once_even_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join-tokens.json");
        let tokens = JoinTokens::open(path.clone()).unwrap();
        let (first, _) = tokens.create(60, NOW).unwrap();
        let (second, _) = tokens.create(60, NOW).unwrap();
        assert_ne!(first, second);
        tokens.spend(&first, NOW + 1).unwrap();
        assert!(matches!(tokens.spend(&first, NOW + 1), Err(TokenError::Spent)));
        let reopened = JoinTokens::open(path).unwrap();
        assert!(matches!(reopened.spend(&first, NOW + 2), Err(TokenError::Spent)));
        reopened.spend(&format!("{second}\n"), NOW + 2).unwrap();
    }

    #[test]
    fn expired_and_unknown_tokens_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = JoinTokens::open(dir.path().join("t.json")).unwrap();
        let (token, expires_at) = tokens.create(60, NOW).unwrap();
        assert_eq!(expires_at, NOW + 60);
        assert!(matches!(tokens.spend(&token, NOW + 60), Err(TokenError::Expired)));
        assert!(matches!(tokens.spend("guess", NOW), Err(TokenError::Unknown)));
        assert!(matches!(tokens.spend("", NOW), Err(TokenError::Unknown)));
    }

    #[test]
    fn the_file_holds_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        let (token, _) = JoinTokens::open(path.clone()).unwrap().create(60, NOW).unwrap();
        assert!(!std::fs::read_to_string(path).unwrap().contains(&token));
    }

    #[test]
    fn a_token_that_cannot_be_written_as_spent_is_not_honoured() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = JoinTokens::open(dir.path().join("t.json")).unwrap();
        let (token, _) = tokens.create(60, NOW).unwrap();
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(matches!(tokens.spend(&token, NOW), Err(TokenError::Store(_))));
    }
}
