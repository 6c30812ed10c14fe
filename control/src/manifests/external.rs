//! Signet's own kind `ExternalService`: a host outside of the mesh that workloads may be permitted to call.
//!
//! The manifest says where it is and how to speak to it; who may, the policy repository says, which declares the same name
//! with the same host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::ManifestError;
use super::place::Place;
use super::resolve::is_label;
use crate::model::{External, ExternalTls};

/// As it stands in the file.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ExternalService {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    host: String,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    port: i64,
    #[serde(default)]
    tls: Tls,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tls {
    #[default]
    Passthrough,
    Originate,
}

/// One entry for each port.
pub(super) fn read(place: &Place, manifest: &ExternalService) -> Result<Vec<External>, ManifestError> {
    let name = manifest.metadata.name.clone().unwrap_or_default();
    if !is_label(&name) {
        return Err(place.error("metadata.name", format!("`{name}` is not a DNS label (RFC 1123)")));
    }
    let host = manifest.spec.host.to_ascii_lowercase();
    if !is_host(&host) {
        return Err(place.error("spec.host", format!("`{host}` is neither a host name nor an IP address")));
    }
    // Names of the mesh are found in the mesh, or not at all.
    if ["svc", "cluster.local", "clusterset.local", "localhost"].iter().any(|zone| is_within(&host, zone)) {
        return Err(place.error("spec.host", format!("`{host}` is a name of the mesh or of this machine")));
    }
    let mut seen = BTreeSet::new();
    let mut externals = Vec::new();
    for (index, port) in manifest.spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{index}].port");
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0);
        let Some(number) = number else {
            let message = format!("`{}` is not a port: 1 to 65535", port.port);
            return Err(place.error_at(&field, &port.port.to_string(), message));
        };
        if !seen.insert(number) {
            return Err(place.error_at(&field, &number.to_string(), format!("port `{number}` is declared twice")));
        }
        let tls = match port.tls {
            Tls::Passthrough => ExternalTls::Passthrough,
            Tls::Originate => ExternalTls::Originate,
        };
        externals.push(External { name: name.clone(), host: host.clone(), port: number, tls });
    }
    if externals.is_empty() {
        return Err(place.error("spec.ports", "an ExternalService needs at least one port"));
    }
    Ok(externals)
}

fn is_host(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok() || (host.len() <= 253 && host.contains('.') && host.split('.').all(is_label))
}

fn is_within(host: &str, zone: &str) -> bool {
    host == zone || host.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
}
