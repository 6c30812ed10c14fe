//! What a connection begins with: HTTP by its first line, TLS by its ClientHello.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use signet_proxy::untrusted;

use crate::{Shape, Target, shape};

/// First bytes of connections.
pub(crate) const DETECTION: Target = Target {
    name: "detection",
    corpus,
    words: &[
        b"\x16\x03\x01",
        b"\x16\x03\x03\0",
        b"\x01\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b" HTTP/1.0\n",
        b"\0\0",
        b"\0\x10",
        b"\x02h2",
        b"SSH-2.0-x\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
    ],
    check,
};

fn corpus() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"OPTIONS * HTTP/1.0\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO mail.example\r\n",
    ]
    .iter()
    .map(|bytes| bytes.to_vec())
    .collect();
    all.extend(["ledger.bank.example", "10.0.0.1"].into_iter().filter_map(client_hello));
    all
}

fn client_hello(name: &'static str) -> Option<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name).ok()?).ok()?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello).ok()?;
    Some(hello)
}

/// What was told of the first bytes does not change with more of them.
fn check(bytes: &[u8]) -> Result<Shape, String> {
    let whole = untrusted::detect(bytes);
    let step = (bytes.len() / 48).max(1);
    for end in (0..bytes.len()).step_by(step) {
        let told = untrusted::detect(bytes.get(..end).unwrap_or_default());
        if told.is_some() && told != whole {
            return Err(format!("the first {end} bytes are {told:?}, all are {whole:?}"));
        }
    }
    Ok(shape(whole))
}
