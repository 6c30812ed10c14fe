//! What a connection begins with, where nobody declared it: HTTP by its request line or preface, TLS by its ClientHello.
//!
//! Bounded in time and bytes, and certain or not at all: what only looks like HTTP so far is waited for, within the limit.

use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::HttpVersion;

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No method that anybody uses is longer.
const MAX_METHOD: usize = 32;
/// A request line or ClientHello that is longer is not waited for.
const MAX_BYTES: usize = 16 * 1024;
/// Bytes that were looked at leave the socket readable, so more of them can only be asked for now and then.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// The first bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum First {
    Http(HttpVersion),
    Tls {
        sni: Option<String>,
    },
    Other,
    /// None came in time, or the client left.
    Nothing,
}

/// Looks without taking.
pub(crate) async fn first(stream: &TcpStream, limit: Duration) -> First {
    let deadline = Instant::now() + limit;
    let mut seen = vec![0; 1024];
    let mut told = First::Nothing;
    loop {
        let Ok(Ok(n)) = tokio::time::timeout_at(deadline, stream.peek(&mut seen)).await else { return told };
        let bytes = seen.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            return told;
        }
        match tell(bytes) {
            Some(first) => return first,
            // Undecided and out of time or room: bytes like any other.
            None if n >= MAX_BYTES || Instant::now() + LOOK_AGAIN >= deadline => return First::Other,
            None => told = First::Other,
        }
        if n == seen.len() {
            seen.resize(seen.len() * 2, 0);
        } else {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// `None`: more bytes may tell.
pub(crate) fn tell(bytes: &[u8]) -> Option<First> {
    if bytes.first() == Some(&0x16) {
        return tls(bytes);
    }
    if PREFACE.starts_with(bytes) {
        return (bytes.len() == PREFACE.len()).then_some(First::Http(HttpVersion::Two));
    }
    if bytes.starts_with(PREFACE) {
        return Some(First::Http(HttpVersion::Two));
    }
    http1(bytes)
}

/// RFC 9112, section 3: a method, a target and the version, in one line.
fn http1(bytes: &[u8]) -> Option<First> {
    let method = bytes.iter().take_while(|b| is_token(**b)).count();
    if method == 0 || method > MAX_METHOD {
        return Some(First::Other);
    }
    let rest = bytes.get(method..)?;
    match rest.split_first() {
        None => return None,
        Some((b' ', _)) => {}
        Some(_) => return Some(First::Other),
    }
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
        let plain = bytes.iter().all(|b| is_plain(*b) || *b == b'\r');
        return if plain { None } else { Some(First::Other) };
    };
    let line = bytes.get(..end)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_http = line.len() > 9
        && line.iter().all(|b| is_plain(*b))
        && [&b" HTTP/1.1"[..], b" HTTP/1.0"].iter().any(|v| line.ends_with(v));
    Some(if is_http { First::Http(HttpVersion::One) } else { First::Other })
}

/// What a request line may consist of.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) || byte >= 0x80
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn tls(bytes: &[u8]) -> Option<First> {
    let mut acceptor = Acceptor::default();
    let mut unread = bytes;
    while !unread.is_empty() {
        match acceptor.read_tls(&mut unread) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let sni = accepted.client_hello().server_name().map(str::to_owned);
                return Some(First::Tls { sni });
            }
            Ok(None) => {}
            Err(_) => return Some(First::Other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn client_hello(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn tells_http_and_tls_from_everything_else() {
        let one = Some(First::Http(HttpVersion::One));
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], one.clone()),
            (b"GET / HTTP/1.0\nhost: a", one.clone()),
            (b"M-SEARCH * HTTP/1.1\r\nx: y\r\n", one),
            (PREFACE, Some(First::Http(HttpVersion::Two))),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"GET", None),
            (b"GET /accounts/1 HT", None),
            (b"GET /\x00", Some(First::Other)),
            (b"GET / SMTP/1.1\r\n", Some(First::Other)),
            (b"GET /\x10 HTTP/1.1\r\n", Some(First::Other)),
            (b"EHLO mail.bank.example\r\n", Some(First::Other)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(First::Other)),
            (b"\x16\x03\x01", None),
            (b"\x16garbage that is long enough to be a record", Some(First::Other)),
        ] {
            assert_eq!(tell(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        let hello = client_hello("ledger.bank.example");
        assert_eq!(tell(&hello), Some(First::Tls { sni: Some("ledger.bank.example".to_owned()) }));
        assert_eq!(tell(hello.get(..hello.len() - 1).unwrap()), None);
        assert_eq!(tell(&client_hello("10.0.0.1")), Some(First::Tls { sni: None }));
    }

    #[tokio::test]
    async fn what_cannot_be_told_in_time_is_bytes_and_silence_is_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limit = Duration::from_millis(60);
        for (sent, expected) in [(&b""[..], First::Nothing), (b"GET /acc", First::Other), (b"QUIT\r\n", First::Other)] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(sent).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let started = Instant::now();
            assert_eq!(first(&server, limit).await, expected, "{sent:?}");
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn bytes_that_come_one_by_one_are_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let writing = async {
            for byte in b"GET / HTTP/1.1\r\n" {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (told, ()) = tokio::join!(first(&server, Duration::from_secs(5)), writing);
        assert_eq!(told, First::Http(HttpVersion::One));
    }
}
