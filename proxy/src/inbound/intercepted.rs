//! Connections that redirect rules led here: the port that they were on their way to says which services they are for.
//!
//! The ports are those of the snapshot, and come and go with it. A port that no service has serves nobody: its callers are
//! denied by name after their handshake, as on a listener that the snapshot does not know.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;
use signet_mtls::IdentitySource;
use tokio::net::{TcpListener, TcpStream};

use super::Inbound;
use crate::decide::Enforcer;
use crate::intercept::OriginalDst;
use crate::metrics::{Direction, Metrics};
use crate::refusal::Refusals;
use crate::serve::{self, Stop};
use crate::snapshot::Snapshot;

/// The inbound side of a workload whose connections are redirected.
pub struct Intercepted {
    /// What all ports have in common.
    base: Inbound,
    app_host: IpAddr,
    ports: ArcSwap<HashMap<u16, Arc<Inbound>>>,
}

impl Intercepted {
    /// `app_host` is where apps listen, each on the port that was asked for.
    #[must_use]
    pub fn new(
        app_host: IpAddr,
        source: IdentitySource,
        enforcer: Arc<Enforcer>,
        refusals: Refusals,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> Arc<Self> {
        let nowhere = SocketAddr::new(app_host, 0);
        let base = Inbound::parts(0, nowhere, source, enforcer, refusals, metrics, stop);
        Arc::new(Self { base, app_host, ports: ArcSwap::from_pointee(HashMap::new()) })
    }

    /// Takes over a snapshot's ports.
    pub fn apply(&self, snapshot: &Snapshot) {
        let old = self.ports.load_full();
        let mut ports = HashMap::new();
        for service in &snapshot.inbound {
            ports.entry(service.target_port).or_insert_with(|| {
                old.get(&service.target_port).map_or_else(|| Arc::new(self.port(service.target_port)), Arc::clone)
            });
        }
        // Those that went too: their open calls have to learn that nothing serves them any more.
        for port in old.values().chain(ports.values()) {
            port.apply(snapshot);
        }
        self.ports.store(Arc::new(ports));
    }

    /// Drops idle connections to apps that nobody will take any more.
    pub fn sweep(&self) {
        for port in self.ports.load().values() {
            port.sweep();
        }
    }

    /// For `/connections`: who has connections open, port by port.
    #[must_use]
    pub fn connections(&self) -> Vec<Value> {
        self.ports.load().values().map(|port| port.connections()).collect()
    }

    /// Serves until drained.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let metrics = Arc::clone(&self.base.shared.metrics);
        let stop = self.base.stop.clone();
        let accepted_on = listener.local_addr().map_or(0, |address| address.port());
        serve::accept(listener, Direction::Inbound, metrics, stop, move |stream, address| {
            Arc::clone(&self).connection(stream, address, accepted_on)
        })
        .await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr, accepted_on: u16) {
        let Some(OriginalDst(destination)) = OriginalDst::of(&stream, accepted_on) else {
            return self.base.refusals.refused(address, "not_redirected", "tcp:connect", "", None, "");
        };
        let known = self.ports.load().get(&destination.port()).map(Arc::clone);
        let port = known.unwrap_or_else(|| Arc::new(self.port(destination.port())));
        port.connection(stream, address).await;
    }

    /// A port that serves nobody yet.
    fn port(&self, port: u16) -> Inbound {
        Inbound {
            target_port: port,
            app: SocketAddr::new(self.app_host, port),
            port: arc_swap::ArcSwapOption::empty(),
            tls: Arc::clone(&self.base.tls),
            shared: self.base.shared.clone(),
            enforcer: Arc::clone(&self.base.enforcer),
            refusals: self.base.refusals.clone(),
            stop: self.base.stop.clone(),
            open: super::Connections::default(),
        }
    }
}
