//! Manifests that are taken, and those that are refused with file, line and field.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::net::IpAddr;

use super::*;
use crate::model::{Admission, External, ExternalTls, Protocol, ServiceName};

const LEDGER: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: ledger
  namespace: bank
  annotations:
    signet.dev/service-accounts: ledger, ledger-batch
spec:
  ports:
    - name: http
      port: 80
      targetPort: 15006
    - {name: dns, port: 53, protocol: UDP}
---
# Two replicas on one host have different ports, so each has a slice of its own.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: ledger-1
  namespace: bank
  labels: {kubernetes.io/service-name: ledger}
addressType: IPv4
ports: [{name: http, port: 20001}]
endpoints:
  - addresses: [127.0.0.1]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: ledger-2
  namespace: bank
  labels: {kubernetes.io/service-name: ledger}
addressType: IPv4
ports: [{name: http, port: 20002}]
endpoints:
  - addresses: [127.0.0.1]
    conditions: {ready: false}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: ledger, namespace: bank}
";

fn read(files: &[(&str, &str)]) -> Result<Desired, Vec<ManifestError>> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    read_directory(directory.path()).map_err(|mut errors| {
        for error in &mut errors {
            let stripped = error.file.strip_prefix(directory.path()).map(Path::to_owned);
            error.file = stripped.unwrap_or_default();
        }
        errors
    })
}

fn ledger() -> ServiceName {
    ServiceName { namespace: "bank".into(), name: "ledger".into() }
}

#[test]
fn service_slices_and_export_become_one_service() {
    let desired = read(&[("bank/ledger.yaml", LEDGER)]).unwrap();
    let service = &desired.services[&ledger()];
    assert_eq!(service.service_accounts, ["ledger", "ledger-batch"]);
    assert!(service.exported);
    assert_eq!(service.admission, Admission::Strict);
    assert_eq!(service.ports.len(), 1, "UDP is not the mesh's");
    let port = &service.ports[0];
    assert_eq!((port.port, port.protocol), (80, Protocol::Http));
    assert_eq!(port.target_ports, [20001, 20002].into());
    assert_eq!(port.endpoints, ["127.0.0.1:20001".parse().unwrap()].into());
    assert_eq!(desired.warnings, Vec::<String>::new());
}

#[test]
fn a_service_without_slices_listens_on_its_target_port() {
    let alone = LEDGER.split("---").next().unwrap();
    let desired = read(&[("ledger.yaml", alone)]).unwrap();
    let port = &desired.services[&ledger()].ports[0];
    assert_eq!(port.target_ports, [15006].into());
    assert!(port.endpoints.is_empty());
}

#[test]
fn protocols_come_from_app_protocol_and_then_from_the_port_name() {
    let cases = [
        ("name: http", Protocol::Http),
        ("name: http-admin", Protocol::Http),
        ("name: grpc-pay", Protocol::Grpc),
        ("name: h2c", Protocol::Http2),
        ("name: postgres", Protocol::Tcp),
        ("name: http, appProtocol: tcp", Protocol::Tcp),
        ("appProtocol: kubernetes.io/h2c", Protocol::Http2),
        ("appProtocol: grpc", Protocol::Grpc),
        ("appProtocol: HTTP", Protocol::Http),
        ("appProtocol: postgresql", Protocol::Tcp),
    ];
    for (port, expected) in cases {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: ledger, namespace: bank}}\nspec:\n  ports: [{{port: 80, {port}}}]\n"
        );
        let desired = read(&[("s.yaml", &text)]).unwrap();
        assert_eq!(desired.services[&ledger()].ports[0].protocol, expected, "{port}");
    }
}

/// What is put in place of which line, and what the error must then say.
#[test]
fn an_error_names_file_line_document_and_field() {
    let cases = [
        ("port: 80\n", "port: http\n", "line 11, document 1, field `spec.ports[0].port`"),
        ("port: 80\n", "port: 70000\n", "line 11, document 1, field `spec.ports[0].port`: `70000`"),
        ("name: ledger\n", "name: Ledger\n", "line 4, document 1, field `metadata.name`: `Ledger`"),
        ("namespace: bank\n", "namespace: ba_nk\n", "line 5, document 1, field `metadata.namespace`"),
        (
            "ledger, ledger-batch",
            "ledger, Batch",
            "line 7, document 1, field `metadata.annotations.signet.dev/service-accounts`: `Batch`",
        ),
        ("apiVersion: v1\n", "apiVersion: v2\n", "line 1, document 1, field `apiVersion`: `v2`"),
        ("kind: Service\n", "kin: Service\n", "document 1"),
        ("port: 20001", "port: none", "line 23, document 2, field `ports[0].port`"),
        ("addressType: IPv4", "addressType: FQDN", "line 22, document 2, field `addressType`: `FQDN`"),
        ("[127.0.0.1]", "[127.0.0.300]", "line 25, document 2, field `endpoints[0].addresses`: `127.0.0.300`"),
        ("  ports:\n", "  ports: [\n", "document 1"),
    ];
    for (find, put, expected) in cases {
        let text = LEDGER.replacen(find, put, 1);
        assert_ne!(text, LEDGER, "{find}");
        let errors = read(&[("bank/ledger.yaml", &text)]).unwrap_err();
        let shown = errors[0].to_string();
        assert!(
            shown.starts_with("`bank/ledger.yaml` line ") && shown.contains(expected),
            "{put:?} gave {shown:?}, which should contain {expected:?}"
        );
        assert!(!shown.contains('\n'), "{shown:?}");
    }
}

