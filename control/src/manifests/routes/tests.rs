//! Routes that are refused, with file, line and field, and those that are taken with a warning.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use crate::manifests::read_directory;
use crate::model::Desired;

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: r
  namespace: bank
spec:
  parentRefs:
    - group: ''
      kind: Service
      name: ledger
  rules:
    - matches:
        - path: {type: PathPrefix, value: /a}
          headers:
            - name: x-user
              value: u
      backendRefs:
        - name: ledger
          port: 80
    - matches:
        - method: GET
          path:
            value: /b
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier:
            set:
              - name: x-a
                value: b
      timeouts:
        request: 1s
        backendRequest: 500ms
      retry:
        codes: [503]
        attempts: 3
      backendRefs:
        - name: ledger
          port: 80
          weight: 5
";
const LEDGER: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: ledger, namespace: bank}\n\
                      spec: {ports: [{name: http, port: 80}, {name: db, port: 5432}]}\n";

fn read(route: &str) -> Result<Desired, String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ledger.yaml"), LEDGER).unwrap();
    std::fs::write(directory.path().join("route.yaml"), route).unwrap();
    read_directory(directory.path()).map_err(|errors| {
        let root = format!("{}/", directory.path().display());
        errors.iter().map(|error| error.to_string().replace(&root, "")).collect::<Vec<_>>().join("\n")
    })
}

/// What is put in place of which text, and what the error must then say.
#[test]
fn an_error_names_file_line_and_field() {
    let cases = [
        (
            "type: PathPrefix",
            "type: Prefix",
            "line 13, document 1, field `spec.rules[0].matches[0].path.type`: `Prefix`",
        ),
        ("value: /a}", "value: a}", "line 13, document 1, field `spec.rules[0].matches[0].path.value`: `a`"),
        ("value: /a}", "value: /a/../b}", "line 13, document 1, field `spec.rules[0].matches[0].path.value`"),
        (
            "{type: PathPrefix, value: /a}",
            "{type: RegularExpression, value: '/a)|(b'}",
            "line 13, document 1, field `spec.rules[0].matches[0].path.value`: `/a)|(b` is not a regular expression",
        ),
        ("name: x-user", "name: x user", "line 15, document 1, field `spec.rules[0].matches[0].headers[0].name`"),
        ("method: GET", "method: get", "line 21, document 1, field `spec.rules[1].matches[0].method`: `get`"),
        ("value: /b", "valve: /b", "line 23, document 1, field `spec.rules[1].matches[0].path"),
        (
            "RequestHeaderModifier\n",
            "Teleport\n",
            "line 25, document 1, field `spec.rules[1].filters[0].type`: `Teleport`",
        ),
        (
            "name: x-a",
            "name: Host",
            "line 28, document 1, field `spec.rules[1].filters[0].requestHeaderModifier.set[0].name`: `host` belongs",
        ),
        ("name: x-a", "name: x-signet-source", "set[0].name`: `x-signet-source` belongs to the mesh"),
        ("request: 1s", "request: 1", "line 31, document 1, field `spec.rules[1].timeouts.request`: `1`"),
        ("request: 1s", "request: 100ms", "line 32, document 1, field `spec.rules[1].timeouts.backendRequest`"),
        ("codes: [503]", "codes: [200]", "line 34, document 1, field `spec.rules[1].retry.codes[0]`: `200`"),
        ("attempts: 3", "attempts: 99", "line 35, document 1, field `spec.rules[1].retry.attempts`: `99`"),
        ("weight: 5", "weight: -5", "line 39, document 1, field `spec.rules[1].backendRefs[0].weight`"),
        (
            "          port: 80\n          weight",
            "          weight",
            "field `spec.rules[1].backendRefs[0].port`: is missing",
        ),
        (
            "port: 80\n          weight",
            "prot: 80\n          weight",
            "line 38, document 1, field `spec.rules[1].backendRefs[0]",
        ),
        ("namespace: bank", "namespace: Bank", "line 5, document 1, field `metadata.namespace`: `Bank`"),
        ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v9", "line 1, document 1, field `apiVersion`"),
        ("      retry:\n", "      sessionPersistence: {}\n      retry:\n", "field `spec.rules[1].sessionPersistence`"),
    ];
    assert!(read(ROUTE).is_ok(), "{:?}", read(ROUTE));
    for (find, put, expected) in cases {
        let text = ROUTE.replacen(find, put, 1);
        assert_ne!(text, ROUTE, "{find}");
        let shown = read(&text).unwrap_err();
        assert!(
            shown.starts_with("`route.yaml` line ") && shown.contains(expected),
            "{put:?} gave\n{shown}\nnot\n{expected}"
        );
    }
}

