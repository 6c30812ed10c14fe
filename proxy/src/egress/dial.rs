//! Connecting to a host outside, with the sidecar's own TLS where the manifest asks for it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::limits;

/// A connection to a host outside.
pub(crate) trait Outside: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Outside for T {}

/// Verifies servers by the authorities in a PEM file. Not the mesh's TLS: a host outside has no SPIFFE ID.
pub(super) fn client_config(authorities: &Path) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(authorities).map_err(io::Error::other)?;
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(io::Error::other(format!("`{}` holds no authority", authorities.display())));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The first address that answers.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    host: &str,
    tls: Option<&Arc<ClientConfig>>,
    http: bool,
) -> io::Result<Box<dyn Outside>> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match within(limits::CONNECT, TcpStream::connect(address)).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                let Some(tls) = tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let mut config = ClientConfig::clone(tls);
                if http {
                    config.alpn_protocols = vec![b"http/1.1".to_vec()];
                }
                let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
                return Ok(Box::new(within(limits::HANDSHAKE, connecting).await?));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
