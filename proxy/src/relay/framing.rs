//! Where a body ends (RFC 9112, section 6): by its length, by its last chunk, or with the connection.
//!
//! Bytes are not changed on their way: what is counted here is what is passed on. So chunked bodies are read strictly: what
//! two readers could take in two ways ends the call.

use crate::detect::is_token;

/// Most bytes of a chunk's size line, and of all trailers.
const LINE: usize = 256;
const TRAILERS: usize = 16 * 1024;

/// The rest of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Framing(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size {
        digits: u8,
        size: u64,
    },
    /// After the size: an extension, or the end of the line.
    Extension {
        seen: usize,
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// Start of a trailer line.
    Trailer {
        seen: usize,
    },
    /// Inside a trailer line; `ours` of its first characters are those of `x-signet-`.
    InTrailer {
        seen: usize,
        ours: Option<u8>,
        /// Its colon was there.
        named: bool,
    },
    TrailerLf {
        seen: usize,
    },
    EndLf,
    End,
}

/// The bytes are not the body that was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

const OURS: &[u8] = b"x-signet-";

impl Framing {
    pub(crate) const NONE: Self = Self(Kind::Length(0));

    pub(crate) fn length(bytes: u64) -> Self {
        Self(Kind::Length(bytes))
    }

    pub(crate) fn chunked() -> Self {
        Self(Kind::Chunked(Chunk::Size { digits: 0, size: 0 }))
    }

    pub(crate) fn until_close() -> Self {
        Self(Kind::UntilClose)
    }

    pub(crate) fn is_chunked(&self) -> bool {
        matches!(self.0, Kind::Chunked(_))
    }

    pub(crate) fn is_until_close(&self) -> bool {
        self.0 == Kind::UntilClose
    }

    pub(crate) fn ended(&self) -> bool {
        matches!(self.0, Kind::Length(0) | Kind::Chunked(Chunk::End))
    }

    /// How many of `bytes`, which come next on the connection, belong to the body.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match &mut self.0 {
            Kind::UntilClose => Ok(bytes.len()),
            Kind::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                Ok(take)
            }
            Kind::Chunked(chunk) => {
                let mut at = 0;
                while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && *chunk != Chunk::End) {
                    at += chunk.step(rest)?;
                }
                Ok(at)
            }
        }
    }
}