#[test]
fn filters_that_cannot_stand_together_are_refused() {
    let rule = |text: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: bank}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: ledger}}]\n  rules: [{text}]\n"
        )
    };
    let redirect = "{type: RequestRedirect, requestRedirect: {hostname: a}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a}}";
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    let mirror = |share: &str| {
        format!("{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 1}}, {share}}}}}]}}")
    };
    for (text, expected) in [
        (format!("{{filters: [{redirect}, {rewrite}]}}"), "both RequestRedirect and URLRewrite"),
        (format!("{{filters: [{rewrite}, {rewrite}]}}"), "`URLRewrite` may stand only once"),
        (format!("{{filters: [{redirect}], backendRefs: [{{name: ledger, port: 80}}]}}"), "beside a RequestRedirect"),
        (format!("{{matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{prefix}]}}"), "needs a PathPrefix"),
        (format!("{{backendRefs: [{{name: ledger, port: 80, filters: [{rewrite}]}}]}}"), "move the filter to the rule"),
        (mirror("percent: 1, fraction: {numerator: 1}"), "both `percent` and `fraction`"),
        (mirror("percent: 101"), "`101` of `100` is not a share"),
        (mirror("fraction: {numerator: 1, denominator: 0}"), "is not a share"),
        (
            "{filters: [{type: RequestRedirect}]}".to_owned(),
            "field `spec.rules[0].filters[0].requestRedirect`: is missing",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}".to_owned(),
            "requestRedirect.statusCode`: is not one of",
        ),
    ] {
        let shown = read(&rule(&text)).unwrap_err();
        assert!(shown.contains(expected), "{text} gave {shown}");
    }
}

#[test]
fn what_a_route_refers_to_and_is_not_there_is_a_warning() {
    for (find, put, expected) in [
        (
            "      name: ledger\n",
            "      name: nobody\n",
            "attached to the Service `bank/nobody`, which no manifest describes",
        ),
        ("      name: ledger\n", "      name: ledger\n      port: 5432\n", "has no such HTTP port"),
        (
            "- name: ledger\n          port: 80\n          w",
            "- name: nobody\n          port: 80\n          w",
            "`bank/nobody` port 80",
        ),
        ("port: 80\n          w", "port: 5432\n          w", "`bank/ledger` port 5432, which is no HTTP port here"),
        (
            "- name: ledger\n          port: 80\n          w",
            "- name: b\n          kind: Bucket\n          port: 80\n          w",
            "neither",
        ),
    ] {
        let text = ROUTE.replacen(find, put, 1);
        assert_ne!(text, ROUTE, "{find}");
        let warnings = read(&text).unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains(expected)), "{put}: {warnings:?}");
    }
}

#[test]
fn routes_of_gateways_alone_are_ignored_whatever_they_hold() {
    let other = ROUTE.replace("kind: Service", "kind: Gateway").replace("filters:", "unheardOf:");
    let desired = read(&other).unwrap();
    assert!(desired.routes.is_empty());
    assert_eq!(
        desired.warnings,
        ["kind `HTTPRoute r (no parentRef is a Service)` is not read by Signet and was ignored"]
    );
}

#[test]
fn a_route_described_twice_is_an_error() {
    let shown = read(&format!("{ROUTE}---\n{ROUTE}")).unwrap_err();
    assert!(shown.contains("document 2") && shown.contains("`bank/r` is described twice"), "{shown}");
}
