//! Names to services to endpoints, as one snapshot has them. Endpoints that stay keep their connections and load.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use signet_mtls::{Select, SpiffeId};

use super::route::{Budget, Routing, Targets};
use crate::balance;
use crate::snapshot::route::{Backend, Routes};
use crate::snapshot::{OutboundService, Protocol, RemoteGateway, Snapshot};
use crate::tls::{self, Wire};
use crate::upstream::{GatewayPool, Shared, Upstream};

#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Sidecar(SocketAddr),
    Remote(RemoteGateway),
}

type Key = (Place, Wire, Vec<SpiffeId>);
type Plain = HashMap<(Arc<str>, u16), Arc<Destination>>;

/// A service and its endpoints.
pub(crate) struct Destination {
    pub(crate) service: Arc<OutboundService>,
    upstreams: Vec<Arc<Upstream>>,
    /// Set when routes are attached to the service; what they lead to is a destination without.
    pub(super) routing: Option<Routing>,
}

impl Destination {
    /// An endpoint, by power of two choices; `avoid` one that just failed.
    pub(crate) fn pick(&self, avoid: Option<usize>) -> Option<(usize, &Arc<Upstream>)> {
        let i = balance::pick(&self.upstreams, |u| u.load(), Instant::now(), avoid)?;
        Some((i, self.upstreams.get(i)?))
    }

    pub(crate) fn endpoints(&self) -> usize {
        self.upstreams.len()
    }
}

/// What an app may ask for.
#[derive(Default)]
pub(crate) struct Table {
    hosts: HashMap<Arc<str>, Vec<Arc<Destination>>>,
    /// Services by the addresses that stand for them, and by those of their endpoints (with the endpoint's index).
    addresses: HashMap<SocketAddr, (Arc<Destination>, Option<usize>)>,
    budgets: HashMap<(Arc<str>, u16), Arc<Budget>>,
    upstreams: HashMap<Key, Arc<Upstream>>,
    gateways: HashMap<(Vec<Arc<str>>, SpiffeId), Arc<GatewayPool>>,
}

impl Table {
    /// The table of `snapshot`; what `old` has in common with it is taken over.
    pub(crate) fn build(snapshot: &Snapshot, old: &Self, shared: &Shared) -> Self {
        let mut table = Self::default();
        let routed = snapshot.outbound.iter().any(|service| service.routes.is_some());
        let mut plain = HashMap::new();
        for service in &snapshot.outbound {
            let wire = Wire::for_protocol(service.protocol);
            let upstreams = match &service.gateway {
                Some(gateway) => vec![table.remote(service, gateway, wire, old, shared)],
                None => service
                    .endpoints
                    .iter()
                    .map(|address| table.sidecar(service, *address, wire, old, shared))
                    .collect(),
            };
            let destination = Arc::new(Destination { service: Arc::clone(service), upstreams, routing: None });
            if routed {
                plain.insert((Arc::clone(&service.service), service.port), Arc::clone(&destination));
            }
            if service.routes.is_none() {
                table.name(destination);
            }
        }
        for destination in plain.values() {
            if let Some(routes) = &destination.service.routes {
                let routing = table.routing(destination, routes, &plain, old);
                table.name(Arc::new(Destination {
                    service: Arc::clone(&destination.service),
                    upstreams: destination.upstreams.clone(),
                    routing: Some(routing),
                }));
            }
        }
        table
    }

    /// An address that stands for a service goes before one that is an endpoint's, whatever the services' order.
    fn own_addresses(&mut self, to: &Arc<Destination>) {
        for ip in &to.service.addresses {
            self.addresses.insert(SocketAddr::new(*ip, to.service.port), (Arc::clone(to), None));
        }
        if to.service.gateway.is_none() {
            for (index, endpoint) in to.service.endpoints.iter().enumerate() {
                self.addresses.entry(*endpoint).or_insert_with(|| (Arc::clone(to), Some(index)));
            }
        }
    }

