//! One cluster's side of its federation relationships, judged from the trust bundle's age and the link's state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use signet_api::control::LinkStatus;
use signet_api::identity::Relationship;

use super::view::moment;
use crate::model::{FederationPosture, FederationState, ReachStatus};

/// A trust bundle that could not be refreshed for longer than this no longer counts as fresh (three default refresh
/// hints of the SPIFFE bundle endpoint).
const STALE_SECONDS: i64 = 900;

use super::ClusterState;

pub(crate) fn posture(state: &ClusterState, now: Timestamp) -> Vec<FederationPosture> {
    let links: BTreeMap<&str, &LinkStatus> =
        state.mesh.iter().flat_map(|mesh| &mesh.links).map(|link| (link.trust_domain.as_str(), link)).collect();
    let heard = state.control.status == ReachStatus::Reachable;
    state
        .federation
        .iter()
        .flat_map(|federation| &federation.relationships)
        .map(|relationship| {
            let link = links.get(relationship.trust_domain.as_str()).copied();
            let (verdict, error) = judge(relationship, link, heard, now);
            FederationPosture {
                trust_domain: relationship.trust_domain.clone(),
                state: verdict,
                error,
                gateway: relationship.gateway.clone(),
                last_refresh: moment(relationship.last_refresh),
                bundle_sequence: relationship.bundle_sequence,
                authorities: relationship.authorities,
                services: link.map_or(0, |link| link.services),
                fingerprint: relationship.fingerprint.clone(),
            }
        })
        .collect()
}

fn judge(
    relationship: &Relationship,
    link: Option<&LinkStatus>,
    control_heard: bool,
    now: Timestamp,
) -> (FederationState, Option<String>) {
    if relationship.authorities == 0 {
        return (
            FederationState::Broken,
            Some("the trust bundle holds no authority, so no SVID of it is accepted".into()),
        );
    }
    let refresh = (!relationship.last_error.is_empty())
        .then(|| format!("trust bundle not refreshed: {}", relationship.last_error));
    let stale = now.as_second() - relationship.last_refresh > STALE_SECONDS;
    let link = match link {
        _ if !control_heard => Some("the control plane cannot be asked about its link".to_owned()),
        Some(link) if link.connected => None,
        Some(link) if link.error.is_empty() => Some("the control planes are not connected".to_owned()),
        Some(link) => Some(format!("the control planes are not connected: {}", link.error)),
        None => Some("the control plane has not opened its link yet".to_owned()),
    };
    match (refresh, link) {
        (None, None) => (FederationState::Linked, None),
        (Some(refresh), None) if !stale => (FederationState::Degraded, Some(refresh)),
        (Some(refresh), None) => (FederationState::Broken, Some(refresh)),
        (None, Some(link)) => (FederationState::Degraded, Some(link)),
        (Some(refresh), Some(link)) => (FederationState::Broken, Some(format!("{refresh}; {link}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn judges_a_relationship_by_bundle_and_link() {
        let now = Timestamp::from_second(10_000).unwrap();
        let fresh = Relationship { authorities: 1, last_refresh: 9_990, ..Relationship::default() };
        let failing = Relationship { last_error: "refused".into(), ..fresh.clone() };
        let stale = Relationship { last_refresh: 1_000, ..failing.clone() };
        let empty = Relationship { authorities: 0, ..fresh.clone() };
        let up = LinkStatus { connected: true, ..LinkStatus::default() };
        let down = LinkStatus { error: "timed out".into(), ..LinkStatus::default() };
        let table = [
            (&fresh, Some(&up), true, FederationState::Linked),
            (&fresh, Some(&down), true, FederationState::Degraded),
            (&fresh, None, true, FederationState::Degraded),
            (&fresh, Some(&up), false, FederationState::Degraded),
            (&failing, Some(&up), true, FederationState::Degraded),
            (&failing, Some(&down), true, FederationState::Broken),
            (&stale, Some(&up), true, FederationState::Broken),
            (&empty, Some(&up), true, FederationState::Broken),
        ];
        for (relationship, link, heard, expected) in table {
            let (state, error) = judge(relationship, link, heard, now);
            assert_eq!(state, expected, "{relationship:?} {link:?}");
            assert_eq!(error.is_none(), expected == FederationState::Linked);
        }
    }
}
