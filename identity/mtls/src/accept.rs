//! A handshake with a deadline, on either side, that ends in an identity or in a cause.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{Refusal, SpiffeId};

/// A refused handshake.
#[derive(Debug, thiserror::Error)]
#[error("handshake refused ({refusal})")]
pub struct HandshakeError {
    pub refusal: Refusal,
    /// The SPIFFE ID that the peer claimed, unverified, when one could be read.
    pub claimed: Option<SpiffeId>,
    #[source]
    pub source: io::Error,
}

impl HandshakeError {
    fn new(source: io::Error) -> Self {
        Self { refusal: crate::classify(&source), claimed: crate::refused_peer(&source), source }
    }
}

/// A stream whose peer was verified.
pub struct Accepted<T> {
    pub stream: T,
    /// `None` only where client certificates are optional.
    pub peer: Option<SpiffeId>,
    /// The peer's chain, to check it again when the identity changes.
    pub chain: Vec<CertificateDer<'static>>,
    /// The protocol both agreed on; empty without one.
    pub alpn: Vec<u8>,
    /// As records carry it: `TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384`.
    pub tls: String,
}

/// The server's side of a handshake.
///
/// # Errors
/// The cause, after at most `timeout`.
pub async fn accept<S>(
    config: Arc<ServerConfig>,
    stream: S,
    timeout: Duration,
) -> Result<Accepted<server::TlsStream<S>>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = within(timeout, TlsAcceptor::from(config).accept(stream)).await?;
    let (peer, chain, alpn, tls) = outcome(stream.get_ref().1)?;
    Ok(Accepted { peer, chain, alpn, tls, stream })
}

/// The client's side of a handshake.
///
/// # Errors
/// The cause, after at most `timeout`.
pub async fn connect<S>(
    config: Arc<ClientConfig>,
    stream: S,
    timeout: Duration,
) -> Result<Accepted<client::TlsStream<S>>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connecting = TlsConnector::from(config).connect(crate::server_name(), stream);
    let stream = within(timeout, connecting).await?;
    let (peer, chain, alpn, tls) = outcome(stream.get_ref().1)?;
    Ok(Accepted { peer, chain, alpn, tls, stream })
}

async fn within<T>(timeout: Duration, handshake: impl Future<Output = io::Result<T>>) -> Result<T, HandshakeError> {
    match tokio::time::timeout(timeout, handshake).await {
        Ok(done) => done.map_err(HandshakeError::new),
        Err(_) => Err(HandshakeError::new(io::Error::new(io::ErrorKind::TimedOut, "no handshake in time"))),
    }
}

type Outcome = (Option<SpiffeId>, Vec<CertificateDer<'static>>, Vec<u8>, String);

fn outcome(connection: &CommonState) -> Result<Outcome, HandshakeError> {
    let chain: Vec<_> =
        connection.peer_certificates().unwrap_or_default().iter().map(|cert| cert.clone().into_owned()).collect();
    let peer = if chain.is_empty() {
        None
    } else {
        let id = crate::peer_id(&chain).map_err(|error| HandshakeError::new(io::Error::other(error.into_rustls())))?;
        Some(id)
    };
    let alpn = connection.alpn_protocol().unwrap_or_default().to_vec();
    Ok((peer, chain, alpn, describe(connection)))
}

/// Version, key exchange and cipher suite, as records carry them.
pub fn describe(connection: &CommonState) -> String {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    };
    let group = connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    let suite = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    format!("{version} {} {}", group.as_deref().unwrap_or("-"), suite.as_deref().unwrap_or("-"))
}
