//! GRPCRoute.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::app::Next;
use crate::mesh::Mesh;

const SERVICES: &[(&str, &str)] = &[("bank/pay", "grpc"), ("bank/pay-v1", "grpc"), ("bank/pay-v2", "grpc")];

fn route(kind: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: bank}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: pay}}]\n  rules: [{rules}]\n"
    )
}

/// Rule N leads to `pay-vN`.
fn matched(matches: &[&str]) -> String {
    let rule =
        |(i, one): (usize, &&str)| format!("{{matches: [{one}], backendRefs: [{{name: pay-v{}, port: 80}}]}}", i + 1);
    route("GRPCRoute", &matches.iter().enumerate().map(rule).collect::<Vec<_>>().join(", "))
}

/// Head, trailers and bytes of one call.
pub async fn call(mesh: &Mesh, method: &str, more: &[(&str, &str)]) -> (HeaderMap, HeaderMap, Bytes) {
    let stream = TcpStream::connect(mesh.web.outbound).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(format!("http://pay{method}")).header("content-type", "application/grpc");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let request = request.header("te", "trailers").body(Full::new(Bytes::from_static(b"message"))).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(8), sender.send_request(request));
    let (parts, body) = answer.await.expect("an answer in 8 s").unwrap().into_parts();
    let body = body.collect().await.unwrap();
    (parts.headers, body.trailers().cloned().unwrap_or_default(), body.to_bytes())
}

/// Path, headers and what it should come to.
type Case<'c> = (&'c str, &'c [(&'c str, &'c str)], &'c str);

async fn check(matches: &[&str], calls: &[Case<'_>]) {
    let mesh = Mesh::new(SERVICES, &matched(matches)).await;
    for (method, more, expected) in calls {
        let (head, trailers, _) = call(&mesh, method, more).await;
        let served = head.get("x-served-by").map(|by| by.to_str().unwrap());
        let shown = served.map_or_else(
            || format!("status {}", head["grpc-status"].to_str().unwrap()),
            |by| by.trim_start_matches("bank/").to_owned(),
        );
        assert_eq!(shown, *expected, "{method} {more:?}");
        if served.is_some() {
            assert_eq!(trailers["grpc-status"], "0");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_method_match_exact_by_service_and_method_and_unimplemented_otherwise() {
    check(
        &["{method: {service: a.B, method: Get}}", "{method: {service: a.C}}, {method: {method: Ping}}"],
        &[
            ("/a.B/Get", &[], "pay-v1"),
            ("/a.C/Any", &[], "pay-v2"),
            ("/x.Y/Ping", &[], "pay-v2"),
            ("/a.B/Put", &[], "status 12"),
            ("/a.Bc/Get", &[], "status 12"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_method_match_regular_expression() {
    check(
        &["{method: {type: RegularExpression, service: 'a\\..*', method: 'Get|List'}}"],
        &[("/a.B/Get", &[], "pay-v1"), ("/a.C/List", &[], "pay-v1"), ("/a.B/GetAll", &[], "status 12")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_precedence_service_then_method_then_headers() {
    check(
        &["{method: {method: Get}}", "{method: {service: a.B}}"],
        &[("/a.B/Get", &[], "pay-v2"), ("/a.C/Get", &[], "pay-v1")],
    )
    .await;
    check(
        &["{method: {service: a.B}, headers: [{name: v, value: '1'}]}", "{method: {service: a.B, method: Get}}"],
        &[("/a.B/Get", &[("v", "1")], "pay-v2"), ("/a.B/Put", &[("v", "1")], "pay-v1")],
    )
    .await;
    check(
        &["{}", "{headers: [{name: v, value: '1'}]}"],
        &[("/a.B/Get", &[("v", "1")], "pay-v2"), ("/a.B/Get", &[], "pay-v1")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_backend_refs_by_weight_and_unavailable_without_any() {
    let two = "{backendRefs: [{name: pay-v1, port: 80, weight: 1}, {name: pay-v2, port: 80, weight: 1}]}";
    let mesh = Mesh::new(SERVICES, &route("GRPCRoute", two)).await;
    for _ in 0..60 {
        assert_eq!(call(&mesh, "/a.B/Get", &[]).await.1["grpc-status"], "0");
    }
    let (first, second) = (mesh.app("bank/pay-v1").count(), mesh.app("bank/pay-v2").count());
    assert!(first > 5 && second > 5 && first + second == 60, "{first} {second}");
    for rules in ["{backendRefs: [{name: pay-v1, port: 80, weight: 0}]}", "{backendRefs: [{name: nobody, port: 80}]}"] {
        mesh.apply(&route("GRPCRoute", rules)).await;
        assert_eq!(call(&mesh, "/a.B/Get", &[]).await.0["grpc-status"], "14", "{rules}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_filters_modify_headers_and_mirror() {
    let rule = "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: v}]}}, \
                {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-res, value: v}]}}, \
                {type: RequestMirror, requestMirror: {backendRef: {name: pay-v2, port: 80}}}], \
                backendRefs: [{name: pay-v1, port: 80}]}";
    let mesh = Mesh::new(SERVICES, &route("GRPCRoute", rule)).await;
    let (head, trailers, bytes) = call(&mesh, "/a.B/Get", &[]).await;
    assert_eq!((head["x-res"].to_str().unwrap(), trailers["grpc-status"].to_str().unwrap()), ("v", "0"));
    assert_eq!(&bytes[..], b"message");
    for app in ["bank/pay-v1", "bank/pay-v2"] {
        let seen = crate::harness::wait("the call", || mesh.app(app).seen().pop()).await;
        assert_eq!((seen.headers["x-set"].to_str().unwrap(), &seen.body[..]), ("v", &b"message"[..]), "{app}");
    }
}

/// An HTTPRoute may be attached to a gRPC port: its retries count UNAVAILABLE as 503, its timeouts are DEADLINE_EXCEEDED.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_of_a_grpc_port_retries_unavailable_and_times_out() {
    let rule = "{timeouts: {request: 400ms}, retry: {codes: [503], attempts: 2, backoff: 1ms}, \
                backendRefs: [{name: pay-v1, port: 80}]}";
    let mesh = Mesh::new(SERVICES, &route("HTTPRoute", rule)).await;
    mesh.app("bank/pay-v1").will(&[Next::Grpc(14), Next::Grpc(14)]);
    let (_, trailers, bytes) = call(&mesh, "/a.B/Get", &[]).await;
    assert_eq!((trailers["grpc-status"].to_str().unwrap(), &bytes[..]), ("0", &b"message"[..]));
    assert_eq!(mesh.app("bank/pay-v1").count(), 3);
    mesh.app("bank/pay-v1").will(&[Next::Grpc(13)]);
    assert_eq!(call(&mesh, "/a.B/Get", &[]).await.0["grpc-status"], "13");
    assert_eq!(mesh.app("bank/pay-v1").count(), 4, "only UNAVAILABLE is worth another attempt");
    mesh.app("bank/pay-v1").will(&[Next::Late(Duration::from_secs(20))]);
    assert_eq!(call(&mesh, "/a.B/Get", &[]).await.0["grpc-status"], "4");
}
