//! Names to services to endpoints, as one snapshot has them. Endpoints that stay keep their connections and load.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::HeaderMap;
use signet_mtls::{Select, SpiffeId};

use super::hashing;
use super::route::{Budget, Routing, Targets};
use crate::answer::{self, Fault};
use crate::balance::{self, Group, Member, Spread, Ward};
use crate::flow::{Flow, FlowKey};
use crate::metrics::Direction;
use crate::snapshot::route::{Backend, Routes};
use crate::snapshot::traffic::Algorithm;
use crate::snapshot::{OutboundService, Protocol, RemoteGateway, Snapshot};
use crate::tls::{self, Wire};
use crate::upstream::{GatewayPool, Shared, Upstream};

#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Sidecar(SocketAddr),
    Remote(RemoteGateway),
}

/// A service's name and port.
type Name = (Arc<str>, u16);
/// A service that is governed has connections of its own.
type Key = (Place, Wire, Vec<SpiffeId>, Option<Name>);
type Plain = HashMap<Name, Arc<Destination>>;

/// A service and its endpoints.
pub(crate) struct Destination {
    pub(crate) service: Arc<OutboundService>,
    upstreams: Vec<Arc<Upstream>>,
    /// Set when a TrafficPolicy says more than that faults are to be made.
    spread: Option<Arc<Spread>>,
    /// Set when routes are attached to the service; what they lead to is a destination without.
    pub(super) routing: Option<Routing>,
    /// Of calls that no rule of a route applies to; looked up by the first.
    flow: OnceLock<Arc<Flow>>,
}

impl Destination {
    /// The series of calls that no rule of a route applies to.
    pub(super) fn flow(&self, shared: &Shared) -> &Arc<Flow> {
        self.flow.get_or_init(|| self.flow_by(shared, ""))
    }

    /// The series of calls that the rule `route` applies to.
    pub(super) fn flow_by(&self, shared: &Shared, route: &str) -> Arc<Flow> {
        let identity = shared.source.current();
        let source = Select::Workload.svid(&identity).map_or("", |svid| svid.id.as_str());
        let destination = &self.service.service;
        shared.metrics.flows.get(FlowKey { direction: Direction::Outbound, source, destination, route })
    }

    /// An endpoint; `avoid` one that just failed. `key` is what [`Destination::key`] said.
    pub(crate) fn pick(&self, avoid: Option<usize>, key: Option<u64>) -> Option<(usize, &Arc<Upstream>)> {
        let now = Instant::now();
        let i = match &self.spread {
            Some(spread) => spread.pick(now, avoid, key)?,
            None => balance::pick(&self.upstreams, |u| u.load(), now, avoid)?,
        };
        Some((i, self.upstreams.get(i)?))
    }

    /// What a call is spread by, when its service's policy hashes a part of calls and this one has it.
    pub(crate) fn key(&self, headers: &HeaderMap, query: Option<&str>) -> Option<u64> {
        match &self.service.traffic.as_ref()?.balancing.algorithm {
            Algorithm::ConsistentHash(on) => hashing::key(on, headers, query),
            Algorithm::PeakEwma | Algorithm::LeastRequest => None,
        }
    }

    /// What a caller is told when there is nothing to pick.
    pub(crate) fn none(&self) -> Fault {
        if self.upstreams.is_empty() { answer::NO_ENDPOINTS } else { answer::NO_HEALTHY }
    }

    /// What its callers share, when a policy governs it.
    pub(crate) fn ward(&self) -> Option<&Arc<Ward>> {
        self.spread.as_ref().map(|spread| spread.ward())
    }

    pub(super) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    pub(crate) fn endpoints(&self) -> usize {
        self.upstreams.len()
    }
}

fn name_of(service: &OutboundService) -> Name {
    (Arc::clone(&service.service), service.port)
}

fn member(ward: Option<&Arc<Ward>>, name: &impl ToString) -> Option<Arc<Member>> {
    ward.map(|ward| Member::new(Arc::clone(ward), name.to_string(), Instant::now()))
}

