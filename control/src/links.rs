//! Linked clusters: which there are, what each exports, and for how long that may be believed.
//!
//! [`LinkTable`] is plain data with time as an argument; `federation` and `link` feed it. It is kept on disk too, so
//! that a restart while a peer is away does not take the peer's services from our sidecars.
//!
//! INVARIANT: what a peer says concerns its own trust domain alone. SPIFFE IDs of any other trust domain in an
//! [`ExportsState`] make that service refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use signet_api::control::{ExportedService, ExportsState, LinkStatus};
use signet_api::identity::Relationship;
use signet_mtls::{SpiffeId, TrustDomain};

use crate::manifests::is_label;
use crate::model::{Import, ImportedService, Imports, Protocol, ServiceName};

/// More services of one peer than this are refused.
const MAX_SERVICES: usize = 10_000;
/// More SPIFFE IDs of one service than this are refused.
const MAX_IDS: usize = 64;
/// No peer is believed for longer than this after it fell silent, whatever it says.
const MAX_LEASE_SECONDS: u32 = 24 * 3600;

/// How to reach a linked cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `host:port` of its east-west gateway; of its replicas, with commas between.
    pub gateway: String,
    /// `host:port` of its control plane.
    pub control: String,
}

/// One linked cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it is.
    pub address: Address,
    /// What it exported last, as it said it; empty after the lease ran out.
    #[serde(default)]
    services: Vec<StoredService>,
    /// Unix seconds; 0 when nothing came yet.
    #[serde(default)]
    last_message: i64,
    /// How long `services` may be believed after `last_message`.
    #[serde(default)]
    lease_seconds: u32,
    /// Whether a stream from it is open.
    #[serde(skip)]
    connected: bool,
    /// What went wrong last; empty when all is well.
    #[serde(skip)]
    error: String,
}

/// Checked when it came and again when it is read from disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredService {
    namespace: String,
    name: String,
    port: u32,
    protocol: String,
    spiffe_ids: Vec<String>,
}

/// All linked clusters by trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTable {
    peers: BTreeMap<TrustDomain, Peer>,
}

