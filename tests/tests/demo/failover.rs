//! A service that both clusters serve: what is dead in one is served by the other, and comes back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use http::Method;
use rustix::process::Signal;
use serde_json::Value;
use signet_tests::demo::{Demo, signal};
use signet_tests::{calls, records, wait};

use crate::Test;
use crate::policy_changes::{disable_tests, git, revert, until_head_is_enforced, write};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("a_service_fails_over_to_the_other_cluster_without_a_failed_call_and_returns", |demo| {
        Box::pin(fails_over(demo))
    })];

/// The longest that what is dead may go unnoticed.
const NOTICED: Duration = Duration::from_secs(3);
const URI: &str = "http://status.bank.svc.cluster.local/healthz";

/// `status` is served by the ledger's workload in east and by reporting's in west: each under its own trust domain's identity.
const POLICY: &str = r#"
@id("test-web-asks-east")
@owner("bank")
permit (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:GET",
  resource == Mesh::Service::"east.bank.example/bank/status"
);

@id("test-web-asks-west")
@owner("bank")
permit (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:GET",
  resource == Mesh::Service::"west.bank.example/bank/status"
);

// The port that it shares in west: all services of a port must permit.
@id("test-web-asks-reporting")
@owner("bank")
permit (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/web",
  action == Mesh::Action::"http:GET",
  resource == Mesh::Service::"west.bank.example/bank/reporting"
);

@id("test-east-reaches-status")
@owner("bank")
permit (
  principal in Mesh::TrustDomain::"east.bank.example",
  action == Mesh::Action::"gateway:forward",
  resource == Mesh::Service::"west.bank.example/bank/status"
);
"#;

/// `status` of one cluster, served by the workload of `account` behind the sidecar's port `inbound`.
fn service(account: &str, inbound: &str) -> anyhow::Result<String> {
    let address: std::net::SocketAddr = inbound.parse()?;
    Ok(format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: status, namespace: bank, annotations: {{ signet.dev/service-accounts: {account} }} }}
spec: {{ ports: [{{ name: http, port: 80, appProtocol: http }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: status-1, namespace: bank, labels: {{ kubernetes.io/service-name: status }} }}
addressType: IPv4
ports: [{{ name: http, port: {} }}]
endpoints: [{{ addresses: [{}] }}]
",
        address.port(),
        address.ip()
    ))
}

const EXPORT: &str = "---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: { name: status, namespace: bank }
";

const FAILOVER: &str = "---
apiVersion: signet.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: status, namespace: bank }
spec:
  targetRefs: [{ kind: Service, name: status }]
  failover: [{ clusters: [{ trustDomain: west.bank.example }] }]
";

async fn fails_over(demo: &Demo) -> anyhow::Result<()> {
    let east = service("ledger", &demo.workload("east/bank/ledger")?.inbound)? + FAILOVER;
    let west = service("reporting", &demo.workload("west/bank/reporting")?.inbound)? + EXPORT;
    let files = [("east", east), ("west", west)].map(|(cluster, text)| {
        let file = demo.dir().join(cluster).join("manifests/status.yaml");
        (file, text)
    });
    for (file, text) in &files {
        std::fs::write(file, text)?;
    }
    write(demo, "policies/test-status.cedar", POLICY)?;
    git(demo, &["add", "--all"])?;
    disable_tests(demo)?;
    git(demo, &["commit", "--quiet", "-S", "-m", "Let web ask for status"])?;
    let web =
        Web { outbound: &demo.workload("east/bank/web")?.outbound, admin: &demo.workload("east/bank/web")?.admin };
    // Errors, not panics: what follows undoes what was done.
    let tested = async {
        until_head_is_enforced(demo).await?;
        let ready =
            || async { Ok((web.call().await? == 200 && web.reached("west").await? == Some(true)).then_some(())) };
        wait::until("`status` to be served with somewhere else to go", Duration::from_secs(10), ready).await?;
        killed(demo, &web).await?;
        frozen(demo, &web).await?;
        cluster_lost_without_traffic(demo, &web).await
    };
    let tested = tested.await;
    for (file, _) in &files {
        std::fs::remove_file(file)?;
    }
    revert(demo).await?;
    wait::until("`status` to be gone", Duration::from_secs(10), || async {
        Ok((web.call().await? == 403).then_some(()))
    })
    .await?;
    tested
}

/// web's sidecar, which chooses.
struct Web<'d> {
    outbound: &'d str,
    admin: &'d str,
}

