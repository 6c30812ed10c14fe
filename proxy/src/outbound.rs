//! The app's side: an explicit HTTP proxy on loopback that lends the app the sidecar's identity.
//!
//! It takes absolute-form requests, origin-form with `Host`, HTTP/2 with prior knowledge by `:authority`, and CONNECT.
//! It reaches only services of the snapshot. What is not there is denied, and the denial is recorded here, because no
//! other sidecar will see the call; all other decisions are the destination's.

mod connect;
mod faults;
mod hashing;
mod http;
mod intercepted;
mod outside;
mod relayed;
mod route;
mod table;
mod view;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use signet_mtls::{IdentitySource, Select, SpiffeId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::decide::{Enforcer, Peer};
use crate::detect;
use crate::egress::Egress;
use crate::flow::{self, Flow, FlowKey};
use crate::metrics::{Direction, Metrics};
use crate::refusal::Refusals;
use crate::serve::{self, Stop};
use crate::snapshot::Snapshot;
use crate::upstream::Shared;
use crate::websocket::Behind;
use table::Table;

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("the explicit outbound listener lends the workload's identity and may only bind loopback, not `{0}`")]
    NotLoopback(SocketAddr),
    #[error("cannot listen on `{address}`; is the port taken?")]
    Bind { address: SocketAddr, source: std::io::Error },
}

/// The outbound side of a sidecar.
pub struct Outbound {
    table: ArcSwap<Table>,
    /// `None`: there is no way out.
    egress: ArcSwapOption<Egress>,
    shared: Shared,
    enforcer: Arc<Enforcer>,
    refusals: Refusals,
    stop: Stop,
    /// There is something to look after.
    watching: Notify,
}

impl Outbound {
    #[must_use]
    pub fn new(
        source: IdentitySource,
        enforcer: Arc<Enforcer>,
        refusals: Refusals,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> Arc<Self> {
        let shared = Shared { source, metrics, tasks: TaskTracker::new() };
        Arc::new(Self {
            table: ArcSwap::from_pointee(Table::default()),
            egress: ArcSwapOption::empty(),
            shared,
            enforcer,
            refusals,
            stop,
            watching: Notify::new(),
        })
    }

    /// Takes over a snapshot's services.
    pub fn apply(&self, snapshot: &Snapshot) {
        let table = Table::build(snapshot, &self.table.load(), &self.shared);
        self.table.store(Arc::new(table));
        self.watching.notify_one();
        if let Some(egress) = self.egress.load().as_ref() {
            egress.apply(snapshot);
        }
    }

    /// Drops idle connections that nobody will take any more; to be called now and then.
    pub fn sweep(&self) {
        self.table.load().sweep();
    }

    /// Binds `address`, which must be loopback.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
        if !address.ip().is_loopback() {
            return Err(ListenError::NotLoopback(address));
        }
        TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
    }

    /// Serves until drained.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let metrics = Arc::clone(&self.shared.metrics);
        let stop = self.stop.clone();
        serve::accept(listener, Direction::Outbound, metrics, stop, move |stream, address| {
            Arc::clone(&self).connection(stream, address)
        })
        .await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let peer = Arc::new(self.own(address));
        // Someone who connects and says nothing (a port check) asked for nothing: there is nothing to refuse or record.
        let Some(version) = detect::on_socket(&stream).await else { return };
        let (reach, behind) = (http::Reach::Named, Behind::default());
        let client = Arc::new(http::Client { outbound: self, peer, address, reach, behind });
        client.serve(stream, version).await;
    }

    /// The series of calls to what the snapshot does not know; what they named is not for labels.
    fn unknown_flow(&self, peer: &Peer) -> Arc<Flow> {
        let source = peer.id.as_ref().map_or("", SpiffeId::as_str);
        let key = FlowKey { direction: Direction::Outbound, source, destination: flow::UNKNOWN, route: "" };
        self.shared.metrics.flows.get(key)
    }

    /// Who calls, as far as records of this side go: the workload itself.
    fn own(&self, address: SocketAddr) -> Peer {
        Peer {
            id: Select::Workload.svid(&self.shared.source.current()).map(|svid| svid.id.clone()),
            address: Some(address),
            tls: Arc::from("none"),
            not_after: None,
            chain: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_the_app_takes_little_memory() {
        fn bytes<F>(_: impl Fn(Arc<Outbound>, TcpStream, SocketAddr) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes(Outbound::connection);
        assert!(bytes <= 2_048, "{bytes} bytes for each idle connection");
    }
}
