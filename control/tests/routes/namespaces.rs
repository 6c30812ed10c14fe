//! GEP-1294: who follows which routes of a service.

use crate::harness::{header, status};
use crate::mesh::Mesh;

/// Marks the answers of calls to `bank/echo` with `mark`.
fn route(kind: &str, namespace: &str, parent: &str, mark: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {mark}, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: echo, namespace: bank{parent}}}]\n  rules:\n    - \
         filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-mark, value: {mark}}}]}}}}]\n      \
         backendRefs: [{{name: echo, namespace: bank, port: 80}}]\n"
    )
}

const URL: &str = "http://echo.bank/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_route_applies_to_callers_of_every_namespace() {
    let mesh = Mesh::echo(&route("HTTPRoute", "bank", "", "producer")).await;
    let shop = mesh.caller_in("shop").await;
    for caller in [&mesh.web, &shop] {
        let answer = caller.call("GET", URL, "").await;
        assert_eq!((status(&answer), header(&answer, "x-mark")), (200, Some("producer")), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_route_applies_to_callers_of_its_own_namespace_alone() {
    let mesh = Mesh::echo(&route("HTTPRoute", "shop", "", "consumer")).await;
    let (shop, other) = (mesh.caller_in("shop").await, mesh.caller_in("other").await);
    for (caller, mark) in [(&mesh.web, None), (&shop, Some("consumer")), (&other, None)] {
        let answer = caller.call("GET", URL, "").await;
        assert_eq!((status(&answer), header(&answer, "x-mark")), (200, mark), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_routes_take_the_place_of_producer_routes_without_merging() {
    let both = [route("HTTPRoute", "bank", "", "producer"), route("HTTPRoute", "shop", "", "consumer")];
    let narrow = both[1].replace("    - filters", "    - matches: [{path: {value: /mine}}]\n      filters");
    let mesh = Mesh::echo(&[both[0].clone(), narrow].join("---\n")).await;
    let shop = mesh.caller_in("shop").await;
    let answer = shop.call("GET", "http://echo.bank/mine", "").await;
    assert_eq!(header(&answer, "x-mark"), Some("consumer"), "{answer}");
    assert_eq!(status(&shop.call("GET", URL, "").await), 404, "the producer's rules are not merged in");
    assert_eq!(header(&mesh.web.call("GET", URL, "").await, "x-mark"), Some("producer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parent_ref_port_limits_the_route_to_that_port() {
    let mesh = Mesh::echo(&route("HTTPRoute", "bank", ", port: 80", "same")).await;
    assert_eq!(header(&mesh.web.call("GET", URL, "").await, "x-mark"), Some("same"));
    mesh.apply(&route("HTTPRoute", "bank", ", port: 81", "other")).await;
    assert_eq!(header(&mesh.web.call("GET", URL, "").await, "x-mark"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_types_grpc_route_wins_over_http_route_for_the_same_port() {
    let both = [route("HTTPRoute", "bank", "", "http"), route("GRPCRoute", "bank", "", "grpc")].join("---\n");
    let mesh = Mesh::echo(&both).await;
    assert_eq!(header(&mesh.web.call("GET", URL, "").await, "x-mark"), Some("grpc"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostnames_of_a_route_are_not_used_by_the_mesh() {
    let named = route("HTTPRoute", "bank", "", "m").replace("spec:\n", "spec:\n  hostnames: [elsewhere.example]\n");
    let mesh = Mesh::echo(&named).await;
    assert_eq!(header(&mesh.web.call("GET", URL, "").await, "x-mark"), Some("m"));
}

/// A backend is reached as the service that it is: its own routes are not followed (GEP-1294, multiple routes).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_of_a_backend_are_not_followed() {
    let chained = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a, namespace: bank}\nspec:\n  \
                   parentRefs: [{group: '', kind: Service, name: echo}]\n  rules: [{backendRefs: [{name: echo-v1, port: 80}]}]\n---\n\
                   apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: b, namespace: bank}\nspec:\n  \
                   parentRefs: [{group: '', kind: Service, name: echo-v1}]\n  rules: [{backendRefs: [{name: echo-v2, port: 80}]}]\n";
    let mesh = Mesh::echo(chained).await;
    assert!(mesh.web.call("GET", URL, "").await.contains("served by bank/echo-v1"));
    assert!(mesh.web.call("GET", "http://echo-v1.bank/", "").await.contains("served by bank/echo-v2"));
}
