//! Changes that turn one input into another: small ones that keep most of its structure, and splices of two.

use fastrand::Rng;

/// No input grows beyond this: what is larger takes time and finds nothing that this does not.
pub(crate) const LONGEST: usize = 8 * 1024;
const STACKED: usize = 6;
/// Lengths and counts go wrong at these.
const EDGES: [&[u8]; 10] = [
    b"0",
    b"1",
    b"-1",
    b"+1",
    b"00",
    b"65536",
    b"4294967296",
    b"9223372036854775808",
    b"18446744073709551616",
    b"ffffffffffffffff",
];
const BYTES: [u8; 12] = [0, 1, b'\t', b'\n', b'\r', b' ', b':', b';', 0x7f, 0x80, 0xfe, 0xff];

/// Another input: `input` changed a few times, with pieces of `other` and of `words`.
pub(crate) fn mutate(rng: &mut Rng, input: &[u8], other: &[u8], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.usize(1..=STACKED) {
        let at = rng.usize(0..=bytes.len());
        let end = rng.usize(at..=bytes.len().min(at + 32));
        match rng.u8(0..10) {
            0 => replace(&mut bytes, at, end, &[]),
            1 => replace(&mut bytes, at, at, &[rng.u8(..)]),
            2 => replace(&mut bytes, at, end, &[any(rng, &BYTES).copied().unwrap_or_default()]),
            3 => replace(&mut bytes, at, at, any(rng, words).copied().unwrap_or_default()),
            4 => replace(&mut bytes, at, end, any(rng, words).copied().unwrap_or_default()),
            5 => replace(&mut bytes, at, end, any(rng, &EDGES).copied().unwrap_or_default()),
            6 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.u8(0..8);
                }
            }
            7 => {
                let piece = bytes.get(at..end).unwrap_or_default().repeat(rng.usize(1..=8));
                replace(&mut bytes, at, at, &piece);
            }
            8 => {
                let from = rng.usize(0..=other.len());
                let to = rng.usize(from..=other.len());
                replace(&mut bytes, at, end, other.get(from..to).unwrap_or_default());
            }
            _ => bytes.truncate(at),
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

fn any<'a, T>(rng: &mut Rng, of: &'a [T]) -> Option<&'a T> {
    if of.is_empty() { None } else { of.get(rng.usize(0..of.len())) }
}

/// INVARIANT: `at <= end <= bytes.len()`.
fn replace(bytes: &mut Vec<u8>, at: usize, end: usize, with: &[u8]) {
    bytes.splice(at..end, with.iter().copied());
}
