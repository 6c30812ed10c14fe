//! Salted commitments: how personal values enter a record whose bytes can never change.
//!
//! The canonical bytes hold `SHA-256(domain || field || salt || value)`; the salt and the value, the *opening*,
//! travel beside them and can be erased on request without touching a leaf of the Merkle tree. The salt is 128
//! random bits, fresh for each value, so that an erased value cannot be found by guessing.

use aws_lc_rs::digest::{Context, SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Separates commitments from every other SHA-256 in Signet; no Merkle leaf or node begins with `s`.
const DOMAIN: &[u8] = b"signet-record-commitment-v1\0";

/// Bytes of a salt.
pub(crate) const SALT_BYTES: usize = 16;

/// How many salts are taken from the system's generator at once.
const BATCH: usize = 64;

/// What opens one commitment of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The tag of the field in the canonical encoding; of a context value, `0x0001_0000` plus its index.
    pub field: u32,
    /// The random bytes that hide the value.
    pub salt: [u8; SALT_BYTES],
    /// The personal value, as UTF-8.
    pub value: Vec<u8>,
}

/// The operating system's random generator failed; no record can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random generator failed, so a personal value cannot be hidden; check the host's entropy source")]
pub struct RandomError;

/// The commitment to `value` in `field`: `SHA-256(domain || field as 4 bytes, big-endian || salt || value)`.
#[must_use]
pub fn commit(field: u32, salt: &[u8; SALT_BYTES], value: &[u8]) -> [u8; 32] {
    let field = field.to_be_bytes();
    let parts = [DOMAIN, &field, salt, value];
    // Most values are short, and a hash in parts costs an allocation.
    let mut whole = [0; 192];
    let mut used = 0;
    for part in parts {
        let Some(place) = whole.get_mut(used..used + part.len()) else { return commit_in_parts(parts) };
        place.copy_from_slice(part);
        used += part.len();
    }
    digest_bytes(&digest(&SHA256, whole.get(..used).unwrap_or_default()))
}

fn commit_in_parts(parts: [&[u8]; 4]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    digest_bytes(&context.finish())
}

/// The 32 bytes of a SHA-256 digest.
pub(crate) fn digest_bytes(digest: &aws_lc_rs::digest::Digest) -> [u8; 32] {
    let mut out = [0; 32];
    // INVARIANT: SHA-256 yields 32 bytes, so the lengths agree.
    out.copy_from_slice(digest.as_ref());
    out
}

/// Fresh salts, drawn from the cryptographic generator a batch at a time. One per thread; a salt is given out once.
pub struct Salts {
    random: SystemRandom,
    pool: [u8; SALT_BYTES * BATCH],
    used: usize,
    #[cfg(test)]
    fixed: Option<u8>,
}

impl Default for Salts {
    fn default() -> Self {
        Self::new()
    }
}

impl Salts {
    /// An empty pool; the first salt fills it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            random: SystemRandom::new(),
            pool: [0; SALT_BYTES * BATCH],
            used: SALT_BYTES * BATCH,
            #[cfg(test)]
            fixed: None,
        }
    }

    /// Salts `first`, `first + 1`, .. repeated to 16 bytes each, for test vectors.
    #[cfg(test)]
    pub(crate) fn fixed(first: u8) -> Self {
        Self { fixed: Some(first), ..Self::new() }
    }

    /// The next salt.
    ///
    /// # Errors
    /// When the system's generator fails.
    pub(crate) fn next(&mut self) -> Result<[u8; SALT_BYTES], RandomError> {
        #[cfg(test)]
        if let Some(byte) = self.fixed.as_mut() {
            let salt = [*byte; SALT_BYTES];
            *byte = byte.wrapping_add(1);
            return Ok(salt);
        }
        if self.used >= self.pool.len() {
            self.random.fill(&mut self.pool).map_err(|_| RandomError)?;
            self.used = 0;
        }
        let end = self.used + SALT_BYTES;
        let slot = self.pool.get_mut(self.used..end).ok_or(RandomError)?;
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(slot);
        slot.fill(0);
        self.used = end;
        Ok(salt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commitment_is_the_same_in_one_go_and_in_parts() {
        let (field, salt) = (17u32, [7; SALT_BYTES]);
        for length in [0, 1, 143, 144, 145, 4_000] {
            let value = vec![b'x'; length];
            let parts = [DOMAIN, &field.to_be_bytes(), &salt, &value];
            assert_eq!(commit(field, &salt, &value), commit_in_parts(parts), "{length}");
        }
    }
}