fn spread(ward: Arc<Ward>, upstreams: &[Arc<Upstream>]) -> Spread {
    let endpoints: Vec<_> = upstreams
        .iter()
        .filter_map(|upstream| Some((Arc::clone(upstream.member()?), Arc::clone(upstream.load()))))
        .collect();
    let all = Group::new(1, (0..endpoints.len()).collect());
    Spread::new(ward, endpoints, vec![vec![all]])
}

/// What an app may ask for.
#[derive(Default)]
pub(crate) struct Table {
    hosts: HashMap<Arc<str>, Vec<Arc<Destination>>>,
    /// Services by the addresses that stand for them, and by those of their endpoints (with the endpoint's index).
    addresses: HashMap<SocketAddr, (Arc<Destination>, Option<usize>)>,
    budgets: HashMap<Name, Arc<Budget>>,
    wards: HashMap<Name, Arc<Ward>>,
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
            let ward = table.ward(service, old, shared);
            let upstreams: Vec<_> = match &service.gateway {
                Some(gateway) => vec![table.remote(service, gateway, wire, ward.as_ref(), old, shared)],
                None => service
                    .endpoints
                    .iter()
                    .map(|address| table.sidecar(service, *address, wire, ward.as_ref(), old, shared))
                    .collect(),
            };
            let spread = ward.map(|ward| Arc::new(spread(ward, &upstreams)));
            let destination = Arc::new(Destination {
                service: Arc::clone(service),
                upstreams,
                spread,
                routing: None,
                flow: OnceLock::new(),
            });
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
                    spread: destination.spread.clone(),
                    routing: Some(routing),
                    flow: OnceLock::new(),
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
                spread: None,
                routing: None,
                flow: to.flow.clone(),
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
            flow: OnceLock::new(),
        });
        Routing { routes: Arc::clone(routes), targets: targets.collect(), budget }
    }

    /// What callers of `service` share, when its policy concerns endpoints.
    fn ward(&mut self, service: &OutboundService, old: &Self, shared: &Shared) -> Option<Arc<Ward>> {
        let traffic = service.traffic.as_ref().filter(|traffic| traffic.concerns_endpoints())?;
        let name = name_of(service);
        let ward = match old.wards.get(&name) {
            Some(ward) => {
                ward.follow(traffic);
                Arc::clone(ward)
            }
            None => Ward::new(Arc::clone(&service.service), Arc::clone(traffic), Arc::clone(&shared.metrics)),
        };
        self.wards.insert(name, Arc::clone(&ward));
        Some(ward)
    }

    fn sidecar(
        &mut self,
        service: &OutboundService,
        address: SocketAddr,
        wire: Wire,
        ward: Option<&Arc<Ward>>,
        old: &Self,
        shared: &Shared,
    ) -> Arc<Upstream> {
        let key = (Place::Sidecar(address), wire, service.spiffe_ids.clone(), ward.map(|_| name_of(service)));
        let make = || {
            let tls = tls::outbound(&shared.source, Select::Workload, &service.spiffe_ids, wire);
            Upstream::sidecar(address, tls, wire, shared.clone(), member(ward, &address))
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
        ward: Option<&Arc<Ward>>,
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
        let place = Place::Remote(gateway.clone());
        let key = (place, wire, service.spiffe_ids.clone(), ward.map(|_| name_of(service)));
        let make = || {
            let tls = tls::outbound(&shared.source, Select::Workload, &service.spiffe_ids, wire);
            let member = member(ward, &gateway.authority);
            Upstream::remote(pool, Arc::clone(&gateway.authority), tls, wire, shared.clone(), member)
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

    /// Each service once, in order of names.
    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<Destination>> {
        let named: BTreeMap<_, _> =
            self.hosts.values().flatten().map(|to| ((Arc::clone(&to.service.service), to.service.port), to)).collect();
        named.into_values()
    }

    /// Drops idle connections that nobody will take any more.
    pub(crate) fn sweep(&self) {
        for upstream in self.upstreams.values() {
            upstream.sweep();
        }
    }
}
