//! Joins Services, EndpointSlices and ServiceExports into the services of this trust domain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service as K8sService, ServicePort as K8sPort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ManifestError;
use super::addresses::{Addresses, cluster_ips};
use super::document::Object;
use super::place::Place;
use super::routes;
use super::traffic;
use crate::model::{Admission, Desired, External, Port, Protocol, Route, Service, ServiceName, Target, TrafficPolicy};

const SERVICE_ACCOUNTS: &str = "signet.dev/service-accounts";
const INBOUND: &str = "signet.dev/inbound";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What one EndpointSlice says about one service: addresses that are ready, and ports by name.
struct Slice {
    ready: Vec<IpAddr>,
    ports: BTreeMap<String, u16>,
}

pub(super) fn resolve(objects: Vec<(Place, Object)>) -> Result<Desired, Vec<ManifestError>> {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let mut services = BTreeMap::new();
    let mut slices: BTreeMap<ServiceName, Vec<Slice>> = BTreeMap::new();
    let mut exports = BTreeSet::new();
    let mut import_addresses = BTreeMap::new();
    let mut addresses = Addresses::default();
    let mut externals: Vec<External> = Vec::new();
    let mut attached: Vec<Route> = Vec::new();
    let mut policies: Vec<TrafficPolicy> = Vec::new();
    for (place, object) in objects {
        let outcome = match object {
            Object::Service(service) => {
                name_of(&place, &service.metadata).and_then(|name| match services.entry(name) {
                    std::collections::btree_map::Entry::Occupied(taken) => {
                        let message = format!("Service `{}` is described twice", taken.key());
                        Err(place.error("metadata.name", message))
                    }
                    std::collections::btree_map::Entry::Vacant(free) => {
                        free.insert((place, service));
                        Ok(())
                    }
                })
            }
            Object::EndpointSlice(slice) => slice_of(&place, &slice).map(|(name, found)| match name {
                Some(name) => slices.entry(name).or_default().push(found),
                None => warnings.push(format!(
                    "`{}`: an EndpointSlice without the label `{SERVICE_NAME}` belongs to no service and was ignored",
                    place.file.display()
                )),
            }),
            Object::ServiceExport(export) => name_of(&place, &export.metadata).map(|name| {
                exports.insert(name);
            }),
            Object::ExternalService(external) => super::external::read(&place, &external).and_then(|read| {
                for one in read {
                    if let Some(other) = externals.iter().find(|e| (&e.host, e.port) == (&one.host, one.port)) {
                        let message =
                            format!("`{}` port {} is ExternalService `{}` already", one.host, one.port, other.name);
                        return Err(place.error("spec.host", message));
                    }
                    externals.push(one);
                }
                Ok(())
            }),
            Object::ServiceImport(import) => name_of(&place, &import.metadata).and_then(|name| {
                let owner = format!("ServiceImport `{name}`");
                import_addresses.insert(name, addresses.take(&place, "spec.ips", &import.spec.ips, &owner)?);
                Ok(())
            }),
            Object::HttpRoute(route) => {
                routes::http(&place, &route).and_then(|route| add(&place, &mut attached, route))
            }
            Object::GrpcRoute(route) => {
                routes::grpc(&place, &route).and_then(|route| add(&place, &mut attached, route))
            }
            Object::TrafficPolicy(policy) => {
                traffic::read(&place, &policy).and_then(|policy| traffic::add(&place, &mut policies, policy))
            }
        };
        errors.extend(outcome.err());
    }
    let mut desired = Desired::default();
    for (name, (place, service)) in services {
        let own = slices.remove(&name).unwrap_or_default();
        let made = service_of(&place, &name, &service, &own, exports.remove(&name)).and_then(|mut made| {
            made.addresses = cluster_ips(&place, &name, &service, &mut addresses)?;
            Ok(made)
        });
        match made {
            Ok(service) => drop(desired.services.insert(name, service)),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    warnings.extend(
        slices.keys().map(|name| format!("an EndpointSlice names the Service `{name}`, which no manifest describes")),
    );
    warnings.extend(
        exports.iter().map(|name| format!("a ServiceExport names the Service `{name}`, which no manifest describes")),
    );
    warnings.extend(attached.iter().flat_map(|route| dangling(&desired, route)));
    warnings.extend(policies.iter().flat_map(|policy| traffic::unmet(&desired, policy)));
    desired.routes = attached;
    desired.traffic = policies;
    desired.warnings = warnings;
    desired.import_addresses = import_addresses;
    desired.externals = externals;
    Ok(desired)
}

fn add(place: &Place, routes: &mut Vec<Route>, route: Route) -> Result<(), ManifestError> {
    if routes.iter().any(|other| other.kind == route.kind && other.name == route.name) {
        let message = format!("{} `{}` is described twice", route.kind.as_str(), route.name);
        return Err(place.error("metadata.name", message));
    }
    routes.push(route);
    Ok(())
}

/// What a route refers to and is not there, or speaks no HTTP. Its share of calls is answered 500 (Gateway API); what
/// linked clusters export is not known here.
fn dangling(desired: &Desired, route: &Route) -> Vec<String> {
    let said = format!("{} `{}`", route.kind.as_str(), route.name);
    let mut warnings = Vec::new();
    for (parent, port) in &route.parents {
        let Target::Service(name) = parent else { continue };
        match desired.services.get(name) {
            None => warnings.push(format!("{said} is attached to the Service `{name}`, which no manifest describes")),
            Some(service) => {
                let mut ports = service.ports.iter().filter(|known| port.is_none_or(|port| port == known.port));
                if !ports.any(|port| port.protocol != Protocol::Tcp) {
                    warnings.push(format!("{said} is attached to the Service `{name}`, which has no such HTTP port"));
                }
            }
        }
    }
    let backends = route.rules.iter().flat_map(|rule| rule.backends.iter().chain(rule.mirrors.iter().map(|m| &m.0)));
    for backend in backends {
        let port = backend.port;
        match &backend.target {
            None => warnings.push(format!("{said} names a backend that is neither a Service nor a ServiceImport")),
            Some(Target::Import(_)) => {}
            Some(Target::Service(name)) => {
                let ports = desired.services.get(name).map_or(&[][..], |service| service.ports.as_slice());
                if !ports.iter().any(|known| known.port == port && known.protocol != Protocol::Tcp) {
                    warnings.push(format!("{said} names the backend `{name}` port {port}, which is no HTTP port here"));
                }
            }
        }
    }
    warnings
}

fn service_of(
    place: &Place,
    name: &ServiceName,
    service: &K8sService,
    slices: &[Slice],
    exported: bool,
) -> Result<Service, ManifestError> {
    let annotation = |key: &str| {
        let annotations = service.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(key)).map(String::as_str)
    };
    let service_accounts = match annotation(SERVICE_ACCOUNTS) {
        None => vec![name.name.clone()],
        Some(text) => accounts_of(place, text)?,
    };
    let admission = match annotation(INBOUND) {
        None | Some("strict") => Admission::Strict,
        Some("permissive") => Admission::Permissive,
        Some(other) => {
            let field = format!("metadata.annotations.{INBOUND}");
            let message = format!("`{other}` is neither `strict` nor `permissive`");
            return Err(place.error(&field, message));
        }
    };
    let declared = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or(&[]);
    if declared.is_empty() {
        return Err(place.error("spec.ports", "a Service needs at least one port"));
    }
    let mut ports: Vec<Port> = Vec::new();
    for (index, port) in declared.iter().enumerate() {
        // The mesh carries TCP; what else a Service offers is not its business.
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let port = port_of(place, index, port, slices)?;
        if ports.iter().any(|other| other.port == port.port) {
            let field = format!("spec.ports[{index}].port");
            let message = format!("port `{}` is declared twice", port.port);
            return Err(place.error_at(&field, &port.port.to_string(), message));
        }
        ports.push(port);
    }
    Ok(Service { name: name.clone(), service_accounts, admission, exported, addresses: Vec::new(), ports })
}

fn port_of(place: &Place, index: usize, declared: &K8sPort, slices: &[Slice]) -> Result<Port, ManifestError> {
    let field = format!("spec.ports[{index}].port");
    let port = port_number(place, &field, declared.port)?;
    let name = declared.name.as_deref().unwrap_or("");
    let mut target_ports = BTreeSet::new();
    let mut endpoints = BTreeSet::new();
    for slice in slices {
        if let Some(&target) = slice.ports.get(name) {
            target_ports.insert(target);
            endpoints.extend(slice.ready.iter().map(|ip| SocketAddr::new(*ip, target)));
        }
    }
    if target_ports.is_empty() {
        // No slice yet: a sidecar must know its inbound port before it is ready and gets into one.
        target_ports.insert(match &declared.target_port {
            Some(IntOrString::Int(target)) => port_number(place, &format!("spec.ports[{index}].targetPort"), *target)?,
            Some(IntOrString::String(_)) | None => port,
        });
    }
    Ok(Port { port, protocol: protocol_of(declared.app_protocol.as_deref(), name), target_ports, endpoints })
}

/// `appProtocol` (Kubernetes standard names too) first, then the port name's prefix; else bytes.
fn protocol_of(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    let declared = app_protocol.map(str::to_ascii_lowercase);
    let text = declared.as_deref().unwrap_or(port_name);
    let word = match declared {
        Some(_) => text,
        None => text.split('-').next().unwrap_or(text),
    };
    match word {
        "http" | "kubernetes.io/ws" => Protocol::Http,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        _ => Protocol::Tcp,
    }
}

fn slice_of(place: &Place, slice: &EndpointSlice) -> Result<(Option<ServiceName>, Slice), ManifestError> {
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME)).cloned();
    let name = match service {
        None => None,
        Some(service) => {
            check_label(place, &format!("metadata.labels.{SERVICE_NAME}"), &service)?;
            Some(ServiceName { namespace: namespace_of(place, &slice.metadata)?, name: service })
        }
    };
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        let message = format!("`{}` is neither `IPv4` nor `IPv6`", slice.address_type);
        return Err(place.error("addressType", message));
    }
    let mut ports = BTreeMap::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let field = format!("ports[{index}].port");
        let Some(number) = port.port else {
            return Err(place.error(&field, "a port without a number names no listener"));
        };
        let number = port_number(place, &field, number)?;
        ports.insert(port.name.clone().unwrap_or_default(), number);
    }
    let mut ready = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let mut parsed = Vec::new();
        for address in &endpoint.addresses {
            let field = format!("endpoints[{index}].addresses");
            let ip = address.parse::<IpAddr>().ok().filter(|ip| {
                !ip.is_unspecified() && !ip.is_multicast() && ip.is_ipv4() == (slice.address_type == "IPv4")
            });
            let message = || format!("`{address}` is not an {} address of one host", slice.address_type);
            parsed.push(ip.ok_or_else(|| place.error_at(&field, address, message()))?);
        }
        let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        // EndpointSlice API: an unknown condition is to be read as ready.
        if is_ready.unwrap_or(true) {
            ready.extend(parsed);
        }
    }
    Ok((name, Slice { ready, ports }))
}