impl LinkTable {
    /// Takes the identity server's list of relationships. A relationship that is gone takes its services along.
    /// Returns what could not be used.
    pub fn set_relationships(&mut self, own: &TrustDomain, all: &[Relationship]) -> Vec<String> {
        let mut rejected = Vec::new();
        let mut wanted = BTreeMap::new();
        for relationship in all {
            match relationship.trust_domain.parse::<TrustDomain>() {
                Ok(peer) if peer == *own => {
                    rejected.push(format!("`{peer}` is our own trust domain and no link"));
                }
                Ok(_) if relationship.gateway.is_empty() || relationship.control.is_empty() => {
                    rejected.push(format!(
                        "the link to `{}` names no gateway or no control plane; accept a new invite",
                        relationship.trust_domain
                    ));
                }
                Ok(peer) => {
                    let gateway = relationship.gateway.clone();
                    let control = relationship.control.clone();
                    wanted.insert(peer, Address { gateway, control });
                }
                Err(error) => rejected.push(format!("`{}` is not a trust domain: {error}", relationship.trust_domain)),
            }
        }
        self.peers.retain(|peer, _| wanted.contains_key(peer));
        for (peer, address) in wanted {
            match self.peers.entry(peer) {
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.get_mut().address = address;
                }
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(Peer {
                        address,
                        services: Vec::new(),
                        last_message: 0,
                        lease_seconds: 0,
                        connected: false,
                        error: "not connected yet".to_owned(),
                    });
                }
            }
        }
        rejected
    }

    /// Takes what the control plane of `peer` says at `now`. Returns why services of it were refused.
    ///
    /// # Errors
    /// When nothing of the message can be used; what was known stays.
    pub fn accept(&mut self, peer: &TrustDomain, state: ExportsState, now: i64) -> Result<Vec<String>, String> {
        let Some(known) = self.peers.get_mut(peer) else {
            return Err(format!("`{peer}` is not linked"));
        };
        if state.trust_domain != peer.to_string() {
            return Err(format!("`{peer}` speaks for trust domain `{}`, which is not its own", state.trust_domain));
        }
        if state.services.len() > MAX_SERVICES {
            return Err(format!("`{peer}` exports more than {MAX_SERVICES} services"));
        }
        let mut refused = Vec::new();
        let mut services = Vec::new();
        for service in state.services {
            let service = StoredService::from(service);
            match service.check(peer) {
                Ok(_) => services.push(service),
                Err(reason) => refused.push(reason),
            }
        }
        known.services = services;
        known.last_message = now;
        known.lease_seconds = state.lease_seconds.clamp(1, MAX_LEASE_SECONDS);
        known.connected = true;
        known.error = refused.first().cloned().unwrap_or_default();
        Ok(refused)
    }

    /// Notes that the stream from `peer` ended or could not be opened. What it exported stays until the lease ends.
    pub fn disconnected(&mut self, peer: &TrustDomain, error: String) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.connected = false;
            known.error = error;
        }
    }

    /// Drops what may no longer be believed at `now`; returns from whom.
    pub fn expire(&mut self, now: i64) -> Vec<TrustDomain> {
        let mut expired = Vec::new();
        for (name, peer) in &mut self.peers {
            let end = peer.last_message.saturating_add(i64::from(peer.lease_seconds));
            if !peer.services.is_empty() && end <= now {
                peer.services.clear();
                expired.push(name.clone());
            }
        }
        expired
    }

    /// What may be reached in linked clusters.
    pub fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (name, peer) in &self.peers {
            let services: Vec<ImportedService> =
                peer.services.iter().filter_map(|service| service.check(name).ok()).collect();
            if !services.is_empty() {
                let gateway = peer.address.gateway.clone();
                imports.insert(name.clone(), Import { gateway, services });
            }
        }
        imports
    }

    /// Trust domains that are linked.
    pub fn linked(&self) -> BTreeSet<TrustDomain> {
        self.peers.keys().cloned().collect()
    }

    /// Where each linked cluster is.
    pub fn addresses(&self) -> BTreeMap<TrustDomain, Address> {
        self.peers.iter().map(|(name, peer)| (name.clone(), peer.address.clone())).collect()
    }

    /// For `Status.Mesh`.
    pub fn status(&self) -> Vec<LinkStatus> {
        let one = |(name, peer): (&TrustDomain, &Peer)| LinkStatus {
            trust_domain: name.to_string(),
            connected: peer.connected,
            last_message: peer.last_message,
            services: u32::try_from(peer.services.len()).unwrap_or(u32::MAX),
            error: peer.error.clone(),
        };
        self.peers.iter().map(one).collect()
    }

    /// Without what changes at each message, to see whether there is something to keep on disk.
    pub fn substance(&self) -> Self {
        let mut substance = self.clone();
        for peer in substance.peers.values_mut() {
            peer.last_message = 0;
            peer.connected = false;
            peer.error.clear();
        }
        substance
    }
}

impl From<ExportedService> for StoredService {
    fn from(wire: ExportedService) -> Self {
        Self {
            namespace: wire.namespace,
            name: wire.name,
            port: wire.port,
            protocol: wire.protocol,
            spiffe_ids: wire.spiffe_ids,
        }
    }
}

impl StoredService {
    fn check(&self, peer: &TrustDomain) -> Result<ImportedService, String> {
        let place = format!("`{peer}` exports `{}/{}`", self.namespace, self.name);
        if !is_label(&self.namespace) || !is_label(&self.name) {
            return Err(format!("{place}, which is not a service's name"));
        }
        let port = u16::try_from(self.port).ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("{place} on port `{}`", self.port))?;
        let protocol = Protocol::from_wire(&self.protocol)
            .ok_or_else(|| format!("{place} with the unknown protocol `{}`", self.protocol))?;
        if self.spiffe_ids.is_empty() || self.spiffe_ids.len() > MAX_IDS {
            return Err(format!("{place} with no SPIFFE ID or more than {MAX_IDS}"));
        }
        let mut spiffe_ids = Vec::new();
        for text in &self.spiffe_ids {
            let id = text.parse::<SpiffeId>().ok();
            let own = id.filter(|id| id.trust_domain() == peer && id.as_workload().is_some());
            spiffe_ids.push(
                own.ok_or_else(|| format!("{place} with `{text}`, which is no workload of its own trust domain"))?,
            );
        }
        let name = ServiceName { namespace: self.namespace.clone(), name: self.name.clone() };
        Ok(ImportedService { name, port, protocol, spiffe_ids })
    }
}

#[cfg(test)]
mod tests;
