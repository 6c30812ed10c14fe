//! Handshakes of the data plane: what is offered, what is taken, and who the peer then is.

mod ahead;

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use signet_mtls::{Accepted, HandshakeError, IdentitySource, PeerRule, Select, SpiffeId, alpn};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use ahead::ReadAhead;

use crate::decide::Peer;
use crate::limits;
use crate::snapshot::Protocol;

/// What two sidecars speak inside their mTLS, as ALPN says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    Http1,
    H2,
    Tcp,
}

impl Wire {
    /// What a sidecar offers for a service that declares `protocol`: HTTP/1.1 where the app speaks it, because it is the
    /// cheaper one to pass on.
    #[must_use]
    pub fn for_protocol(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http1,
            Protocol::Http2 | Protocol::Grpc => Self::H2,
            Protocol::Tcp => Self::Tcp,
        }
    }

    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => alpn::HTTP1,
            Self::H2 => alpn::H2,
            Self::Tcp => alpn::TCP,
        }
    }

    fn from_alpn(name: &[u8]) -> Option<Self> {
        [Self::Http1, Self::H2, Self::Tcp].into_iter().find(|wire| wire.alpn() == name)
    }

    /// Whether a port that declares `protocol` may be spoken to like this.
    #[must_use]
    pub fn fits(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Http => matches!(self, Self::Http1 | Self::H2),
            Protocol::Http2 | Protocol::Grpc => self == Self::H2,
            Protocol::Tcp => self == Self::Tcp,
        }
    }
}

/// The inbound side: any trust domain whose bundle is known may knock, policy says who comes in. All mesh protocols are
/// negotiated, so that a peer that contradicts the port is denied by name rather than refused as a stranger.
#[must_use]
pub fn inbound(source: &IdentitySource, select: Select) -> Arc<ServerConfig> {
    signet_mtls::server_config(source, select, &[alpn::HTTP1, alpn::H2, alpn::TCP])
}

/// The outbound side: the peer must be one of `ids`.
#[must_use]
pub fn outbound(source: &IdentitySource, select: Select, ids: &[SpiffeId], wire: Wire) -> Arc<ClientConfig> {
    signet_mtls::client_config(source, select, PeerRule::AnyOf(ids.to_vec()), &[wire.alpn()])
}

/// An inbound connection whose peer was verified.
pub(crate) struct Inbound {
    /// Boxed: it goes through several hands.
    pub(crate) stream: Box<TlsStream<ReadAhead<TcpStream>>>,
    pub(crate) peer: Arc<Peer>,
    /// `None`: no mesh protocol was agreed on.
    pub(crate) wire: Option<Wire>,
}

/// The server's side of a handshake, within [`limits::HANDSHAKE`].
pub(crate) async fn accept(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<Inbound, HandshakeError> {
    let accepting = signet_mtls::accept(config, ReadAhead::new(stream), limits::HANDSHAKE);
    let Accepted { stream, peer, chain, alpn, tls } = accepting.await?;
    let peer = Peer { id: peer, address: Some(address), tls: Arc::from(tls), not_after: not_after(&chain), chain };
    Ok(Inbound { stream: Box::new(stream), peer: Arc::new(peer), wire: Wire::from_alpn(&alpn) })
}

/// When the leaf ends, Unix seconds.
#[must_use]
pub fn not_after(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(leaf.validity().not_after.timestamp())
}
