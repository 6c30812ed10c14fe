//! Peers that mean harm, at the outbound listener and, with a good SVID, at the inbound one. Each attack ends with the
//! peer refused, and with the proxy bounded, counting, and serving everybody else.

mod http1;
mod http2;
mod sockets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use signet_mtls::alpn;
use signet_proxy::snapshot::{OutboundService, Protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{self, Reached};
use crate::harness::{HOST, Pair, bridge, bundle, call, status, wait};

/// The attacks are about bytes, not about policy.
const EVERYTHING: &str = r#"
@id("everything")
permit(principal, action, resource);
"#;

/// A pair, and the addresses that take an attacker's plaintext bytes: the outbound listener, and a way into the inbound
/// one that speaks mTLS for the attacker.
struct Field {
    pair: Pair,
    reached: Reached,
    doors: [SocketAddr; 2],
}

impl Field {
    async fn new(protocol: &'static [u8]) -> Self {
        let (app, reached) = apps::http().await;
        Self::before(app, reached, protocol).await
    }

    async fn before(app: SocketAddr, reached: Reached, protocol: &'static [u8]) -> Self {
        let pair = Pair::new(Protocol::Http, 80, app).await;
        pair.change(|s| {
            let mut service = OutboundService::clone(&s.outbound[0]);
            service.hosts = vec![Arc::from("ledger"), Arc::from(HOST)];
            s.outbound = vec![Arc::new(service)];
            s.bundle = Some(bundle(EVERYTHING, 'b'));
        });
        let doors = [pair.outbound, bridge(&pair, protocol).await];
        let field = Self { pair, reached, doors };
        field.serves().await;
        field
    }

    async fn http1() -> Self {
        Self::new(alpn::HTTP1).await
    }

    async fn http2() -> Self {
        Self::new(alpn::H2).await
    }

    /// Somebody else's call goes through, soon.
    async fn serves(&self) {
        let good = async {
            loop {
                let answer = call(self.pair.outbound, "GET", &format!("http://{HOST}/"), "").await;
                if status(&answer) == 200 {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), good).await.expect("somebody else is served within 5 s");
    }

    /// All that the attack opened is gone, and others are served. One pooled connection between the sidecars may stay.
    async fn unharmed(&self) {
        self.serves().await;
        let (outbound, inbound) = (&self.pair.web.metrics.outbound, &self.pair.ledger.metrics.inbound);
        wait("end of the attack's connections", || {
            (outbound.connections.get() == 0 && inbound.connections.get() <= 2).then_some(())
        })
        .await;
    }
}

/// Writes until the peer ends it, takes nothing for a second, or `bytes` are through; gives how many were taken.
async fn flood(stream: &mut (impl tokio::io::AsyncWrite + Unpin), chunk: &[u8], bytes: usize) -> usize {
    let mut taken = 0;
    while taken < bytes {
        match tokio::time::timeout(Duration::from_secs(1), stream.write_all(chunk)).await {
            Ok(Ok(())) => taken += chunk.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    taken
}

/// What the peer says until it ends the connection, which it must do soon.
async fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let read = stream.read_to_end(&mut said);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("the proxy ends the connection");
    said
}
