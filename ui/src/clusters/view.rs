//! From what the components say to what the REST API says.

use jiff::Timestamp;
use signet_api::control::{MeshState, PolicyStatus};
use signet_api::identity::{IssuedSvid, ListSvidsResponse};

use super::{ClusterState, federation};
use crate::model::{
    Authority, Cluster, ClusterPosture, ClusterServices, PolicyPosture, Proxy, ProxyPosture, RefusedHead, Service,
    SvidInfo, SvidPosture,
};

/// Unix seconds as RFC 3339; 0 stands for "never".
pub(super) fn moment(seconds: i64) -> Option<String> {
    if seconds == 0 { None } else { Timestamp::from_second(seconds).ok().map(|at| at.to_string()) }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl ClusterState {
    pub fn posture(&self, now: Timestamp) -> ClusterPosture {
        ClusterPosture {
            name: self.name.clone(),
            trust_domain: self.trust_domain.clone(),
            control: self.control.clone(),
            identity: self.identity.clone(),
            policy: self.mesh.as_ref().and_then(|mesh| mesh.policy.as_ref()).map(policy),
            proxies: self.mesh.as_ref().map(proxies),
            svids: self.svids.as_ref().map(|svids| svid_posture(svids, now)),
            federation: federation::posture(self, now),
            manifest_errors: self.mesh.as_ref().map(|mesh| mesh.manifest_errors.clone()).unwrap_or_default(),
        }
    }

    pub fn detail(&self, now: Timestamp) -> Cluster {
        let proxies = self.mesh.iter().flat_map(|mesh| &mesh.proxies).map(|proxy| Proxy {
            spiffe_id: proxy.spiffe_id.clone(),
            kind: proxy.kind.clone(),
            connected: proxy.connected,
            snapshot_version: proxy.acked_version,
            policy_commit: proxy.policy_commit.clone(),
            last_error: filled(&proxy.last_error),
        });
        let authorities = self.svids.iter().flat_map(|svids| &svids.authorities).map(|authority| Authority {
            kind: authority.kind.clone(),
            subject: authority.subject.clone(),
            not_before: moment(authority.not_before).unwrap_or_default(),
            not_after: moment(authority.not_after).unwrap_or_default(),
            sha256: authority.sha256.clone(),
        });
        Cluster { posture: self.posture(now), proxies: proxies.collect(), authorities: authorities.collect() }
    }

    pub fn services(&self) -> ClusterServices {
        let services = self.mesh.iter().flat_map(|mesh| &mesh.services).map(|service| Service {
            service: service.service.clone(),
            hosts: service.hosts.clone(),
            port: service.port,
            protocol: service.protocol.clone(),
            endpoints: service.endpoints,
            exported: service.exported,
            via: filled(&service.via),
        });
        ClusterServices {
            cluster: self.name.clone(),
            trust_domain: self.trust_domain.clone(),
            control: self.control.clone(),
            services: services.collect(),
        }
    }
}

fn policy(status: &PolicyStatus) -> PolicyPosture {
    PolicyPosture {
        commit: status.commit.clone(),
        digest: status.digest.clone(),
        signer: status.signer.clone(),
        activated_at: moment(status.activated_at),
        refused: filled(&status.refused_commit)
            .map(|commit| RefusedHead { commit, reason: status.refused_reason.clone() }),
    }
}

fn proxies(mesh: &MeshState) -> ProxyPosture {
    let active = mesh.policy.as_ref().map_or("", |policy| policy.digest.as_str());
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let connected = mesh.proxies.iter().filter(|proxy| proxy.connected);
    ProxyPosture {
        total: count(mesh.proxies.len()),
        connected: count(connected.clone().count()),
        current: count(connected.clone().filter(|proxy| proxy.bundle_digest == active).count()),
        refusing: count(connected.filter(|proxy| !proxy.last_error.is_empty()).count()),
    }
}

fn svid_posture(answer: &ListSvidsResponse, now: Timestamp) -> SvidPosture {
    let valid: Vec<&IssuedSvid> = answer.svids.iter().filter(|svid| svid.not_after > now.as_second()).collect();
    let info = |svid: &&IssuedSvid| SvidInfo {
        spiffe_id: svid.spiffe_id.clone(),
        serial: svid.serial.clone(),
        not_before: moment(svid.not_before).unwrap_or_default(),
        not_after: moment(svid.not_after).unwrap_or_default(),
    };
    SvidPosture {
        valid: u32::try_from(valid.len()).unwrap_or(u32::MAX),
        oldest: valid.iter().min_by_key(|svid| svid.not_before).map(info),
        next_expiry: valid.iter().min_by_key(|svid| svid.not_after).map(info),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use signet_api::control::ProxyStatus;

    use super::*;

    #[test]
    fn counts_only_connected_proxies_as_current() {
        let proxy = |connected, digest: &str, error: &str| ProxyStatus {
            connected,
            bundle_digest: digest.into(),
            last_error: error.into(),
            ..ProxyStatus::default()
        };
        let mesh = MeshState {
            policy: Some(PolicyStatus { digest: "new".into(), ..PolicyStatus::default() }),
            proxies: vec![proxy(true, "new", ""), proxy(true, "old", "nack"), proxy(false, "new", "")],
            ..MeshState::default()
        };
        let counted = proxies(&mesh);
        assert_eq!((counted.total, counted.connected, counted.current, counted.refusing), (3, 2, 1, 1));
    }

    #[test]
    fn expired_svids_do_not_count() {
        let svid = |id: &str, not_before, not_after| IssuedSvid {
            spiffe_id: id.into(),
            not_before,
            not_after,
            ..IssuedSvid::default()
        };
        let answer = ListSvidsResponse {
            svids: vec![svid("gone", 1, 50), svid("old", 10, 300), svid("new", 90, 200)],
            authorities: vec![],
        };
        let posture = svid_posture(&answer, Timestamp::from_second(100).unwrap());
        assert_eq!(posture.valid, 2);
        assert_eq!(posture.oldest.unwrap().spiffe_id, "old");
        assert_eq!(posture.next_expiry.unwrap().spiffe_id, "new");
    }
}
