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
use crate::balance::{self, Group, Member, Spread, Tried, Ward};
use crate::flow::{Flow, FlowKey};
use crate::metrics::Direction;
use crate::snapshot::route::{Backend, Routes};
use crate::snapshot::traffic::{Algorithm, Traffic};
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

    /// An endpoint for a call that was tried as `tried` says. `key` is what [`Destination::key`] said.
    pub(crate) fn pick(&self, tried: &Tried, key: Option<u64>) -> Option<(usize, &Arc<Upstream>)> {
        let now = Instant::now();
        let i = match &self.spread {
            Some(spread) => spread.pick(now, tried, key)?,
            None => balance::pick(&self.upstreams, |u| u.load(), now, tried.last())?,
        };
        Some((i, self.upstreams.get(i)?))
    }

    /// Notes in `tried` that a call did not leave for endpoint `index`, and whether it may be tried at another at once.
    pub(crate) fn unsent(&self, tried: &mut Tried, index: usize) -> bool {
        match &self.spread {
            Some(spread) if self.fails_over() => spread.unsent(tried, index),
            _ => tried.another_of(self.upstreams.len(), index),
        }
    }

    /// Whether other clusters, or other endpoints than the first ones, serve it too.
    pub(crate) fn fails_over(&self) -> bool {
        !self.service.failover.is_empty()
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
}

fn name_of(service: &OutboundService) -> Name {
    (Arc::clone(&service.service), service.port)
}

/// Whose policy governs an endpoint: other services have connections of their own to it.
#[derive(Clone, Copy)]
struct Governor<'g> {
    name: &'g Name,
    ward: &'g Arc<Ward>,
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
    watched: Vec<Arc<Upstream>>,
}

impl Table {
    /// The table of `snapshot`; what `old` has in common with it is taken over.
    pub(crate) fn build(snapshot: &Snapshot, old: &Self, shared: &Shared) -> Self {
        let mut table = Self::default();
        let routed = snapshot.outbound.iter().any(|service| service.routes.is_some());
        let mut plain = HashMap::new();
        let fails_over = |service: &Arc<OutboundService>| !service.failover.is_empty();
        let by_name: HashMap<Name, &OutboundService> = match snapshot.outbound.iter().any(fails_over) {
            true => snapshot.outbound.iter().map(|service| (name_of(service), &**service)).collect(),
            false => HashMap::new(),
        };
        for service in &snapshot.outbound {
            let (upstreams, spread) = table.spread(service, &by_name, old, shared);
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

    /// The endpoints of a service, its own first, and how calls are spread over them where a policy governs that.
    fn spread(
        &mut self,
        service: &OutboundService,
        by_name: &HashMap<Name, &OutboundService>,
        old: &Self,
        shared: &Shared,
    ) -> (Vec<Arc<Upstream>>, Option<Arc<Spread>>) {
        let name = name_of(service);
        let ward = self.ward(service, old, shared);
        let governor = ward.as_ref().map(|ward| Governor { name: &name, ward });
        let mut upstreams = self.endpoints(service, governor, old, shared);
        let own = upstreams.len();
        let Some(ward) = &ward else { return (upstreams, None) };
        let mut tiers = Vec::new();
        for tier in &service.failover {
            let mut groups = Vec::new();
            for share in tier {
                if share.service == service.service {
                    groups.push(Group::new(share.weight, (0..own).collect()));
                } else if let Some(other) = by_name.get(&(Arc::clone(&share.service), service.port)) {
                    let first = upstreams.len();
                    upstreams.extend(self.endpoints(other, governor, old, shared));
                    groups.push(Group::new(share.weight, (first..upstreams.len()).collect()));
                }
            }
            tiers.push(groups);
        }
        if service.failover.is_empty() {
            tiers.push(vec![Group::new(1, (0..own).collect())]);
        } else {
            self.watched.extend(upstreams.iter().map(Arc::clone));
        }
        let endpoints = upstreams
            .iter()
            .filter_map(|upstream| Some((Arc::clone(upstream.member()?), Arc::clone(upstream.load()))))
            .collect();
        let spread = Spread::new(Arc::clone(ward), endpoints, tiers);
        (upstreams, Some(Arc::new(spread)))
    }

    /// The endpoints of `of` alone, in their order; behind a gateway it is one.
    fn endpoints(
        &mut self,
        of: &OutboundService,
        governor: Option<Governor<'_>>,
        old: &Self,
        shared: &Shared,
    ) -> Vec<Arc<Upstream>> {
        match &of.gateway {
            Some(gateway) => vec![self.remote(of, gateway, governor, old, shared)],
            None => of.endpoints.iter().map(|address| self.sidecar(of, *address, governor, old, shared)).collect(),
        }
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
        let concerned = |traffic: &&Arc<Traffic>| traffic.concerns_endpoints() || !service.failover.is_empty();
        let traffic = service.traffic.as_ref().filter(concerned)?;
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
        governor: Option<Governor<'_>>,
        old: &Self,
        shared: &Shared,
    ) -> Arc<Upstream> {
        let wire = Wire::for_protocol(service.protocol);
        let owner = governor.map(|governor| governor.name.clone());
        let key = (Place::Sidecar(address), wire, service.spiffe_ids.clone(), owner);
        let make = || {
            let tls = tls::outbound(&shared.source, Select::Workload, &service.spiffe_ids, wire);
            let member = governor.map(|of| Member::new(Arc::clone(of.ward), address.to_string(), Instant::now()));
            Upstream::sidecar(address, tls, wire, shared.clone(), member)
        };
        Arc::clone(
            self.upstreams.entry(key.clone()).or_insert_with(|| old.upstreams.get(&key).cloned().unwrap_or_else(make)),
        )
    }

    fn remote(
        &mut self,
        service: &OutboundService,
        gateway: &RemoteGateway,
        governor: Option<Governor<'_>>,
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
        let wire = Wire::for_protocol(service.protocol);
        let owner = governor.map(|governor| governor.name.clone());
        let key = (Place::Remote(gateway.clone()), wire, service.spiffe_ids.clone(), owner);
        let make = || {
            let tls = tls::outbound(&shared.source, Select::Workload, &service.spiffe_ids, wire);
            let member = governor.map(|of| {
                let name = format!("{}:{}", service.service, service.port);
                Member::behind(Arc::clone(pool.reach()), Arc::clone(of.ward), name, Instant::now())
            });
            Upstream::remote(Arc::clone(&pool), Arc::clone(&gateway.authority), tls, wire, shared.clone(), member)
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

    /// Endpoints of services that fail over.
    pub(super) fn watched(&self) -> &[Arc<Upstream>] {
        &self.watched
    }

    /// Drops idle connections that nobody will take any more.
    pub(crate) fn sweep(&self) {
        for upstream in self.upstreams.values() {
            upstream.sweep();
        }
    }
}
