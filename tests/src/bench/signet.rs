//! The Signet pair: two sidecars of a demo, with policy and audit on as in any demo.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::Method;

use super::Contender;
use super::process::pin;
use crate::demo::Demo;
use crate::{calls, cli, wait};

const CALLER: &str = "east/bank/ledger";
const CALLED: &str = "east/bank/web";
const HOST: &str = "web.bank.svc.cluster.local";
const POLICY: &str = r#"
// For the benchmark alone: the ledger may fetch web's page.
@id("bench-ledger-web")
@owner("bench")
permit (
  principal == Mesh::Workload::"spiffe://east.bank.example/ns/bank/sa/ledger",
  action == Mesh::Action::"http:GET",
  resource in Mesh::Service::"east.bank.example/bank/web"
);
"#;

pub(crate) struct Mesh {
    demo: Demo,
    app: SocketAddr,
}

impl Mesh {
    /// A demo without load, whose policies permit the measured call.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let demo = Demo::start(&["--rate", "0"])?;
        let app = demo.workload(CALLED)?.app.parse()?;
        let repository = &demo.endpoints().policy_repo;
        std::fs::write(repository.join("policies/bench.cedar"), POLICY)?;
        for arguments in [&["add", "--all"][..], &["commit", "--quiet", "-S", "-m", "Permit what is measured"]] {
            let mut git = Command::new("git");
            git.arg("-C").arg(repository).args(arguments);
            let output = cli::run(git)?;
            ensure!(output.code == 0, "git {arguments:?}: {}", output.stderr);
        }
        let outbound = demo.workload(CALLER)?.outbound.clone();
        wait::until("the measured call to be permitted", Duration::from_secs(10), || async {
            let answer = calls::get(&outbound, "/", &[("host", HOST)]).await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        // The app's answer is the same by both ways.
        let direct = calls::through(&demo.workload(CALLED)?.app, Method::GET, "/", &[], "").await?;
        ensure!(direct.status == 200, "the app answered {}", direct.status);
        Ok(Self { demo, app })
    }

    pub(crate) fn app(&self) -> SocketAddr {
        self.app
    }

    pub(crate) fn contender(&self) -> anyhow::Result<Contender> {
        let endpoints = self.demo.endpoints_now()?;
        let workload = |key| endpoints.workloads.get(key).context("a workload is missing");
        Ok(Contender {
            name: "signet",
            address: workload(CALLER)?.outbound.parse()?,
            host: HOST.to_owned(),
            pids: vec![workload(CALLER)?.pid, workload(CALLED)?.pid],
        })
    }

    /// The caller's sidecar on the load generator's CPU, the called one on the app's.
    pub(crate) fn pin(&self) -> anyhow::Result<()> {
        let endpoints = self.demo.endpoints_now()?;
        let pid =
            |key: &str| endpoints.workloads.get(key).map(|workload| workload.pid).context("a workload is missing");
        pin(&[i32::try_from(std::process::id())?, pid(CALLER)?], 0)?;
        pin(&[pid(CALLED)?], 1)?;
        pin(&[self.app_pid()?], 1)
    }

    /// The process that listens at the app's address, which no file of the demo names.
    fn app_pid(&self) -> anyhow::Result<i32> {
        let listen = format!("--listen\0{}\0", self.app);
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if command.contains("signet-bank\0web\0") && command.contains(&listen) {
                return Ok(pid);
            }
        }
        anyhow::bail!("found no process that serves {}", self.app)
    }
}
