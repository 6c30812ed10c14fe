//! Calls of hosts outside of the mesh: declared by manifest, permitted by policy (`egress:connect` on an `ExternalService`),
//! decided and recorded here, because no other sidecar will see them. What is not declared is denied like any name that
//! nobody knows.
//!
//! INVARIANT: a connection goes to an address that this sidecar resolved by the declared name, and never to one of this
//! machine, its link, or the mesh. What the app resolved, or sends as `Host` or SNI, only says which declared host it means.

mod address;
mod dial;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use rustls::ClientConfig;
use signet_policy::Action;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{debug, warn};

use crate::answer::{self, Fault};
use crate::decide::{Again, Call, Enforcer, Peer, Serves, Verdict, reason};
use crate::flow::{Decided, Flow, Seen};
use crate::metrics::{Direction, Metrics};
use crate::serve::{Signal, Signals, Stop};
use crate::snapshot::{External, Snapshot};
use crate::tcp;

pub(crate) use dial::Outside;

/// Gives the addresses of a name; the system's resolver outside of tests.
pub type Resolve = Arc<dyn Fn(String, u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// What one snapshot says.
#[derive(Default)]
struct Table {
    hosts: HashMap<u16, HashMap<Arc<str>, Arc<External>>>,
    /// Addresses of services, endpoints and gateways.
    mesh: HashSet<IpAddr>,
}

/// The way out.
pub struct Egress {
    table: ArcSwap<Table>,
    enforcer: Arc<Enforcer>,
    metrics: Arc<Metrics>,
    stop: Stop,
    /// `None`: no authorities to verify a server by, so TLS cannot be originated.
    tls: Option<Arc<ClientConfig>>,
    resolve: Resolve,
    /// Components that no snapshot names.
    components: Vec<IpAddr>,
}

/// Why there is no connection.
pub(crate) enum Refused {
    Denied(Verdict),
    Failed(Fault),
}

impl Refused {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Denied(_) => 403,
            Self::Failed(fault) => fault.status.as_u16(),
        }
    }
}

/// One call of a host outside, for as long as it is open.
pub(crate) struct Asked {
    pub(crate) external: Arc<External>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) sni: Option<String>,
    pub(crate) trace_id: Option<[u8; 16]>,
    pub(crate) received: Instant,
}

impl Asked {
    fn call(&self) -> Call<'_> {
        Call {
            peer: &self.peer,
            destination: None,
            service: &self.external.name,
            action: Action::EgressConnect { sni: self.sni.as_deref() },
            dst_cluster: "",
            dst_port: self.external.port,
            end_user: None,
            trace_id: self.trace_id,
            received: self.received,
        }
    }
}