#[test]
fn all_broken_files_are_reported_together() {
    let broken = LEDGER.replace("port: 80\n", "port: http\n");
    let errors = read(&[("a.yaml", &broken), ("b.yaml", &broken)]).unwrap_err();
    assert_eq!(errors.len(), 2);
}

#[test]
fn a_service_described_twice_is_an_error() {
    let errors = read(&[("a.yaml", LEDGER), ("b.yaml", LEDGER)]).unwrap_err();
    assert!(errors[0].to_string().contains("`bank/ledger` is described twice"), "{errors:?}");
}

#[test]
fn unknown_kinds_are_ignored_and_named_once() {
    let deployment =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\napiVersion: apps/v1\nkind: Deployment\n";
    let desired = read(&[("a.yaml", deployment), ("b.yaml", LEDGER), ("readme.md", "{")]).unwrap();
    assert_eq!(desired.services.len(), 1);
    assert_eq!(desired.warnings, ["kind `apps/v1 Deployment` is not read by Signet and was ignored"]);
}

#[test]
fn exports_and_slices_of_no_service_are_warnings() {
    let rest = LEDGER.split_once("---\n").unwrap().1;
    let desired = read(&[("a.yaml", rest)]).unwrap();
    assert_eq!(desired.warnings.len(), 2, "{:?}", desired.warnings);
}

#[test]
fn a_missing_directory_is_an_error_and_an_empty_one_is_not() {
    assert!(read_directory(Path::new("/nonexistent/manifests")).is_err());
    assert_eq!(read(&[]).unwrap(), Desired::default());
}

#[test]
fn cluster_ips_and_import_ips_are_addresses_of_their_services() {
    let text = LEDGER.replacen("spec:\n", "spec:\n  clusterIP: 10.96.0.7\n  clusterIPs: [10.96.0.7, fd00::7]\n", 1)
        + "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceImport\nmetadata: {name: fraud, namespace: bank}\n\
           spec: {type: ClusterSetIP, ips: [10.96.1.9]}\n";
    let desired = read(&[("s.yaml", &text)]).unwrap();
    assert_eq!(
        desired.services[&ledger()].addresses,
        ["10.96.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]
    );
    let fraud = ServiceName { namespace: "bank".into(), name: "fraud".into() };
    assert_eq!(desired.import_addresses[&fraud], ["10.96.1.9".parse::<IpAddr>().unwrap()]);
    let headless = LEDGER.replacen("spec:\n", "spec:\n  clusterIP: None\n", 1);
    assert!(read(&[("s.yaml", &headless)]).unwrap().services[&ledger()].addresses.is_empty());
}

#[test]
fn an_address_that_is_another_services_or_no_services_is_refused() {
    let with = |ip: &str| LEDGER.replacen("spec:\n", &format!("spec:\n  clusterIP: {ip}\n"), 1);
    for ip in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "ledger", "10.96.0.0/16"] {
        let errors = read(&[("s.yaml", &with(ip))]).unwrap_err();
        let shown = errors[0].to_string();
        assert!(shown.contains("line 9, document 1, field `spec.clusterIP`"), "{ip}: {shown}");
    }
    let import = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceImport\nmetadata: {name: fraud, namespace: bank}\n\
                  spec: {ips: [10.96.0.7]}\n";
    let errors = read(&[("a.yaml", import), ("b.yaml", &with("10.96.0.7"))]).unwrap_err();
    assert!(errors[0].to_string().contains("is the address of ServiceImport `bank/fraud` already"), "{errors:?}");
}

const CARDS: &str = "\
apiVersion: signet.dev/v1alpha1
kind: ExternalService
metadata:
  name: cards
spec:
  host: API.cards.example
  ports:
    - port: 443
    - {port: 80, tls: originate}
";

#[test]
fn an_external_service_is_one_host_at_each_of_its_ports() {
    let desired = read(&[("cards.yaml", CARDS)]).unwrap();
    let of = |port, tls| External { name: "cards".into(), host: "api.cards.example".into(), port, tls };
    assert_eq!(desired.externals, [of(443, ExternalTls::Passthrough), of(80, ExternalTls::Originate)]);
}

#[test]
fn an_external_service_that_is_not_outside_or_not_clear_is_refused() {
    let cases = [
        ("API.cards.example", "ledger.bank.svc.cluster.local", "line 6, document 1, field `spec.host`"),
        ("API.cards.example", "ledger.bank.svc", "field `spec.host`"),
        ("API.cards.example", "localhost", "field `spec.host`"),
        ("API.cards.example", "https://api.cards.example", "field `spec.host`"),
        ("API.cards.example", "'*.cards.example'", "field `spec.host`"),
        ("port: 443", "port: 0", "line 8, document 1, field `spec.ports[0].port`"),
        ("port: 80,", "port: 443,", "field `spec.ports[1].port`: port `443` is declared twice"),
        ("tls: originate", "tls: none", "document 1"),
        ("tls: originate", "sni: x", "document 1"),
        ("name: cards", "name: Cards", "field `metadata.name`"),
        ("v1alpha1", "v1", "field `apiVersion`"),
    ];
    for (find, put, expected) in cases {
        let errors = read(&[("cards.yaml", &CARDS.replacen(find, put, 1))]).unwrap_err();
        assert!(errors[0].to_string().contains(expected), "{put}: {}", errors[0]);
    }
    let twice = read(&[("a.yaml", CARDS), ("b.yaml", &CARDS.replacen("name: cards", "name: others", 1))]).unwrap_err();
    assert!(twice[0].to_string().contains("is ExternalService `cards` already"), "{twice:?}");
}