fn accounts_of(place: &Place, text: &str) -> Result<Vec<String>, ManifestError> {
    let field = format!("metadata.annotations.{SERVICE_ACCOUNTS}");
    let mut accounts: Vec<String> = Vec::new();
    for account in text.split(',').map(str::trim) {
        let labels = account.split('.').all(is_label);
        if !labels || account.len() > 253 {
            return Err(place.error(&field, format!("`{account}` is not the name of a service account")));
        }
        if !accounts.iter().any(|known| known == account) {
            accounts.push(account.to_owned());
        }
    }
    Ok(accounts)
}

pub(super) fn name_of(place: &Place, metadata: &ObjectMeta) -> Result<ServiceName, ManifestError> {
    let name = metadata.name.clone().unwrap_or_default();
    check_label(place, "metadata.name", &name)?;
    Ok(ServiceName { namespace: namespace_of(place, metadata)?, name })
}

fn namespace_of(place: &Place, metadata: &ObjectMeta) -> Result<String, ManifestError> {
    let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    check_label(place, "metadata.namespace", &namespace)?;
    Ok(namespace)
}

pub(super) fn check_label(place: &Place, field: &str, value: &str) -> Result<(), ManifestError> {
    if value.is_empty() {
        return Err(place.error(field, "is missing or empty"));
    }
    if !is_label(value) {
        return Err(place.error(field, format!("`{value}` is not a DNS label (RFC 1123)")));
    }
    Ok(())
}

/// RFC 1123: at most 63 of `[a-z0-9-]`, neither first nor last a hyphen.
pub(crate) fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

pub(super) fn port_number(place: &Place, field: &str, number: i32) -> Result<u16, ManifestError> {
    let valid = u16::try_from(number).ok().filter(|port| *port != 0);
    let message = || format!("`{number}` is not a port: 1 to 65535");
    valid.ok_or_else(|| place.error_at(field, &number.to_string(), message()))
}