impl Egress {
    /// `components` are addresses of the mesh that no snapshot names. `authorities` is a PEM file that servers are verified by
    /// where the sidecar makes the TLS.
    #[must_use]
    pub fn new(
        enforcer: Arc<Enforcer>,
        metrics: Arc<Metrics>,
        stop: Stop,
        authorities: &Path,
        components: Vec<IpAddr>,
        resolve: Option<Resolve>,
    ) -> Self {
        let tls = match dial::client_config(authorities) {
            Ok(tls) => Some(tls),
            Err(error) => {
                debug!(error = %error, "TLS to hosts outside cannot be originated");
                None
            }
        };
        let system: Resolve = Arc::new(|host, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
        });
        let resolve = resolve.unwrap_or(system);
        Self { table: ArcSwap::from_pointee(Table::default()), enforcer, metrics, stop, tls, resolve, components }
    }

    /// Takes over a snapshot.
    pub fn apply(&self, snapshot: &Snapshot) {
        let mut table = Table::default();
        for external in &snapshot.external {
            table.hosts.entry(external.port).or_default().insert(Arc::clone(&external.host), Arc::clone(external));
        }
        for service in &snapshot.outbound {
            table.mesh.extend(&service.addresses);
            table.mesh.extend(service.endpoints.iter().map(SocketAddr::ip));
            let gateways = service.gateway.iter().flat_map(|gateway| &gateway.addresses);
            table.mesh.extend(gateways.filter_map(|address| address.parse::<SocketAddr>().ok()).map(|a| a.ip()));
        }
        self.table.store(Arc::new(table));
    }

    /// The declared host at this port.
    pub(crate) fn find(&self, host: &str, port: u16) -> Option<Arc<External>> {
        let table = self.table.load();
        let hosts = table.hosts.get(&port)?;
        let host = host.trim_end_matches('.').trim_start_matches('[').trim_end_matches(']');
        hosts.get(host).or_else(|| hosts.get(host.to_ascii_lowercase().as_str())).map(Arc::clone)
    }

    /// The series of calls like this one.
    fn flow(&self, asked: &Asked) -> Arc<Flow> {
        self.metrics.flows.get(asked.call().flow_key(Direction::Outbound, None))
    }

    /// The call as it is counted, and shown to whoever watches, by what [`Egress::open`] gave. One that failed may have
    /// been allowed before.
    pub(crate) fn seen<T>(&self, asked: &Asked, opened: &Result<(T, Verdict), Refused>) -> Seen {
        let flow = self.flow(asked);
        match opened {
            Ok((_, verdict)) | Err(Refused::Denied(verdict)) => self.enforcer.seen(&asked.call(), flow, verdict),
            Err(Refused::Failed(_)) => Seen::new(flow, Decided::Elsewhere),
        }
    }

    /// Decides, records and connects. `http`: what will be spoken is HTTP/1.1.
    pub(crate) async fn open(&self, asked: &Asked, http: bool) -> Result<(Box<dyn Outside>, Verdict), Refused> {
        let external = &asked.external;
        // The manifest says where; the signed bundle says what the name stands for.
        if !self.enforcer.declares_external(&external.name, &external.host) {
            return Err(Refused::Denied(self.enforcer.deny(&asked.call(), reason::UNKNOWN_SERVICE).await));
        }
        let resolved = match external.host.parse::<IpAddr>() {
            Ok(ip) => Ok(vec![SocketAddr::new(ip, external.port)]),
            Err(_) => {
                dial::within(crate::limits::CONNECT, (self.resolve)(external.host.to_string(), external.port)).await
            }
        };
        let resolved = match resolved {
            Ok(addresses) => addresses,
            Err(error) => {
                debug!(host = %external.host, %error, "a host outside cannot be resolved");
                return Err(Refused::Failed(answer::EGRESS_UNRESOLVED));
            }
        };
        let outside: Vec<SocketAddr> =
            resolved.iter().copied().filter(|address| self.is_outside(address.ip())).collect();
        if outside.is_empty() {
            warn!(host = %external.host, ?resolved, "a host outside leads to an address that is not outside; denied");
            return Err(Refused::Denied(self.enforcer.deny(&asked.call(), reason::EGRESS_ADDRESS).await));
        }
        let verdict = self.enforcer.decide(&asked.call()).await;
        if !verdict.allow {
            return Err(Refused::Denied(verdict));
        }
        let tls = match (external.originate_tls, &self.tls) {
            (false, _) => None,
            (true, Some(tls)) => Some(tls),
            (true, None) => return Err(Refused::Failed(answer::EGRESS_AUTHORITIES)),
        };
        match dial::connect(&outside, &external.host, tls, http).await {
            Ok(stream) => Ok((stream, verdict)),
            Err(error) => {
                debug!(host = %external.host, %error, "a host outside cannot be reached");
                Err(Refused::Failed(answer::EGRESS_UNREACHABLE))
            }
        }
    }

    fn is_outside(&self, ip: IpAddr) -> bool {
        let table = self.table.load();
        address::all_forms(ip)
            .all(|ip| address::is_public_or_private(ip) && !table.mesh.contains(&ip) && !self.components.contains(&ip))
    }

    /// Bytes both ways, until either side ends them or a new decision does.
    pub(crate) async fn relay<A>(&self, mut app: A, mut outside: Box<dyn Outside>, asked: &Asked, verdict: Verdict)
    where
        A: AsyncRead + AsyncWrite + Unpin,
    {
        let flow = self.flow(asked);
        match self.until_denied(asked, verdict, tcp::relay(&mut app, &mut outside, &flow)).await {
            Some(Ok((sent, received))) => self.metrics.copied(sent, received),
            Some(Err(error)) => debug!(%error, "a connection to a host outside broke"),
            None => {}
        }
    }

    /// Runs `work` while policy goes on permitting what it does; `None`: it was ended.
    pub(crate) async fn until_denied<T>(
        &self,
        asked: &Asked,
        verdict: Verdict,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut due_us = verdict.expires_at_us;
        let mut signals = Signals::new(self.enforcer.changes(), self.stop.drain.clone(), None, due_us);
        tokio::pin!(work);
        // A change between the decision and this would be seen by nobody else.
        let mut look = true;
        loop {
            if look {
                let declared = self.enforcer.declares_external(&asked.external.name, &asked.external.host)
                    && self.find(&asked.external.host, asked.external.port).is_some();
                let serves = if declared { Serves::Yes } else { Serves::No(reason::UNKNOWN_SERVICE) };
                match self.enforcer.decide_again(&asked.call(), verdict.decision_id, serves).await {
                    Again::GoesOn { expires_at_us } => due_us = expires_at_us,
                    Again::Closed(_) => {
                        self.metrics.closed_by_policy.inc();
                        return None;
                    }
                }
            }
            look = tokio::select! {
                biased;
                done = work.as_mut() => return Some(done),
                signal = signals.next(|| due_us) => signal != Signal::Drain,
            };
        }
    }
}
