//! What TrafficPolicies are attached to: one policy for a port, and warnings about what will not happen.

use super::super::ManifestError;
use super::super::place::Place;
use crate::model::{Desired, Protocol, Target, TrafficPolicy};

/// A port has one policy: which of two would hold is for nobody to guess.
pub(in crate::manifests) fn add(
    place: &Place,
    policies: &mut Vec<TrafficPolicy>,
    policy: TrafficPolicy,
) -> Result<(), ManifestError> {
    for (index, (target, port)) in policy.targets.iter().enumerate() {
        let same =
            |(other, on): &(Target, Option<u16>)| other == target && (on.is_none() || port.is_none() || on == port);
        if let Some(other) = policies.iter().find(|other| other.targets.iter().any(same)) {
            let message = format!("`{}` has the TrafficPolicy `{}` already", target.name(), other.name);
            return Err(place.error(&format!("spec.targetRefs[{index}]"), message));
        }
    }
    policies.push(policy);
    Ok(())
}

/// Targets that are not there, and faults of ports that speak no HTTP; what linked clusters export is not known here.
pub(in crate::manifests) fn unmet(desired: &Desired, policy: &TrafficPolicy) -> Vec<String> {
    let mut warnings = Vec::new();
    for (target, port) in &policy.targets {
        let Target::Service(name) = target else { continue };
        let on = port.map(|port| format!(" port {port}")).unwrap_or_default();
        let ports = desired.services.get(name).into_iter().flat_map(|service| &service.ports);
        let mut ports = ports.filter(|known| port.is_none_or(|port| known.port == port)).peekable();
        if ports.peek().is_none() {
            warnings.push(format!(
                "TrafficPolicy `{}` is attached to the Service `{name}`{on}, which no manifest describes",
                policy.name
            ));
        }
        let hashes =
            policy.traffic.balancing.as_ref().is_some_and(|balancing| balancing.algorithm == "consistent_hash");
        for port in ports.filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port) {
            if policy.traffic.faults.is_some() {
                warnings.push(format!(
                    "TrafficPolicy `{}` has faults, which are not made for port {port} of `{name}`: it speaks TCP",
                    policy.name
                ));
            }
            if hashes {
                warnings.push(format!(
                    "TrafficPolicy `{}` hashes a part of requests, which port {port} of `{name}` has none of: it speaks TCP",
                    policy.name
                ));
            }
        }
    }
    warnings
}
