//! TrafficPolicies from files: what they become, and what is refused where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use crate::manifests::{ManifestError, read_directory};
use crate::model::{Desired, Target};

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec: {ports: [{name: http, port: 80}, {name: tcp-ssh, port: 22}]}
";

/// One policy `bank/ledger` for the Service of that name; `spec` is the rest of its `spec`, a field per line.
fn policy(spec: &str) -> String {
    let mut text = "apiVersion: signet.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: ledger, namespace: bank}\n\
                    spec:\n  targetRefs: [{kind: Service, name: ledger}]\n"
        .to_owned();
    for line in spec.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

fn read(texts: &[&str]) -> Result<Desired, Vec<ManifestError>> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("service.yaml"), SERVICE).unwrap();
    for (index, text) in texts.iter().enumerate() {
        std::fs::write(directory.path().join(format!("policy-{index}.yaml")), text).unwrap();
    }
    read_directory(directory.path())
}

/// Each field that there is, at least once.
const EVERYTHING: &str =
    "loadBalancing: {algorithm: ConsistentHash, hashOn: {header: X-Account}, slowStart: 30s, panicThreshold: 40}
outlierDetection: {consecutiveFailures: 5, successRate: {deviations: 1.5, minimumCalls: 20}, interval: 5s, ejectFor: 1m, maxEjected: 60}
circuitBreaker: {maxConnections: 10, maxPending: 20, maxRequests: 30, maxRetries: 4}
rateLimits: [{clients: [{serviceAccount: web, namespace: shop}], requests: 10, per: 1m, burst: 3}, {requests: 5}]
faults: {delay: {percent: 12.5, duration: 250ms}, abort: {percent: 0.01, status: 418, grpcStatus: 8}}
failover: [{clusters: [{trustDomain: west.example, weight: 3}, {trustDomain: north.example}]}, {clusters: [{trustDomain: south.example}]}]";

#[test]
fn everything_that_a_policy_can_say_is_read() {
    let desired = read(&[&policy(EVERYTHING)]).unwrap();
    assert_eq!(desired.warnings.len(), 2, "faults and hashing of a TCP port are named: {:?}", desired.warnings);
    assert!(desired.warnings.iter().all(|warning| warning.contains("port 22")), "{:?}", desired.warnings);
    let policy = &desired.traffic[0];
    assert!(matches!(&policy.targets[..], [(Target::Service(name), None)] if name.to_string() == "bank/ledger"));
    assert_eq!(policy.traffic.policy, "TrafficPolicy/bank/ledger");
    let [web, all] = &policy.limits[..] else { panic!("{:?}", policy.limits) };
    assert_eq!(web.clients, [("shop".to_owned(), "web".to_owned())]);
    assert_eq!((web.requests, web.per_ms, web.burst), (10, 60_000, 3));
    assert_eq!((all.clients.len(), all.requests, all.per_ms, all.burst), (0, 5, 1000, 5));
    let faults = policy.traffic.faults.as_ref().unwrap();
    assert_eq!((faults.delay_permyriad, faults.delay_ms), (1250, 250));
    assert_eq!((faults.abort_permyriad, faults.abort_status, faults.abort_grpc), (1, 418, 8));
    let balancing = policy.traffic.balancing.as_ref().unwrap();
    assert_eq!((balancing.algorithm.as_str(), balancing.hash_header.as_str()), ("consistent_hash", "x-account"));
    assert_eq!((balancing.slow_start_ms, balancing.panic_percent), (30_000, Some(40)));
    let outlier = policy.traffic.outlier.as_ref().unwrap();
    assert_eq!((outlier.consecutive_failures, outlier.deviations_milli, outlier.minimum_calls), (5, 1500, 20));
    assert_eq!((outlier.interval_ms, outlier.eject_ms, outlier.max_ejected_percent), (5000, 60_000, 60));
    let breaker = policy.traffic.breaker.as_ref().unwrap();
    assert_eq!((breaker.max_connections, breaker.max_pending), (10, 20));
    assert_eq!((breaker.max_requests, breaker.max_retries), (30, 4));
    let tiers: Vec<Vec<String>> = policy
        .failover
        .iter()
        .map(|tier| tier.iter().map(|part| format!("{} {}", part.trust_domain, part.weight)).collect())
        .collect();
    assert_eq!(tiers, [vec!["west.example 3", "north.example 1"], vec!["south.example 1"]]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let spec = "loadBalancing: {algorithm: ConsistentHash, hashOn: {cookie: session}}
outlierDetection: {successRate: {}}";
    let traffic = read(&[&policy(spec)]).unwrap().traffic[0].traffic.clone();
    let (balancing, outlier) = (traffic.balancing.unwrap(), traffic.outlier.unwrap());
    assert_eq!((balancing.hash_cookie.as_str(), balancing.panic_percent), ("session", None));
    assert_eq!((outlier.consecutive_failures, outlier.deviations_milli, outlier.minimum_calls), (0, 1900, 100));
    assert_eq!((outlier.interval_ms, outlier.eject_ms, outlier.max_ejected_percent), (10_000, 30_000, 50));
    assert_eq!(traffic.breaker, None);
    let elsewhere = format!("{spec}\nfailover: [{{clusters: [{{trustDomain: west.example}}]}}]");
    let traffic = read(&[&policy(&elsewhere)]).unwrap().traffic[0].traffic.clone();
    assert_eq!(traffic.outlier.unwrap().max_ejected_percent, 100, "there is somewhere else to go");
}

/// The paths of all fields; list entries as their list.
fn fields(value: &serde_json::Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                let path = format!("{at}.{name}");
                fields(value, &path, into);
                into.insert(path);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| fields(value, at, into)),
        _ => {}
    }
}

