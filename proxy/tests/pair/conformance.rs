//! HTTP/2 as RFC 9113 and RFC 7541 have it, judged by h2spec: an outbound listener in plaintext, an inbound one inside
//! mTLS. `scripts/h2spec.sh` builds the suite from the versions pinned in `tests/h2spec`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use signet_mtls::alpn;
use signet_proxy::snapshot::{OutboundService, Protocol};

use crate::apps;
use crate::harness::{Pair, bridge, bundle};

/// So that no case is judged by the 403 of a policy.
const EVERYTHING: &str = r#"
@id("everything")
permit(principal, action, resource);
"#;

/// Cases that fail for a reason that we stand by: (the section of h2spec, a word of its description, why).
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "http2/3.5",
    "Sends invalid connection preface",
    "the outbound listener speaks HTTP/1.1 too: what is not the preface is answered as a bad HTTP/1 head, then closed",
)];

fn suite() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/h2spec");
    assert!(path.exists(), "h2spec is not built: run scripts/h2spec.sh ({})", path.display());
    path
}

/// What failed of the whole suite against `address`, exceptions left out.
async fn failures(address: SocketAddr) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.xml");
    let run = tokio::process::Command::new(suite())
        .args(["-h", "127.0.0.1", "-o", "3", "-p", &address.port().to_string(), "-j"])
        .arg(&report)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(240), run).await.expect("h2spec ends").unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report ({e}):\n{text}"));
    let cases = testcases(&report);
    assert!(cases.len() > 100, "only {} cases ran:\n{text}", cases.len());
    cases
        .into_iter()
        .filter(|c| c.failed && !EXCEPTIONS.iter().any(|(s, word, _)| c.section == *s && c.title.contains(word)))
        .map(|c| format!("{} {}", c.section, c.title))
        .collect()
}

struct Case {
    section: String,
    title: String,
    failed: bool,
}

/// The cases of h2spec's JUnit report: `<testcase package=".." classname=".." ..>`, with an `<error>` or `<failure>` inside
/// when it failed.
fn testcases(report: &str) -> Vec<Case> {
    let attribute = |text: &str, name: &str| {
        let at = text.find(&format!("{name}=\"")).map(|i| i + name.len() + 2)?;
        text[at..].split('"').next().map(str::to_owned)
    };
    report
        .split("<testcase ")
        .skip(1)
        .map(|case| Case {
            section: attribute(case, "package").unwrap_or_default(),
            title: attribute(case, "classname").unwrap_or_default(),
            failed: case.contains("<failure") || case.contains("<error"),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbound_listener_passes_h2spec() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    let port = pair.outbound.port();
    pair.change(|s| {
        let mut service = OutboundService::clone(&s.outbound[0]);
        service.hosts = vec![Arc::from("127.0.0.1")];
        service.port = port;
        s.outbound = vec![Arc::new(service)];
        s.bundle = Some(bundle(EVERYTHING, 'b'));
    });
    assert_eq!(failures(pair.outbound).await, Vec::<String>::new());
    assert!(reached.count() > 0, "the app was reached through the pair");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbound_listener_passes_h2spec() {
    let (app, reached) = apps::http().await;
    let pair = Pair::new(Protocol::Http, 80, app).await;
    pair.change(|s| s.bundle = Some(bundle(EVERYTHING, 'b')));
    assert_eq!(failures(bridge(&pair, alpn::H2).await).await, Vec::<String>::new());
    assert!(reached.count() > 0, "the app was reached through the listener");
}
