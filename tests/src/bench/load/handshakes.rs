//! Full mutual handshakes with SVIDs, and the bare rustls accept loop that they are compared with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{NamedGroup, RootCertStore, ServerConfig};
use signet_mtls::{IdentitySource, PeerRule, Select, alpn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::Done;

/// A handshake counts when the server has verified the client too: it answers the client's end with its own.
pub(super) async fn handshakes(
    address: SocketAddr,
    workload_api: &str,
    workers: usize,
    time: Duration,
) -> anyhow::Result<Done> {
    let source = IdentitySource::connect(workload_api, CancellationToken::new()).await?;
    let config = signet_mtls::client_config(&source, Select::Workload, PeerRule::AnyKnown, &[alpn::HTTP1]);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let connector = TlsConnector::from(Arc::clone(&config));
        tasks.spawn(async move {
            let mut count = 0;
            while start.elapsed() < time {
                let stream = TcpStream::connect(address).await.context("connecting")?;
                stream.set_nodelay(true)?;
                let mut tls = connector.connect(signet_mtls::server_name(), stream).await.context("the handshake")?;
                let group = tls.get_ref().1.negotiated_key_exchange_group().map(|group| group.name());
                ensure!(group == Some(NamedGroup::X25519MLKEM768), "agreed on {group:?}");
                tls.shutdown().await?;
                ensure!(tls.read(&mut [0]).await.context("the end")? == 0, "the server sent something");
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok(Done { count, seconds: start.elapsed().as_secs_f64(), ..Done::default() })
}

/// Accepts, shakes hands with rustls's own verifier, and waits for the end: the least that a server can do. For ever.
///
/// # Errors
/// When it gets no SVID or cannot listen.
pub async fn bare_tls(listen: SocketAddr, workload_api: &str) -> anyhow::Result<()> {
    let source = IdentitySource::connect(workload_api, CancellationToken::new()).await?;
    let identity = source.current();
    let svid = Select::Workload.svid(&identity).context("the Workload API gives no workload SVID")?;
    let mut roots = RootCertStore::empty();
    for root in identity.bundles.values().flatten() {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key_der().to_vec()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(svid.chain.clone(), key)?;
    config.alpn_protocols = vec![alpn::HTTP1.to_vec()];
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(listen).await?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            let mut tls = acceptor.accept(stream).await?;
            while tls.read(&mut [0]).await? > 0 {}
            tls.shutdown().await
        });
        while connections.try_join_next().is_some() {}
    }
}