/// The same of an OpenAPI schema.
fn described(schema: &serde_json::Value, at: &str, into: &mut BTreeSet<String>) {
    if let Some(items) = schema.get("items") {
        described(items, at, into);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        described(property, &path, into);
        into.insert(path);
    }
}

#[test]
fn the_custom_resource_definition_describes_exactly_the_fields_that_are_read() {
    let crd = include_str!("../../../../deploy/crds/trafficpolicies.yaml");
    let crd: serde_json::Value = serde_saphyr::from_str(crd).unwrap();
    let version = &crd["spec"]["versions"][0];
    assert_eq!((crd["spec"]["group"].as_str(), version["name"].as_str()), (Some("signet.dev"), Some("v1alpha1")));
    let target = "targetRefs: [{group: '', kind: Service, name: ledger, port: 80}]";
    let spec: serde_json::Value = serde_saphyr::from_str(&format!("{target}\n{EVERYTHING}")).unwrap();
    let (mut known, mut said) = (BTreeSet::new(), BTreeSet::new());
    fields(&spec, "spec", &mut known);
    // Which exclude each other.
    known.extend(["cookie", "query"].map(|field| format!("spec.loadBalancing.hashOn.{field}")));
    described(&version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec", &mut said);
    assert_eq!(known, said);
}

#[test]
fn what_is_wrong_is_refused_with_its_line_and_field() {
    for (spec, field) in [
        ("rateLimits: [{requests: 0}]", "spec.rateLimits[0].requests"),
        ("rateLimits: [{requests: 1}, {requests: 2}]", "spec.rateLimits[1]"),
        (
            "rateLimits: [{requests: 1, clients: [{serviceAccount: 'a/b'}]}]",
            "spec.rateLimits[0].clients[0].serviceAccount",
        ),
        ("faults: {delay: {percent: 101, duration: 1s}}", "spec.faults.delay.percent"),
        ("faults: {delay: {percent: 1, duration: 2h}}", "spec.faults.delay.duration"),
        ("faults: {abort: {percent: 0.001}}", "spec.faults.abort.percent"),
        ("loadBalancing: {hashOn: {header: x}}", "spec.loadBalancing.hashOn"),
        ("loadBalancing: {algorithm: ConsistentHash}", "spec.loadBalancing.hashOn"),
        ("loadBalancing: {algorithm: ConsistentHash, hashOn: {header: a, query: b}}", "spec.loadBalancing.hashOn"),
        ("loadBalancing: {algorithm: ConsistentHash, hashOn: {header: 'a b'}}", "spec.loadBalancing.hashOn.header"),
        ("loadBalancing: {slowStart: 2h}", "spec.loadBalancing.slowStart"),
        ("loadBalancing: {panicThreshold: 101}", "spec.loadBalancing.panicThreshold"),
        ("outlierDetection: {}", "spec.outlierDetection"),
        ("outlierDetection: {consecutiveFailures: 0}", "spec.outlierDetection.consecutiveFailures"),
        ("outlierDetection: {successRate: {deviations: 0}}", "spec.outlierDetection.successRate.deviations"),
        ("outlierDetection: {consecutiveFailures: 1, ejectFor: 1ms}", "spec.outlierDetection.ejectFor"),
        ("outlierDetection: {consecutiveFailures: 1, maxEjected: 0}", "spec.outlierDetection.maxEjected"),
        ("circuitBreaker: {}", "spec.circuitBreaker"),
        ("circuitBreaker: {maxConnections: -1}", "spec.circuitBreaker.maxConnections"),
        ("faults: {abort: {percent: 1, status: 200}}", "spec.faults.abort.status"),
        ("failover: [{clusters: []}]", "spec.failover[0].clusters"),
        ("failover: [{clusters: [{trustDomain: West!}]}]", "spec.failover[0].clusters[0].trustDomain"),
        ("failover: [{clusters: [{trustDomain: west.example, weight: 0}]}]", "spec.failover[0].clusters[0].weight"),
        (
            "failover: [{clusters: [{trustDomain: w.example}]}, {clusters: [{trustDomain: w.example}]}]",
            "spec.failover[1].clusters[0].trustDomain",
        ),
    ] {
        let errors = read(&[&policy(spec)]).expect_err(spec);
        let [error] = &errors[..] else { panic!("{spec}: {errors:?}") };
        assert_eq!((error.field.as_str(), error.line), (field, 6), "{spec}: {error}");
    }
}

#[test]
fn a_misspelt_field_is_an_error_and_no_missing_limit() {
    for spec in
        ["ratelimits: [{requests: 1}]", "circuitBreaker: {maxConnection: 1}", "faults: {abort: {percentage: 1}}"]
    {
        let errors = read(&[&policy(spec)]).expect_err(spec);
        assert!(errors[0].message.contains("unknown field"), "{spec}: {}", errors[0]);
        assert!(errors[0].field.starts_with("spec"), "{spec}: {}", errors[0]);
    }
}

#[test]
fn a_port_has_one_policy() {
    let other = policy("faults: {}").replace("{name: ledger, namespace: bank}", "{name: second, namespace: bank}");
    let errors = read(&[&policy("faults: {}"), &other]).unwrap_err();
    assert_eq!(errors[0].field, "spec.targetRefs[0]");
    assert!(errors[0].message.contains("bank/ledger"), "{}", errors[0]);
    let on = |port: u16| format!("{{kind: Service, name: ledger, port: {port}}}");
    let first = policy("faults: {}").replace("{kind: Service, name: ledger}", &on(80));
    let second = other.replace("{kind: Service, name: ledger}", &on(81));
    let desired = read(&[&first, &second]).unwrap();
    assert_eq!(desired.traffic.len(), 2, "different ports may have different ones");
    assert_eq!(desired.warnings.len(), 1, "and port 81 is not there: {:?}", desired.warnings);
}

#[test]
fn a_policy_of_nothing_that_the_mesh_knows_is_refused_or_named() {
    let gateway = policy("faults: {}").replace("kind: Service, name", "kind: Gateway, name");
    assert_eq!(read(&[&gateway]).unwrap_err()[0].field, "spec.targetRefs[0].kind");
    let nobody = policy("faults: {}").replace("name: ledger}]", "name: nobody}]");
    assert!(read(&[&nobody]).unwrap().warnings[0].contains("bank/nobody"));
    let import = "{group: multicluster.x-k8s.io, kind: ServiceImport, name: ledger}";
    let imported = |spec: &str| policy(spec).replace("{kind: Service, name: ledger}", import);
    assert!(read(&[&imported("faults: {abort: {percent: 1}}")]).is_ok());
    let errors = read(&[&imported("rateLimits: [{requests: 1}]")]).unwrap_err();
    assert_eq!(errors[0].field, "spec.rateLimits", "another cluster's sidecars would not keep it: {}", errors[0]);
}