    /// The service that a redirected connection was on its way to; one that named an endpoint gets that one alone,
    /// whatever routes say (GEP-1294: they are the service's, not the endpoints').
    pub(crate) fn at(&self, destination: SocketAddr) -> Option<Arc<Destination>> {
        let (to, endpoint) = self.addresses.get(&destination)?;
        match endpoint.and_then(|index| to.upstreams.get(index)) {
            Some(upstream) => Some(Arc::new(Destination {
                service: Arc::clone(&to.service),
                upstreams: vec![Arc::clone(upstream)],
                routing: None,
            })),
            None => Some(Arc::clone(to)),
        }
    }

    fn name(&mut self, destination: Arc<Destination>) {
        self.own_addresses(&destination);
        for host in &destination.service.hosts {
            self.hosts.entry(Arc::clone(host)).or_default().push(Arc::clone(&destination));
        }
    }

    fn routing(&mut self, of: &Destination, routes: &Arc<Routes>, plain: &Plain, old: &Self) -> Routing {
        let key = (Arc::clone(&of.service.service), of.service.port);
        let budget = old.budgets.get(&key).cloned().unwrap_or_default();
        self.budgets.insert(key, Arc::clone(&budget));
        let to = |backend: &Backend| {
            let found = plain.get(&(Arc::clone(backend.service.as_ref()?), backend.port))?;
            // Only HTTP can be routed as such.
            (found.service.protocol != Protocol::Tcp).then(|| Arc::clone(found))
        };
        let targets = routes.rules.iter().map(|rule| Targets {
            backends: rule.backends.iter().map(to).collect(),
            mirrors: rule.mirrors.iter().map(|mirror| to(&mirror.backend)).collect(),
        });
        Routing { routes: Arc::clone(routes), targets: targets.collect(), budget }
    }

    fn sidecar(
        &mut self,
        service: &OutboundService,
        address: SocketAddr,
        wire: Wire,
        old: &Self,
        shared: &Shared,
    ) -> Arc<Upstream> {
        let key = (Place::Sidecar(address), wire, service.spiffe_ids.clone());
        let make = || {
            let tls = tls::outbound(&shared.source, Select::Workload, &service.spiffe_ids, wire);
            Upstream::sidecar(address, tls, wire, shared.clone())
        };
        Arc::clone(
            self.upstreams.entry(key.clone()).or_insert_with(|| old.upstreams.get(&key).cloned().unwrap_or_else(make)),
        )
    }

    fn remote(
        &mut self,
        service: &OutboundService,
        gateway: &RemoteGateway,
        wire: Wire,
        old: &Self,
        shared: &Shared,
    ) -> Arc<Upstream> {
        let pool_key = (gateway.addresses.clone(), gateway.spiffe_id.clone());
        let pool = Arc::clone(self.gateways.entry(pool_key.clone()).or_insert_with(|| {
            old.gateways
                .get(&pool_key)
                .cloned()
                .unwrap_or_else(|| GatewayPool::new(gateway, &shared.source, Select::Workload))
        }));
        let key = (Place::Remote(gateway.clone()), wire, service.spiffe_ids.clone());
        let make = || {
            let tls = tls::outbound(&shared.source, Select::Workload, &service.spiffe_ids, wire);
            Upstream::remote(pool, Arc::clone(&gateway.authority), tls, wire, shared.clone())
        };
        Arc::clone(
            self.upstreams.entry(key.clone()).or_insert_with(|| old.upstreams.get(&key).cloned().unwrap_or_else(make)),
        )
    }

    /// The service that `host` names. A port that was given must be the service's; without one it is `default`'s, or
    /// that of the only port there is.
    pub(crate) fn find(&self, host: &str, port: Option<u16>, default: u16) -> Option<&Arc<Destination>> {
        let named = if host.bytes().any(|b| b.is_ascii_uppercase()) || host.ends_with('.') {
            self.hosts.get(host.trim_end_matches('.').to_ascii_lowercase().as_str())?
        } else {
            self.hosts.get(host)?
        };
        let on = |port: u16| named.iter().find(|d| d.service.port == port);
        match (port, named.as_slice()) {
            (Some(port), _) => on(port),
            (None, [only]) => Some(only),
            (None, _) => on(default),
        }
    }

    /// Drops idle connections that nobody will take any more.
    pub(crate) fn sweep(&self) {
        for upstream in self.upstreams.values() {
            upstream.sweep();
        }
    }
}
