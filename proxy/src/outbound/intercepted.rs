//! Connections that redirect rules led here: the address that they were on their way to says which service they are for.
//!
//! What the app says (`Host`, SNI) selects nothing. An address that no service of the snapshot has is denied and recorded:
//! with an answer where the app speaks HTTP, else by a reset.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use signet_policy::Action;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tracing::debug;

use super::Outbound;
use super::connect::copy;
use super::http::{Client, Reach};
use super::table::Destination;
use crate::decide::{Call, Peer, reason};
use crate::detect::{self, First};
use crate::intercept::OriginalDst;
use crate::limits;
use crate::metrics::Direction;
use crate::serve;
use crate::snapshot::Protocol;
use crate::websocket::Behind;

impl Outbound {
    /// Serves redirected connections until drained.
    pub async fn run_intercepted(self: Arc<Self>, listener: TcpListener) {
        let metrics = Arc::clone(&self.shared.metrics);
        let stop = self.stop.clone();
        let port = listener.local_addr().map_or(0, |address| address.port());
        serve::accept(listener, Direction::Outbound, metrics, stop, move |stream, address| {
            let peer = Arc::new(self.own(address));
            Arc::clone(&self).intercepted(stream, peer, port)
        })
        .await;
    }

    /// Serves a listener that leads to one service, until drained.
    pub async fn run_upstream(self: Arc<Self>, listener: TcpListener, host: Arc<str>, port: u16) {
        let metrics = Arc::clone(&self.shared.metrics);
        let stop = self.stop.clone();
        serve::accept(listener, Direction::Outbound, metrics, stop, move |stream, address| {
            let (this, host) = (Arc::clone(&self), Arc::clone(&host));
            let peer = Arc::new(this.own(address));
            async move {
                let route = this.table.load().find(&host, Some(port), port).map(Arc::clone);
                match route {
                    Some(route) => this.to_one(stream, peer, route, Instant::now()).await,
                    None => {
                        debug!(%host, port, "the service of this listener is not in the snapshot");
                        reset(&stream);
                    }
                }
            }
        })
        .await;
    }

    async fn to_one(self: Arc<Self>, stream: TcpStream, peer: Arc<Peer>, route: Arc<Destination>, received: Instant) {
        if route.service.protocol == Protocol::Tcp {
            return self.pass(stream, &route, received).await;
        }
        // Between requests an app's connection may be silent as long as any other; so may a new one.
        let Some(version) = detect::on_socket_within(&stream, limits::SERVER_IDLE).await else { return };
        self.client(peer, Reach::Only(route)).serve(stream, version).await;
    }

    async fn intercepted(self: Arc<Self>, stream: TcpStream, peer: Arc<Peer>, listener: u16) {
        let received = Instant::now();
        let Some(destination) = OriginalDst::of(&stream, listener) else {
            if let Some(address) = peer.address {
                self.refusals.refused(address, "not_redirected", "tcp:connect", "", peer.id.as_ref(), "none");
            }
            return reset(&stream);
        };
        let to = self.table.load().at(destination.0);
        match to {
            None => self.unowned(stream, peer, destination, received).await,
            Some(to) => self.to_one(stream, peer, to, received).await,
        }
    }

    fn client(self: Arc<Self>, peer: Arc<Peer>, reach: Reach) -> Arc<Client> {
        let address = peer.address.unwrap_or_else(|| std::net::SocketAddr::from(([0, 0, 0, 0], 0)));
        Arc::new(Client { outbound: self, peer, address, reach, behind: Behind::default() })
    }

    /// Bytes both ways, without waiting for the app to say something first.
    async fn pass(&self, mut stream: TcpStream, to: &Destination, received: Instant) {
        let dialled = self.dial(to, &HeaderMap::new()).await;
        let status = dialled.as_ref().map_or_else(|response| response.status().as_u16(), |_| 200);
        self.shared.metrics.outbound.answered(Protocol::Tcp, status, received.elapsed());
        let Ok((mut transport, in_flight)) = dialled else {
            debug!(service = %to.service.service, "no connection to the service");
            return reset(&stream);
        };
        let copied = copy(&mut stream, Bytes::new(), &mut transport, to.flow(&self.shared)).await;
        drop(in_flight);
        match copied {
            Ok((sent, received)) => self.shared.metrics.copied(sent, received),
            Err(error) => debug!(%error, "a TCP connection broke"),
        }
    }

    /// On its way to an address that is no service's: out of the mesh, where that is declared, or nowhere.
    async fn unowned(
        self: Arc<Self>,
        mut stream: TcpStream,
        peer: Arc<Peer>,
        destination: OriginalDst,
        received: Instant,
    ) {
        let port = destination.0.port();
        let sni = match detect::first(&stream, limits::DETECT_UNDECLARED).await {
            First::Http(version) => return self.client(peer, Reach::Outside { port }).serve(stream, version).await,
            First::Tls { sni } => sni,
            First::Other | First::Nothing => None,
        };
        let address = destination.0.ip().to_string();
        let name = sni.as_deref().unwrap_or(&address);
        let status = match self.outside(name, port) {
            Some(external) => {
                let passed = self.pass_outside(&mut stream, external, peer, sni.clone(), received).await;
                passed.map_or_else(|refused| refused.status(), |()| 200)
            }
            None => {
                let call = Call {
                    peer: &peer,
                    destination: None,
                    service: name,
                    action: Action::TcpConnect { sni: sni.as_deref() },
                    dst_cluster: "",
                    dst_port: port,
                    end_user: None,
                    trace_id: None,
                    received,
                };
                let verdict = self.enforcer.deny(&call, reason::UNKNOWN_SERVICE).await;
                let seen = self.enforcer.seen(&call, self.unknown_flow(&peer), &verdict);
                seen.connected(received.elapsed());
                403
            }
        };
        self.shared.metrics.outbound.answered(Protocol::Tcp, status, received.elapsed());
        if status != 200 {
            reset(&stream);
        }
    }
}

/// Ends the connection such that the app sees that something is wrong, not an orderly end.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}