impl Web<'_> {
    async fn call(&self) -> anyhow::Result<u16> {
        Ok(calls::through(self.outbound, Method::GET, URI, &[], "").await?.status.as_u16())
    }

    /// Calls that west took.
    async fn failed_over(&self) -> anyhow::Result<f64> {
        calls::metric(self.admin, "signet_proxy_failed_over_total", &[]).await
    }

    /// Whether the sidecar thinks that it can reach `status` in this cluster; none: it knows of no such endpoint.
    async fn reached(&self, cluster: &str) -> anyhow::Result<Option<bool>> {
        let page: Value = serde_json::from_slice(&calls::get(self.admin, "/connections", &[]).await?.body)?;
        let services = page["outbound"]["services"].as_array().into_iter().flatten();
        let mut status = services.filter(|service| service["service"] == "east.bank.example/bank/status");
        let endpoints = status.next().and_then(|service| service["endpoints"].as_array().cloned()).unwrap_or_default();
        let remote = |endpoint: &&Value| endpoint["address"].as_str().is_some_and(|name| name.contains("/bank/status"));
        let found = endpoints.iter().find(|endpoint| remote(endpoint) == (cluster == "west"));
        Ok(found.and_then(|endpoint| endpoint["reached"].as_bool()))
    }

    /// Calls until the own cluster takes them again.
    async fn until_returned(&self) -> anyhow::Result<()> {
        wait::until("calls to return to the own cluster", Duration::from_secs(10), || async {
            let before = self.failed_over().await?;
            ensure!(self.call().await? == 200, "a call failed on the way back");
            Ok((self.failed_over().await? == before).then_some(()))
        })
        .await
    }
}

/// The sidecar of the only endpoint in east is killed whenever it is started again: no call fails.
async fn killed(demo: &Demo, web: &Web<'_>) -> anyhow::Result<()> {
    let before = web.failed_over().await?;
    let started = Instant::now();
    let mut last = 0;
    while started.elapsed() < Duration::from_secs(4) {
        let pid = demo.endpoints_now()?.workloads["east/bank/ledger"].pid;
        if pid != last && signal(pid, Signal::KILL).is_ok() {
            last = pid;
        }
        let status = web.call().await?;
        ensure!(status == 200, "{status} after {:?}", started.elapsed());
    }
    let taken = web.failed_over().await? - before;
    ensure!(taken > 20.0, "west took {taken} calls");
    web.until_returned().await?;
    // Each cluster decided for itself, about its own service with its own identity.
    let pool = records::connect(&demo.endpoints().postgres).await?;
    wait::until("west's own records of the calls that it took", Duration::from_secs(10), || async {
        let query = "SELECT count(*) FROM decisions WHERE decision = 'allow' AND action = 'http:GET'
            AND destination_service = 'west.bank.example/bank/status'
            AND source_spiffe_id = 'spiffe://east.bank.example/ns/bank/sa/web'
            AND destination_spiffe_id = 'spiffe://west.bank.example/ns/bank/sa/reporting'";
        let count: i64 = sqlx::query_scalar(query).fetch_one(&pool).await?;
        Ok((f64::from(u32::try_from(count)?) >= taken).then_some(()))
    })
    .await
}

/// It stops without a word: connections stay, and nothing answers. Calls go elsewhere in time, and none fails from then on.
async fn frozen(demo: &Demo, web: &Web<'_>) -> anyhow::Result<()> {
    let pid = demo.endpoints_now()?.workloads["east/bank/ledger"].pid;
    signal(pid, Signal::STOP)?;
    let stopped = Instant::now();
    let moved = wait::until("calls to go elsewhere", NOTICED, || async {
        let call = tokio::time::timeout(Duration::from_millis(250), web.call()).await;
        Ok(matches!(call, Ok(Ok(200))).then(|| stopped.elapsed()))
    })
    .await;
    let mut after = Vec::new();
    if moved.is_ok() {
        for _ in 0..20 {
            after.push(web.call().await);
        }
    }
    signal(pid, Signal::CONT)?;
    let moved = moved?;
    ensure!(moved < NOTICED, "it took {moved:?}");
    for status in after {
        ensure!(status? == 200, "a call failed after others had gone elsewhere");
    }
    web.until_returned().await
}

/// Nobody calls west, and still it is known within seconds that its gateway says nothing, and that it does again.
async fn cluster_lost_without_traffic(demo: &Demo, web: &Web<'_>) -> anyhow::Result<()> {
    let pid = demo.endpoints_now()?.pids["west/gateway"];
    signal(pid, Signal::STOP)?;
    let stopped = Instant::now();
    let lost = wait::until("the lost cluster to be noticed", 2 * NOTICED, || async {
        Ok((web.reached("west").await? == Some(false)).then(|| stopped.elapsed()))
    })
    .await;
    signal(pid, Signal::CONT)?;
    let lost = lost?;
    ensure!(lost < NOTICED, "it took {lost:?}");
    wait::until("the cluster to be back", 2 * NOTICED, || async {
        Ok((web.reached("west").await? == Some(true)).then_some(()))
    })
    .await
}
