//! Making connections: plain to the app, mTLS to a sidecar, mTLS inside a gateway's tunnel.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use signet_mtls::HandshakeError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{UpstreamError, h2};
use crate::tls::{ReadAhead, Wire};
use crate::{limits, sockets};

/// A connection to an upstream.
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<ReadAhead<TcpStream>>>),
    Tunnel(Box<Tunnelled>),
}

/// The end-to-end mTLS inside a gateway's tunnel, with the tunnel's place on the gateway connection.
pub struct Tunnelled {
    stream: TlsStream<TokioIo<Upgraded>>,
    _place: h2::Stream,
}

pub(super) async fn plain(address: SocketAddr) -> Result<Transport, UpstreamError> {
    Ok(Transport::Plain(tcp(address).await?))
}

pub(super) async fn mesh(address: SocketAddr, tls: &Arc<ClientConfig>, wire: Wire) -> Result<Transport, UpstreamError> {
    let stream = ReadAhead::new(tcp(address).await?);
    let accepted = signet_mtls::connect(Arc::clone(tls), stream, limits::HANDSHAKE)
        .await
        .map_err(|e| refused(address.to_string(), e))?;
    if accepted.alpn != wire.alpn() {
        return Err(UpstreamError::Protocol { address: address.to_string() });
    }
    Ok(Transport::Tls(Box::new(accepted.stream)))
}

pub(super) async fn inside(
    (tunnel, place): (TokioIo<Upgraded>, h2::Stream),
    authority: &str,
    tls: &Arc<ClientConfig>,
    wire: Wire,
) -> Result<Transport, UpstreamError> {
    let accepted = signet_mtls::connect(Arc::clone(tls), tunnel, limits::HANDSHAKE)
        .await
        .map_err(|e| refused(authority.to_owned(), e))?;
    if accepted.alpn != wire.alpn() {
        return Err(UpstreamError::Protocol { address: authority.to_owned() });
    }
    Ok(Transport::Tunnel(Box::new(Tunnelled { stream: accepted.stream, _place: place })))
}

pub(super) async fn tcp(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    within(limits::CONNECT, &address.to_string(), TcpStream::connect(address)).await
}

/// Like [`tcp`] for `host:port`, which may have to be resolved.
pub(super) async fn tcp_named(address: &str) -> Result<TcpStream, UpstreamError> {
    within(limits::CONNECT, address, TcpStream::connect(address)).await
}

async fn within(
    limit: Duration,
    address: &str,
    connecting: impl Future<Output = io::Result<TcpStream>>,
) -> Result<TcpStream, UpstreamError> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(stream)) => {
            // Failing to set an option is no reason to fail a call.
            let _ = stream.set_nodelay(true);
            sockets::notice_gone_peers(&stream);
            Ok(stream)
        }
        Ok(Err(source)) => Err(UpstreamError::Connect { address: address.to_owned(), source }),
        Err(_) => Err(UpstreamError::Timeout { address: address.to_owned() }),
    }
}

pub(super) fn refused(address: String, error: HandshakeError) -> UpstreamError {
    match error.refusal {
        signet_mtls::Refusal::Timeout => UpstreamError::Timeout { address },
        // The other side went away: that is no statement about who it is.
        signet_mtls::Refusal::Protocol if is_connection_error(&error.source) => {
            UpstreamError::Connect { address, source: error.source }
        }
        refusal => UpstreamError::Identity { address, refusal },
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
    )
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
            Transport::Tunnel(tunnelled) => {
                let $stream = &mut tunnelled.stream;
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(s) => s.is_write_vectored(),
            Self::Tls(s) => s.is_write_vectored(),
            Self::Tunnel(s) => s.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}
