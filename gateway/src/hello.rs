//! Reading a TLS ClientHello far enough to know that it is one and that it offers a protocol of the mesh (RFC 8446
//! section 4.1.2, RFC 7301). Bounded; nothing is answered and nothing decrypted.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// With a post-quantum key share a ClientHello has less than 2 KiB; who needs more than this is no sidecar.
const MAX_BYTES: usize = 16 * 1024;
const RECORD_HEADER: usize = 5;
const MAX_RECORD: usize = 16 * 1024;
const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
const ALPN: u16 = 16;

/// What the first bytes of a tunnel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed to tell.
    Incomplete,
    /// A ClientHello that offers a `signet/*` protocol.
    Mesh,
    /// A ClientHello that does not: a workload's own TLS.
    Foreign,
    /// No TLS at all.
    NotTls,
    /// TLS that does not begin with a well-formed ClientHello.
    Malformed,
}

/// Why a tunnel's first bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("the first bytes are not a ClientHello of the mesh: {0:?}")]
    Refused(Hello),
    #[error("the tunnel ended before its ClientHello")]
    Io(#[from] io::Error),
}

impl HelloError {
    /// Stable cause for metrics and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Refused(Hello::NotTls) => "not_tls",
            Self::Refused(Hello::Foreign) => "alpn",
            Self::Refused(_) | Self::Io(_) => "protocol",
        }
    }
}

/// Reads until the ClientHello is whole and gives all bytes read, to be forwarded.
///
/// # Errors
/// When it is anything but a ClientHello of the mesh, or longer than 16 KiB.
///
/// # Cancel safety
/// Not cancel safe: bytes that were read are lost.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, HelloError> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        match inspect(&bytes) {
            Hello::Mesh => return Ok(bytes),
            Hello::Incomplete if bytes.len() < MAX_BYTES => {}
            Hello::Incomplete => return Err(HelloError::Refused(Hello::Malformed)),
            other => return Err(HelloError::Refused(other)),
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(HelloError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Judges the first bytes of a tunnel.
pub fn inspect(bytes: &[u8]) -> Hello {
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        match rest.first() {
            None => return Hello::Incomplete,
            // After a first record of the right kind it is TLS, only not a ClientHello.
            Some(&kind) if kind != HANDSHAKE => {
                return if handshake.is_empty() { Hello::NotTls } else { Hello::Malformed };
            }
            Some(_) => {}
        }
        if rest.get(1).is_some_and(|major| *major != 3) {
            return Hello::NotTls;
        }
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else { return Hello::Incomplete };
        let length = match header {
            [_, _, _, high, low] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Hello::Malformed,
        };
        if length == 0 || length > MAX_RECORD {
            return Hello::Malformed;
        }
        let (fragment, next) = after.split_at_checked(length).unwrap_or((after, &[]));
        handshake.extend_from_slice(fragment);
        match message(&handshake) {
            Message::Whole(hello) => return client_hello(hello).unwrap_or(Hello::Malformed),
            Message::Malformed => return Hello::Malformed,
            Message::Incomplete if fragment.len() < length => return Hello::Incomplete,
            Message::Incomplete => rest = next,
        }
    }
}

enum Message<'a> {
    Whole(&'a [u8]),
    Incomplete,
    Malformed,
}

/// The body of the first handshake message, which has to be a ClientHello.
fn message(handshake: &[u8]) -> Message<'_> {
    match handshake {
        [kind, ..] if *kind != CLIENT_HELLO => Message::Malformed,
        [_, high, middle, low, body @ ..] => {
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            if length > MAX_BYTES {
                return Message::Malformed;
            }
            body.get(..length).map_or(Message::Incomplete, Message::Whole)
        }
        _ => Message::Incomplete,
    }
}

fn client_hello(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?;
    reader.vector8()?;
    if reader.0.is_empty() {
        // RFC 5246 allows a hello without extensions; the mesh does not speak like that.
        return Some(Hello::Foreign);
    }
    let mut extensions = Reader(reader.vector16()?);
    let mut verdict = Hello::Foreign;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        if kind == ALPN {
            let mut names = Reader(Reader(content).vector16()?);
            while !names.0.is_empty() {
                if names.vector8()?.starts_with(b"signet/") {
                    verdict = Hello::Mesh;
                }
            }
        }
    }
    Some(verdict)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        match self.take(2)? {
            [high, low] => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length)
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::sync::Arc;

    use super::*;

    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let config = signet_mtls::testing::client_of_strangers(None, alpn, &[&rustls::version::TLS13]);
        let mut client = rustls::ClientConnection::new(Arc::clone(&config), signet_mtls::server_name()).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn knows_the_mesh_from_a_workloads_own_tls() {
        assert_eq!(inspect(&hello(&[b"signet/h2"])), Hello::Mesh);
        assert_eq!(inspect(&hello(&[b"http/1.1", b"signet/tcp"])), Hello::Mesh);
        assert_eq!(inspect(&hello(&[b"h2", b"http/1.1"])), Hello::Foreign);
        assert_eq!(inspect(&hello(&[])), Hello::Foreign);
    }

    #[test]
    fn refuses_what_is_not_a_client_hello() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Hello::NotTls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Hello::NotTls),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Hello::NotTls),
            (b"\x16\x47\x45\x54", Hello::NotTls),
            (b"\x16\x03\x01\x00\x00", Hello::Malformed),
            (b"\x16\x03\x01\xff\xff\x01", Hello::Malformed),
            (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Hello::Malformed),
            (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", Hello::Malformed),
            (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", Hello::Malformed),
        ] {
            assert_eq!(inspect(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn waits_for_more_at_every_cut_and_in_any_fragmentation() {
        let whole = hello(&[b"signet/h2"]);
        for cut in 0..whole.len() {
            assert_eq!(inspect(&whole[..cut]), Hello::Incomplete, "cut at {cut}");
        }
        for size in [1, 7, 200] {
            let fragmented: Vec<u8> = whole[RECORD_HEADER..]
                .chunks(size)
                .flat_map(|part| {
                    let length = u16::try_from(part.len()).unwrap().to_be_bytes();
                    [&[HANDSHAKE, 3, 1, length[0], length[1]], part].concat()
                })
                .collect();
            assert_eq!(inspect(&fragmented), Hello::Mesh, "fragments of {size}");
        }
    }

    #[test]
    fn no_flipped_byte_makes_it_panic() {
        let whole = hello(&[b"signet/h2"]);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = inspect(&bytes);
        }
    }

    #[tokio::test]
    async fn gives_up_on_a_hello_without_end() {
        let endless = [&b"\x16\x03\x01\x40\x00\x01\x00\x40\x00"[..], &[0; 20_000]].concat();
        assert!(read(&mut endless.as_slice()).await.is_err());
        assert!(matches!(read(&mut &b"\x16\x03"[..]).await, Err(HelloError::Io(_))));
    }
}
