//! HTTPRouteMatch: what fits, and which of several that fit.

use crate::harness::{header, status};
use crate::mesh::Mesh;

fn served_by(answer: &str) -> &str {
    match status(answer) {
        200 => answer.split("served by bank/").nth(1).and_then(|rest| rest.lines().next()).unwrap(),
        404 => "404",
        other => panic!("{other}: {answer}"),
    }
}

/// A route of `echo` with one rule for each match; rule N leads to `echo-vN`.
fn route(name: &str, more: &str, matches: &[&str]) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: bank{more}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: echo}}]\n  rules:\n"
    );
    for (index, one) in matches.iter().enumerate() {
        let to = index + 1;
        text.push_str(&format!("    - matches: [{one}]\n      backendRefs: [{{name: echo-v{to}, port: 80}}]\n"));
    }
    text
}

async fn check(matches: &[&str], calls: &[(&str, &str, &str)]) {
    let mesh = Mesh::echo(&route("r", "", matches)).await;
    for (call, more, expected) in calls {
        let (method, path) = call.split_once(' ').unwrap();
        let answer = mesh.web.call(method, &format!("http://echo{path}"), more).await;
        assert_eq!(served_by(&answer), *expected, "{call} {more}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_match_exact_fits_the_whole_path() {
    check(
        &["{path: {type: Exact, value: /a}}"],
        &[("GET /a", "", "echo-v1"), ("GET /a?x=1", "", "echo-v1"), ("GET /a/", "", "404"), ("GET /A", "", "404")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_match_prefix_fits_by_element_and_ignores_a_trailing_slash() {
    check(
        &["{path: {type: PathPrefix, value: /a/b/}}"],
        &[
            ("GET /a/b", "", "echo-v1"),
            ("GET /a/b/", "", "echo-v1"),
            ("GET /a/b/c", "", "echo-v1"),
            ("GET /a/bc", "", "404"),
            ("GET /a", "", "404"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_match_regular_expression_fits_the_whole_path() {
    check(
        &["{path: {type: RegularExpression, value: '/u/[0-9]+|/v'}}"],
        &[
            ("GET /u/12", "", "echo-v1"),
            ("GET /v", "", "echo-v1"),
            ("GET /u/12/x", "", "404"),
            ("GET /x/u/1", "", "404"),
        ],
    )
    .await;
}

/// Otherwise a caller could step around a match that the destination's policy rests on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_match_reads_the_path_in_the_form_that_is_decided_about() {
    check(
        &["{path: {type: PathPrefix, value: /admin}}", "{path: {type: PathPrefix, value: /}}"],
        &[
            ("GET /x/../admin/a", "", "echo-v1"),
            ("GET //admin", "", "echo-v1"),
            ("GET /%61dmin", "", "echo-v1"),
            ("GET /admin/../x", "", "echo-v2"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_matches_all_have_to_fit_and_names_have_no_case() {
    check(
        &[
            "{headers: [{name: X-Kind, value: a}, {name: x-more, type: RegularExpression, value: 'b+'}, {name: x-kind, value: ignored}]}",
            "{headers: [{name: host, value: echo}, {name: x-list, value: 'a, b'}]}",
        ],
        &[
            ("GET /", "X-KIND: a\r\nx-more: bbb\r\n", "echo-v1"),
            ("GET /", "x-kind: a\r\n", "404"),
            ("GET /", "x-kind: A\r\nx-more: b\r\n", "404"),
            ("GET /", "x-kind: a\r\nx-more: bc\r\n", "404"),
            ("GET /", "x-list: a\r\nx-list: b\r\n", "echo-v2"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_param_matches_take_the_first_value_decoded() {
    check(
        &[
            "{queryParams: [{name: a, value: 'x y'}]}",
            "{queryParams: [{name: A, type: RegularExpression, value: '[0-9]*'}]}",
        ],
        &[
            ("GET /?a=x%20y", "", "echo-v1"),
            ("GET /?b=1&a=x+y&a=z", "", "echo-v1"),
            ("GET /?a=z&a=x+y", "", "404"),
            ("GET /?A=17", "", "echo-v2"),
            ("GET /?A", "", "echo-v2"),
            ("GET /", "", "404"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_match_is_exact() {
    check(&["{method: PUT}"], &[("PUT /", "content-length: 0\r\n", "echo-v1"), ("GET /", "", "404")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn precedence_exact_path_before_expression_before_prefix() {
    check(
        &["{path: {type: PathPrefix, value: /abc}}", "{path: {type: Exact, value: /abc}}"],
        &[("GET /abc", "", "echo-v2"), ("GET /abc/d", "", "echo-v1")],
    )
    .await;
    check(
        &["{path: {type: PathPrefix, value: /abc}}", "{path: {type: RegularExpression, value: '/a.*'}}"],
        &[("GET /abc", "", "echo-v2")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn precedence_the_longest_prefix_wins_whatever_else_fits() {
    check(
        &["{path: {value: /a}, method: GET, headers: [{name: x, value: '1'}]}", "{path: {value: /a/b}}"],
        &[("GET /a/b", "x: 1\r\n", "echo-v2"), ("GET /a/c", "x: 1\r\n", "echo-v1")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn precedence_then_method_then_headers_then_query_params() {
    check(
        &["{headers: [{name: x, value: '1'}, {name: y, value: '1'}]}", "{method: GET}"],
        &[("GET /", "x: 1\r\ny: 1\r\n", "echo-v2")],
    )
    .await;
    check(
        &["{queryParams: [{name: a, value: '1'}, {name: b, value: '1'}]}", "{headers: [{name: x, value: '1'}]}"],
        &[("GET /?a=1&b=1", "x: 1\r\n", "echo-v2")],
    )
    .await;
    check(
        &["{queryParams: [{name: a, value: '1'}]}", "{queryParams: [{name: a, value: '1'}, {name: b, value: '1'}]}"],
        &[("GET /?a=1&b=1", "", "echo-v2"), ("GET /?a=1", "", "echo-v1")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn precedence_ties_go_to_the_oldest_route_then_by_name_then_to_the_first_rule() {
    let one = |name: &str, more: &str, to: &str| route(name, more, &["{path: {value: /}}"]).replace("echo-v1", to);
    let old = ", creationTimestamp: '2024-01-01T00:00:00Z'";
    let young = ", creationTimestamp: '2025-01-01T00:00:00Z'";
    for (routes, expected) in [
        ([one("a", young, "echo-v1"), one("b", old, "echo-v2")], "echo-v2"),
        ([one("b", old, "echo-v1"), one("a", old, "echo-v2")], "echo-v2"),
        ([one("b", "", "echo-v1"), one("a", "", "echo-v2")], "echo-v2"),
    ] {
        let mesh = Mesh::echo(&routes.join("---\n")).await;
        assert_eq!(served_by(&mesh.get("/", "").await), expected);
    }
    check(&["{path: {value: /}}", "{path: {value: /}}"], &[("GET /", "", "echo-v1")]).await;
}

/// GEP-1294: a route takes the place of the implicit one, so what fits no rule goes nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_presence_a_request_that_fits_no_rule_is_refused() {
    let mesh = Mesh::echo(&route("r", "", &["{path: {value: /only}}"])).await;
    let answer = mesh.get("/else", "").await;
    assert_eq!((status(&answer), header(&answer, "x-signet-error")), (404, Some("no_route")), "{answer}");
    // Without the route the service is as it was.
    mesh.apply("").await;
    assert_eq!(served_by(&mesh.get("/else", "").await), "echo");
}
