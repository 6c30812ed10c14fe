//! Manifests as files: an edit reaches the sidecars in under a second, a broken one changes nothing.

use std::time::{Duration, Instant};

use http::Method;
use signet_tests::demo::Demo;
use signet_tests::{calls, cli, wait};

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("an_edited_manifest_reaches_the_sidecars_in_under_a_second", |demo| Box::pin(edited(demo))),
    ("a_route_takes_effect_in_under_a_second_and_is_shown", |demo| Box::pin(routed(demo))),
    ("a_malformed_manifest_is_named_and_changes_nothing", |demo| Box::pin(malformed(demo))),
];

const ALIAS: &str = "apiVersion: v1
kind: Service
metadata:
  name: books
  namespace: bank
  annotations:
    signet.dev/service-accounts: ledger
spec:
  ports: [{ name: http, port: 80, appProtocol: http }]
";

async fn books(demo: &Demo) -> anyhow::Result<u16> {
    let web = demo.workload("east/bank/web")?;
    let uri = "http://books.bank.svc.cluster.local/accounts/1";
    Ok(calls::through(&web.outbound, Method::GET, uri, &[], "").await?.status.as_u16())
}

/// A Service without endpoints is known (503), one that does not exist is not (403).
async fn edited(demo: &Demo) -> anyhow::Result<()> {
    assert_eq!(books(demo).await?, 403);
    let file = demo.dir().join("east/manifests/books.yaml");
    std::fs::write(&file, ALIAS)?;
    let added = until_status(demo, 503).await;
    std::fs::remove_file(&file)?;
    let removed = until_status(demo, 403).await?;
    let added = added?;
    assert!(added < Duration::from_secs(1), "adding took {added:?}");
    assert!(removed < Duration::from_secs(1), "removing took {removed:?}");
    Ok(())
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: ledger-elsewhere, namespace: bank }
spec:
  parentRefs: [{ group: '', kind: Service, name: ledger }]
  rules:
    - matches: [{ path: { value: /moved } }]
      filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /accounts } } }]
      backendRefs: [{ name: ledger, port: 80 }]
    - backendRefs: [{ name: ledger, port: 80 }]
";

/// Rewritten by web's sidecar, decided by ledger's as what the app gets.
async fn routed(demo: &Demo) -> anyhow::Result<()> {
    let web = demo.workload("east/bank/web")?;
    let moved = || async {
        let uri = "http://ledger.bank.svc.cluster.local/moved/1";
        Ok::<_, anyhow::Error>(calls::through(&web.outbound, Method::GET, uri, &[], "").await?.status.as_u16())
    };
    let before = moved().await?;
    assert_ne!(before, 200, "the ledger knows no such path");
    let file = demo.dir().join("east/manifests/route.yaml");
    std::fs::write(&file, ROUTE)?;
    let started = Instant::now();
    let in_force = wait::until("the route in force", Duration::from_secs(5), || async {
        Ok((moved().await? == 200).then_some(()))
    })
    .await;
    let took = started.elapsed();
    let shown = cli::signet(demo, &["mesh", "routes", "--cluster", "east", "-o", "json"])?.stdout;
    std::fs::remove_file(&file)?;
    in_force?;
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    assert!(shown.contains("HTTPRoute/bank/ledger-elsewhere#0") && shown.contains("/moved/*"), "{shown}");
    wait::until("the route to go", Duration::from_secs(5), || async { Ok((moved().await? == before).then_some(())) })
        .await
}

async fn until_status(demo: &Demo, status: u16) -> anyhow::Result<Duration> {
    let started = Instant::now();
    wait::until(&format!("a call to the new service to be answered {status}"), Duration::from_secs(5), || async {
        Ok((books(demo).await? == status).then_some(()))
    })
    .await?;
    Ok(started.elapsed())
}

async fn malformed(demo: &Demo) -> anyhow::Result<()> {
    let file = demo.dir().join("east/manifests/broken.yaml");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Service\nmetadata: {name: broken, namespace: bank}\nspec: {ports: [{port: eighty}]}\n",
    )?;
    let said = wait::until("the control plane to name the broken manifest", Duration::from_secs(5), || async {
        let said = cli::signet(demo, &["mesh", "services", "--cluster", "east"])?.stderr;
        Ok(said.contains("broken.yaml").then_some(said))
    })
    .await;
    let web = demo.workload("east/bank/web")?;
    let uri = "http://ledger.bank.svc.cluster.local/accounts/1";
    let status = calls::through(&web.outbound, Method::GET, uri, &[], "").await?.status;
    std::fs::remove_file(&file)?;
    let said = said?;
    assert!(said.contains("port"), "it names the field: {said}");
    assert_eq!(status, 200, "what ran before runs on");
    wait::until("the error to go", Duration::from_secs(5), || async {
        let said = cli::signet(demo, &["mesh", "services", "--cluster", "east"])?.stderr;
        Ok((!said.contains("broken.yaml")).then_some(()))
    })
    .await
}