impl Chunk {
    /// Takes at least one of `bytes`, which are not empty.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let Some(first) = bytes.first().copied() else { return Ok(0) };
        *self = match *self {
            Self::Size { digits, size } => match (char::from(first).to_digit(16), first) {
                (Some(digit), _) if digits < 15 => {
                    Self::Size { digits: digits + 1, size: size * 16 + u64::from(digit) }
                }
                (None, b'\r') if digits > 0 => Self::SizeEnd { size },
                (None, b';') if digits > 0 => Self::Extension { seen: 0, size },
                _ => return Err(Malformed),
            },
            Self::Extension { seen, size } => match first {
                b'\r' => Self::SizeEnd { size },
                b'\n' | 0 => return Err(Malformed),
                _ if seen < LINE => Self::Extension { seen: seen + 1, size },
                _ => return Err(Malformed),
            },
            Self::SizeEnd { size } => match (first, size) {
                (b'\n', 0) => Self::Trailer { seen: 0 },
                (b'\n', size) => Self::Data(size),
                _ => return Err(Malformed),
            },
            Self::Data(left) => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - take as u64;
                *self = if left == 0 { Self::DataCr } else { Self::Data(left) };
                return Ok(take);
            }
            Self::DataCr if first == b'\r' => Self::DataLf,
            Self::DataLf if first == b'\n' => Self::Size { digits: 0, size: 0 },
            Self::Trailer { .. } if first == b'\r' => Self::EndLf,
            Self::Trailer { seen } => Self::in_trailer(seen, Some(0), false, first)?,
            Self::InTrailer { seen, named: true, .. } if first == b'\r' => Self::TrailerLf { seen },
            Self::InTrailer { seen, ours, named } => Self::in_trailer(seen, ours, named, first)?,
            Self::TrailerLf { seen } if first == b'\n' => Self::Trailer { seen },
            Self::EndLf if first == b'\n' => Self::End,
            _ => return Err(Malformed),
        };
        Ok(1)
    }

    /// A trailer passes as it came, unless it is no field, says what the mesh alone may say, or folds a line.
    fn in_trailer(seen: usize, ours: Option<u8>, named: bool, byte: u8) -> Result<Self, Malformed> {
        let fits = match (named, byte) {
            (false, b':') => ours != Some(0),
            (false, byte) => is_token(byte),
            (true, byte) => byte == b'\t' || (byte >= b' ' && byte != 0x7f),
        };
        if seen >= TRAILERS || !fits {
            return Err(Malformed);
        }
        let ours = match ours {
            Some(n) if OURS.get(usize::from(n)) == Some(&byte.to_ascii_lowercase()) => Some(n + 1),
            _ => None,
        };
        if ours.is_some_and(|n| usize::from(n) == OURS.len()) {
            return Err(Malformed);
        }
        Ok(Self::InTrailer { seen: seen + 1, ours, named: named || byte == b':' })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// How many bytes are the body, given in pieces of every size.
    fn body(framing: &Framing, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut results = Vec::new();
        for piece in 1..=bytes.len().max(1) {
            let (mut framing, mut taken, mut result) = (framing.clone(), 0, Ok(None));
            for part in bytes.chunks(piece) {
                match framing.advance(part) {
                    Ok(n) => taken += n,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
                if framing.ended() {
                    result = Ok(Some(taken));
                    break;
                }
            }
            results.push(result);
        }
        assert!(results.windows(2).all(|two| two[0] == two[1]), "pieces matter for {bytes:?}: {results:?}");
        results[0]
    }

    #[test]
    fn chunked_bodies_end_with_their_last_chunk_and_nothing_is_read_in_two_ways() {
        let whole = |text: &str| Ok(Some(text.len()));
        for (text, expected) in [
            ("0\r\n\r\n", whole("0\r\n\r\n")),
            ("5\r\nhello\r\n0\r\n\r\nGET /", whole("5\r\nhello\r\n0\r\n\r\n")),
            ("A;x=y\r\n0123456789\r\n0\r\n\r\n", whole("A;x=y\r\n0123456789\r\n0\r\n\r\n")),
            ("0\r\nchecksum: 1\r\n\r\n", whole("0\r\nchecksum: 1\r\n\r\n")),
            ("5\r\nhello", Ok(None)),
            ("5\nhello\r\n0\r\n\r\n", Err(Malformed)),
            ("5\r\nhello!\r\n0\r\n\r\n", Err(Malformed)),
            ("5 \r\nhello\r\n0\r\n\r\n", Err(Malformed)),
            ("-5\r\nhello\r\n0\r\n\r\n", Err(Malformed)),
            ("0x5\r\nhello\r\n0\r\n\r\n", Err(Malformed)),
            ("\r\nhello", Err(Malformed)),
            (";\r\nhello", Err(Malformed)),
            ("5;\nhello\r\n0\r\n\r\n", Err(Malformed)),
            ("fffffffffffffffff\r\n", Err(Malformed)),
            ("0\r\nX-Signet-Decision: forged\r\n\r\n", Err(Malformed)),
            ("0\r\na: b\r\n folded\r\n\r\n", Err(Malformed)),
            ("0\r\na: b\n\r\n", Err(Malformed)),
            ("0\r\na\r\n\r\n", Err(Malformed)),
            ("0\r\na : b\r\n\r\n", Err(Malformed)),
            ("0\r\na: \x01\r\n\r\n", Err(Malformed)),
        ] {
            assert_eq!(body(&Framing::chunked(), text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn lengths_are_kept_and_the_rest_is_left() {
        assert_eq!(body(&Framing::length(3), b"abcdef"), Ok(Some(3)));
        assert_eq!(body(&Framing::length(9), b"abcdef"), Ok(None));
        assert!(Framing::NONE.ended());
        assert_eq!(body(&Framing::until_close(), b"abcdef"), Ok(None));
    }

    #[test]
    fn endless_extensions_and_trailers_are_refused() {
        let long = |start: &str, filler: &str| format!("{start}{}", filler.repeat(20_000)).into_bytes();
        for bytes in [long("1;", "x"), long("0\r\na: ", "x"), long("0\r\n", "a: b\r\n")] {
            let mut framing = Framing::chunked();
            assert_eq!(framing.advance(&bytes), Err(Malformed));
        }
    }
}
