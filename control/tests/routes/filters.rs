//! HTTPRouteFilter: header modifiers, redirect, rewrite, mirror.

use crate::harness::{header, status, wait};
use crate::mesh::Mesh;

/// One rule with a match, filters and, where given, backends.
fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: bank}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: echo}}]\n  rules: [{{{rule}}}]\n"
    )
}

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_header_modifier_sets_adds_and_removes() {
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}, \
                  {name: x-set, value: ignored}], add: [{name: x-add, value: '2'}], remove: [X-Gone]}}]";
    let mesh = Mesh::echo(&route(&format!("{filter}, {V1}"))).await;
    let answer = mesh.get("/", "x-set: old\r\nx-add: 1\r\nx-gone: 1\r\nx-kept: 1\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = &mesh.app("bank/echo-v1").seen()[0].headers;
    let all = |name: &str| seen.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("x-set"), ["new"]);
    assert_eq!(all("x-add"), ["1", "2"]);
    assert_eq!((all("x-gone").len(), all("x-kept")), (0, vec!["1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_header_modifier_sets_adds_and_removes() {
    let filter = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: new}], \
                  add: [{name: x-app, value: '2'}], remove: [content-type]}}]";
    let mesh = Mesh::echo(&route(&format!("{filter}, {V1}"))).await;
    let answer = mesh.get("/", "").await;
    assert_eq!(header(&answer, "x-set"), Some("new"), "{answer}");
    assert_eq!(answer.matches("x-app:").count(), 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_ref_filters_apply_to_that_backend_alone() {
    let backends = "backendRefs: [{name: echo-v1, port: 80, filters: [{type: RequestHeaderModifier, \
                    requestHeaderModifier: {set: [{name: x-to, value: v1}]}}, {type: ResponseHeaderModifier, \
                    responseHeaderModifier: {set: [{name: x-from, value: v1}]}}]}, {name: echo-v2, port: 80}]";
    let mesh = Mesh::echo(&route(backends)).await;
    for _ in 0..30 {
        let answer = mesh.get("/", "").await;
        let first = answer.contains("served by bank/echo-v1");
        assert_eq!(header(&answer, "x-from").is_some(), first, "{answer}");
        assert_eq!(answer.contains("x-to: v1"), first, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_redirect_changes_what_it_names_and_keeps_the_rest() {
    let mesh = Mesh::echo("").await;
    for (filter, path, expected) in [
        ("hostname: example.org", "/a?b=1", "302 http://example.org/a?b=1"),
        ("scheme: https", "/a", "302 https://echo/a"),
        ("scheme: https, port: 8443, statusCode: 301", "/a", "301 https://echo:8443/a"),
        ("port: 8080", "/a", "302 http://echo:8080/a"),
        ("port: 80, hostname: h", "/a", "302 http://h/a"),
        ("scheme: https, port: 443", "/a", "302 https://echo/a"),
        (
            "statusCode: 307, path: {type: ReplaceFullPath, replaceFullPath: /new}",
            "/p/x?q=1",
            "307 http://echo/new?q=1",
        ),
        ("statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /n}", "/p/x", "308 http://echo/n/x"),
        ("statusCode: 303, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", "/p/x", "303 http://echo/x"),
    ] {
        let prefix = if path.starts_with("/p") { "/p" } else { "/" };
        let matches = format!("matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]");
        mesh.apply(&route(&format!("{matches}, filters: [{{type: RequestRedirect, requestRedirect: {{{filter}}}}}]")))
            .await;
        let answer = mesh.get(path, "").await;
        let shown = format!("{} {}", status(&answer), header(&answer, "location").unwrap_or("nowhere"));
        assert_eq!(shown, expected, "{filter}");
    }
    assert_eq!(mesh.app("bank/echo").count() + mesh.app("bank/echo-v1").count(), 0, "nothing is forwarded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn url_rewrite_replaces_host_full_path_and_prefix() {
    let mesh = Mesh::echo("").await;
    for (prefix, filter, path, expected) in [
        ("/", "hostname: other.example", "/a?b=1", "/a?b=1 other.example"),
        ("/p", "path: {type: ReplaceFullPath, replaceFullPath: /full}", "/p/x?q=1", "/full?q=1 echo"),
        ("/p", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /n}", "/p/x", "/n/x echo"),
        ("/p", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /n}", "/p", "/n echo"),
        ("/p", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /n/}", "/p/", "/n/ echo"),
        ("/p/", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", "/p/x", "/x echo"),
        ("/p", "path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}", "/p", "/ echo"),
        ("/", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /n}", "/x", "/n/x echo"),
    ] {
        let matches = format!("matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]");
        let filters = format!("filters: [{{type: URLRewrite, urlRewrite: {{{filter}}}}}]");
        mesh.apply(&route(&format!("{matches}, {filters}, {V1}"))).await;
        assert_eq!(status(&mesh.get(path, "").await), 200, "{filter}");
        let seen = mesh.app("bank/echo-v1").seen().pop().unwrap();
        let shown = format!("{} {}", seen.path, seen.headers["host"].to_str().unwrap());
        assert_eq!(shown, expected, "{prefix} {filter} {path}");
    }
}

/// A rewrite changes the call before anybody decides, so it cannot carry a call past a policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn url_rewrite_comes_before_the_decision_which_is_about_what_the_app_gets() {
    let rewrite = "matches: [{path: {type: PathPrefix, value: /open}}], filters: [{type: URLRewrite, urlRewrite: \
                   {path: {type: ReplacePrefixMatch, replacePrefixMatch: /forbidden}}}]";
    let mesh = Mesh::echo(&route(&format!("{rewrite}, {V1}"))).await;
    let answer = mesh.get("/open/door", "").await;
    assert_eq!(status(&answer), 403, "{answer}");
    let id = header(&answer, "x-signet-decision").expect("a decision");
    let record = mesh.services["bank/echo-v1"].side.audit.decision(id).await;
    assert_eq!((record.allow, record.path.as_deref()), (false, Some("/forbidden/door")));
    assert_eq!(mesh.app("bank/echo-v1").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_mirror_copies_the_call_and_ignores_the_answer() {
    let filter = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}, \
                  {type: RequestMirror, requestMirror: {backendRef: {name: echo, port: 80}}}]";
    let mesh = Mesh::echo(&route(&format!("{filter}, {V1}"))).await;
    mesh.app("bank/echo-v2").will(&[crate::app::Next::Status(500)]);
    let head = "content-length: 5\r\nx-mark: m\r\n\r\nhello";
    let answer = mesh.web.call("PUT", "http://echo/a?b=1", head).await;
    assert_eq!(status(&answer), 200, "{answer}");
    for mirror in ["bank/echo-v1", "bank/echo-v2", "bank/echo"] {
        let seen = wait("the copy", || mesh.app(mirror).seen().pop()).await;
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("PUT", "/a?b=1"), "{mirror}");
        assert_eq!((&seen.body[..], seen.headers["x-mark"].to_str().unwrap()), (&b"hello"[..], "m"), "{mirror}");
    }
    // A copy is a call like any other: decided and recorded where it arrives.
    let audit = &mesh.services["bank/echo-v2"].side.audit;
    assert!(audit.record("the copy's record", |record| record.action == "http:PUT").await.allow);
}

/// GEP-3171.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_mirror_percent_and_fraction_are_shares_of_calls() {
    let mesh = Mesh::echo("").await;
    for (share, least, most) in [("percent: 0", 0, 0), ("fraction: {numerator: 1, denominator: 2}", 10, 90)] {
        let before = mesh.app("bank/echo-v2").count();
        mesh.apply(&route(&format!(
            "filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: echo-v2, port: 80}}, {share}}}}}], {V1}"
        )))
        .await;
        for _ in 0..100 {
            assert_eq!(status(&mesh.get("/", "").await), 200);
        }
        let sent = usize::try_from(mesh.web.side.metrics.mirrored.get()).unwrap();
        wait("the copies to arrive", || (mesh.app("bank/echo-v2").count() == sent).then_some(())).await;
        let copies = sent - before;
        assert!((least..=most).contains(&copies), "{share}: {copies}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_mirror_that_fails_or_hangs_does_not_touch_the_call() {
    let mesh = Mesh::echo(&route(&format!(
        "filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: deserted, port: 80}}}}}}, {{type: \
         RequestMirror, requestMirror: {{backendRef: {{name: nobody, port: 80}}}}}}, {{type: RequestMirror, \
         requestMirror: {{backendRef: {{name: echo-v2, port: 80}}}}}}], {V1}"
    )))
    .await;
    mesh.app("bank/echo-v2").will(&[crate::app::Next::Late(std::time::Duration::from_secs(30))]);
    let body = "x".repeat(300_000);
    let answer = mesh.web.call("PUT", "http://echo/", &format!("content-length: 300000\r\n\r\n{body}")).await;
    assert_eq!(status(&answer), 200);
    assert_eq!(mesh.app("bank/echo-v1").seen()[0].body.len(), 300_000);
}
