//! HTTPBackendRef: weights, and what cannot be reached.

use crate::harness::{header, status};
use crate::mesh::Mesh;

fn route(backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: bank}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: echo}}]\n  rules: [{{{backends}}}]\n"
    )
}

/// Statuses of `n` calls, and how many each version of the app served.
async fn calls(mesh: &Mesh, n: usize) -> (Vec<u16>, usize, usize) {
    let mut statuses = Vec::new();
    for _ in 0..n {
        statuses.push(status(&mesh.get("/", "").await));
    }
    (statuses, mesh.app("bank/echo-v1").count(), mesh.app("bank/echo-v2").count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weight_is_a_share_of_the_sum_and_zero_gets_nothing() {
    let backends = "backendRefs: [{name: echo-v1, port: 80, weight: 9}, {name: echo-v2, port: 80, weight: 1}, \
                    {name: echo, port: 80, weight: 0}]";
    let mesh = Mesh::echo(&route(backends)).await;
    let (statuses, first, second) = calls(&mesh, 300).await;
    assert!(statuses.iter().all(|status| *status == 200));
    assert_eq!((first + second, mesh.app("bank/echo").count()), (300, 0));
    // Six standard deviations of the binomial are 31.
    assert!((239..=301).contains(&first), "{first}");
    assert!(second > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weight_is_one_where_it_is_left_out() {
    let mesh = Mesh::echo(&route("backendRefs: [{name: echo-v1, port: 80}, {name: echo-v2, port: 80}]")).await;
    let (_, first, second) = calls(&mesh, 100).await;
    assert!(first > 15 && second > 15, "{first} {second}");
}

/// Each answers 500: without backends, with weight 0 alone, with what does not exist, has no such port, or is no service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_refs_that_lead_nowhere_are_500() {
    let mesh = Mesh::echo("").await;
    for backends in [
        "",
        "backendRefs: [{name: echo-v1, port: 80, weight: 0}]",
        "backendRefs: [{name: nobody, port: 80}]",
        "backendRefs: [{name: echo-v1, port: 81}]",
        "backendRefs: [{group: storage.example, kind: Bucket, name: echo-v1, port: 80}]",
        "backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: echo-v1, port: 80}]",
    ] {
        mesh.apply(&route(backends)).await;
        let answer = mesh.get("/", "").await;
        assert_eq!((status(&answer), header(&answer, "x-signet-error")), (500, Some("no_backend")), "{backends}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_ref_that_cannot_be_resolved_is_500_for_its_share() {
    let mesh = Mesh::echo(&route("backendRefs: [{name: echo-v1, port: 80}, {name: nobody, port: 80}]")).await;
    let (statuses, first, _) = calls(&mesh, 100).await;
    let failed = statuses.iter().filter(|status| **status == 500).count();
    assert_eq!(failed + first, 100);
    assert!((15..=85).contains(&failed), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_ref_without_endpoints_is_503() {
    let mesh = Mesh::echo(&route("backendRefs: [{name: deserted, port: 80}]")).await;
    let answer = mesh.get("/", "").await;
    assert_eq!((status(&answer), header(&answer, "x-signet-error")), (503, Some("no_endpoints")), "{answer}");
}

/// The destination of a rerouted call decides about itself, and its sidecar must prove to be it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_of_a_route_decides_and_records_as_itself() {
    let mesh = Mesh::echo(&route("backendRefs: [{name: echo-v1, port: 80}]")).await;
    assert_eq!(status(&mesh.get("/x", "").await), 200);
    let audit = &mesh.services["bank/echo-v1"].side.audit;
    let record = audit.record("the call's record", |record| record.action == "http:GET").await;
    assert_eq!(record.destination_service, "east.bank.example/bank/echo-v1");
    assert_eq!(record.path.as_deref(), Some("/x"));
}
