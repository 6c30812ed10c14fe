//! IP addresses that stand for services: ClusterIPs and the IPs of ServiceImports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;

use super::ManifestError;
use super::place::Place;
use crate::model::ServiceName;

/// Whose each address is: one that stood for two services would leave a redirected connection without a meaning.
#[derive(Default)]
pub(super) struct Addresses(BTreeMap<IpAddr, String>);

impl Addresses {
    /// Reads `texts` as addresses of `owner`.
    pub(super) fn take(
        &mut self,
        place: &Place,
        field: &str,
        texts: &[String],
        owner: &str,
    ) -> Result<Vec<IpAddr>, ManifestError> {
        let mut addresses = Vec::new();
        for text in texts {
            let Some(ip) = text.parse().ok().filter(is_usable) else {
                let message = format!("`{text}` is not an IP address that a service can have");
                return Err(place.error_at(field, text, message));
            };
            if let Some(other) = self.0.insert(ip, owner.to_owned()) {
                return Err(place.error_at(field, text, format!("`{text}` is the address of {other} already")));
            }
            addresses.push(ip);
        }
        Ok(addresses)
    }
}

/// A connection to the others never leaves a workload, or reaches more than one host.
fn is_usable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

/// `spec.clusterIPs`, or `spec.clusterIP` where that alone is given; none for a headless service.
pub(super) fn cluster_ips(
    place: &Place,
    name: &ServiceName,
    service: &Service,
    addresses: &mut Addresses,
) -> Result<Vec<IpAddr>, ManifestError> {
    let spec = service.spec.as_ref();
    let many = spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
    let (field, texts) = match spec.and_then(|spec| spec.cluster_ip.clone()) {
        Some(one) if many.is_empty() => ("spec.clusterIP", vec![one]),
        _ => ("spec.clusterIPs", many),
    };
    let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty() && text != "None").collect();
    addresses.take(place, field, &texts, &format!("Service `{name}`"))
}
