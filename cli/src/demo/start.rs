//! Starting the demo's processes in the order in which they need each other, and ending them in the other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use signet_api::identity::CreateJoinTokenRequest;

use super::directory::{self, Directory, write_private};
use super::endpoints::Endpoints;
use super::files::{self, Tuning};
use super::netns::{self, Network, Relay, Relays};
use super::plan::{ClusterPlan, Plan, WorkloadPlan};
use super::policy_repository::PolicyRepository;
use super::postgres::{self, Postgres};
use super::process::{Processes, Spawn};
use super::ready::{self, step};
use super::summary::{Summary, summarise};
use super::{Arguments, link};
use crate::failure::{Failure, ResultExt};

/// The load generator ends its calls first; then everything that could still be called, then what those need.
const STOP_LOAD: Duration = Duration::from_secs(6);
const STOP_TIER: Duration = Duration::from_millis(2500);
const JOIN_TOKEN_TTL_SECONDS: u32 = 600;

pub(crate) struct Running {
    plan: Plan,
    processes: Processes,
    programs: Programs,
    policy: PolicyRepository,
    audit_store: Postgres,
    ledger_store: Postgres,
    endpoints: Option<Endpoints>,
    token: String,
    foreign_data: Option<tempfile::TempDir>,
    relays: Option<Relays>,
    network: Option<Network>,
}

impl Running {
    /// Makes all that is made once: keys, the policy repository, two empty databases.
    pub(crate) fn new(directory: &Directory, arguments: &Arguments) -> Result<Self, Failure> {
        let programs = Programs::find()?;
        let network = if arguments.netns { Some(Network::take()?) } else { None };
        let plan = Plan::new(&directory.path, &directory.run, network.as_ref())?;
        let logs = plan.dir.join("logs");
        directory::make(&logs)?;
        let policy = PolicyRepository::create(&plan.dir)?;
        let account = postgres::account()?;
        let (data, foreign_data) = postgres::data_root(&plan.dir, account)?;
        let audit_store = Postgres::create(data.join("audit"), plan.postgres, account, "signet")?;
        let ledger_db = workload(&plan, "ledger-db")?;
        let mut ledger_store = Postgres::create(data.join("ledger"), ledger_db.app, account, "ledger")?;
        if let Some(space) = &ledger_db.space {
            ledger_store.move_into(space.clone(), ledger_db.app_listens());
        }
        let token = directory::secret()?;
        let tuning = Tuning { svid_ttl: arguments.svid_ttl };
        files::write_all(&plan, network.as_ref(), &policy, &audit_store.dsn(), tuning)?;
        write_private(&files::token_file(&plan), token.as_bytes())?;
        Ok(Self {
            processes: Processes::new(logs),
            plan,
            programs,
            policy,
            audit_store,
            ledger_store,
            endpoints: None,
            token,
            foreign_data,
            relays: None,
            network,
        })
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.plan.dir.join("logs")
    }

    /// Starts everything; returns when all is ready and `endpoints.json` is written.
    pub(crate) async fn start(&mut self, arguments: &Arguments) -> Result<(), Failure> {
        if let Some(network) = &self.network {
            network.build(&self.plan)?;
            netns::redirect(&self.plan, &self.programs.path("proxy"))?;
            self.relays = Some(relays(&self.plan)?);
        }
        self.start_stores().await?;
        for cluster in self.plan.clusters.values() {
            start_identity(cluster, &mut self.processes, &self.programs).await?;
        }
        for cluster in self.plan.clusters.values() {
            for component in ["audit", "control", "gateway"] {
                start_component(cluster, component, &mut self.processes, &self.programs)?;
            }
        }
        for workload in &self.plan.workloads {
            let cluster = cluster_of(&self.plan, workload)?;
            let config = files::config_path(cluster, &format!("proxy-{}", workload.bank.name));
            let command = match &workload.space {
                None => self.programs.component("proxy", &config),
                Some(space) => {
                    let mut command = netns::as_sidecar(&self.programs.path("proxy"));
                    command.arg("--config").arg(&config);
                    netns::inside(Some(space), command)
                }
            };
            self.processes.start(&format!("proxy/{}", workload.key()), command.into(), Signal::TERM)?;
        }
        self.start_apps()?;
        let ui = self.programs.component("ui", &self.plan.dir.join("ui.yaml"));
        self.processes.start("ui", ui.into(), Signal::TERM)?;

        for cluster in self.plan.clusters.values() {
            let name = format!("{}/audit", cluster.name);
            wait_for_component(cluster, "audit", &self.processes.log(&name)).await?;
        }
        let dsn = self.audit_store.dsn();
        let mut endpoints = Endpoints::new(&self.plan, &self.policy, dsn, self.token.clone())?;
        step("clusters linked by invite and accept", link::link(endpoints.context())).await?;
        self.wait_for_rest().await?;
        step("what each cluster exports known to the other", link::wait_until_known(endpoints.context())).await?;
        if arguments.rate > 0.0 {
            self.start_load(arguments.rate)?;
        }
        endpoints.write(&self.processes.pids().borrow())?;
        self.endpoints = Some(endpoints);
        Ok(())
    }

    async fn start_stores(&mut self) -> Result<(), Failure> {
        self.processes.start("postgres", self.audit_store.spawn(), Signal::INT)?;
        self.processes.start("app/ledger-db", self.ledger_store.spawn(), Signal::INT)?;
        let ledger_address = workload(&self.plan, "ledger-db")?.app;
        let (audit_log, ledger_log) = (self.processes.log("postgres"), self.processes.log("app/ledger-db"));
        step("PostgreSQL for the audit log and for the ledger", async {
            ready::tcp("postgres", self.plan.postgres, &audit_log).await?;
            ready::tcp("app/ledger-db", ledger_address, &ledger_log).await?;
            for store in [&self.audit_store, &self.ledger_store] {
                create_database(store).await?;
            }
            Ok(())
        })
        .await
    }

    fn start_apps(&mut self) -> Result<(), Failure> {
        for workload in &self.plan.workloads {
            let Some(app) = workload.bank.app else { continue };
            let mut command = Spawn::program(&self.programs.bank);
            command.arg(app).args(["--listen", &workload.app_listens().to_string()]);
            if workload.space.is_none() {
                command.args(["--outbound", &workload.outbound.to_string()]);
            }
            if app == "ledger" {
                command.env("LEDGER_DATABASE", self.ledger_store.dsn_without_address());
            }
            let command = netns::inside(workload.space.as_ref(), command);
            self.processes.start(&format!("app/{}", workload.key()), command.into(), Signal::TERM)?;
        }
        Ok(())
    }

    async fn wait_for_rest(&self) -> Result<(), Failure> {
        for cluster in self.plan.clusters.values() {
            for component in ["control", "gateway"] {
                let log = self.processes.log(&format!("{}/{component}", cluster.name));
                wait_for_component(cluster, component, &log).await?;
            }
        }
        for workload in &self.plan.workloads {
            let key = workload.key();
            let (proxy_log, app_log) =
                (self.processes.log(&format!("proxy/{key}")), self.processes.log(&format!("app/{key}")));
            step(&format!("workload {key}"), async {
                ready::admin(&format!("proxy/{key}"), workload.admin, &proxy_log).await?;
                match &workload.space {
                    None => ready::tcp(&format!("app/{key}"), workload.app, &app_log).await,
                    Some(space) => {
                        let listens = async || netns::is_listening(space, workload.bank.port).await;
                        ready::listening(&format!("app/{key}"), listens, &app_log).await
                    }
                }
            })
            .await?;
        }
        let log = self.processes.log("ui");
        step("dashboard", ready::admin("ui", self.plan.dashboard_admin, &log)).await
    }

    fn stats_file(&self) -> PathBuf {
        self.plan.dir.join("load.json")
    }

    fn start_load(&mut self, rate: f64) -> Result<(), Failure> {
        let mut command = Spawn::program(&self.programs.bank);
        command.arg("load").args(["--rate", &rate.to_string(), "--stats"]).arg(self.stats_file());
        for workload in &self.plan.workloads {
            match &workload.space {
                None => command.arg("--outbound").arg(format!("{}={}", workload.key(), workload.outbound)),
                Some(space) => command.arg("--namespace").arg(format!("{}={}", workload.key(), space.name)),
            };
        }
        self.processes.start("load", command.into(), Signal::TERM)
    }

    /// Writes `endpoints.json` again whenever a process was started again; ends only by failing.
    pub(crate) async fn keep_endpoints(&mut self) -> Failure {
        let mut pids = self.processes.pids();
        loop {
            let now = pids.borrow_and_update().clone();
            if let Some(endpoints) = self.endpoints.as_mut()
                && let Err(failure) = endpoints.write(&now)
            {
                return failure;
            }
            if pids.changed().await.is_err() {
                return Failure::failed("the demo lost sight of its processes").next("report this as a bug");
            }
        }
    }

    pub(crate) fn print_addresses(&self) {
        let Some(endpoints) = &self.endpoints else { return };
        let context = endpoints.context();
        println!("Signet is running: clusters east and west, linked.");
        println!("  dashboard   {}", context.dashboard);
        println!("  token       {}", context.dashboard_token);
        println!("  endpoints   {}", endpoints.path().display());
        println!("  policies    {}", context.policy_repo.display());
        if let Some(web) = context.workloads.get("east/bank/web") {
            if let Some(netns) = &web.netns {
                println!("Try, from the network namespace of workload web, which knows nothing of Signet:");
                println!("  ip netns exec {netns} curl http://ledger.bank.svc.cluster.local/accounts/1");
                println!("  ip netns exec {netns} signet-proxy counters");
            }
            println!("Try, as workload web of the bank:");
            println!("  curl -x http://{} http://ledger.bank.svc.cluster.local/accounts/1", web.outbound);
            println!(
                "  curl -i -x http://{} -d '{{\"amount\": 5}}' http://ledger.bank.svc.cluster.local/accounts/1/entries",
                web.outbound
            );
            println!("  curl -x http://{} 'http://fraud.bank.svc.clusterset.local/score?account=1'", web.outbound);
        }
        println!("  export SIGNET_CONTEXT={}", endpoints.path().display());
        println!("Press Ctrl-C to stop.");
    }

    /// Ends the load first, so that its counts are final, then compares them with the records.
    pub(crate) async fn summarise(&self) -> Result<Summary, Failure> {
        self.processes.stop(|name| name == "load", STOP_LOAD).await;
        step("records counted", summarise(&self.stats_file(), &self.audit_store.dsn())).await
    }

    /// Ends all processes in order, each group within its time.
    pub(crate) async fn stop(&mut self) {
        let ends = |suffix: &'static str| move |name: &str| name.ends_with(suffix);
        self.processes
            .stop(
                |name| name == "load" || name == "ui" || name.starts_with("app/") && !name.ends_with("ledger-db"),
                STOP_TIER,
            )
            .await;
        self.processes.stop(|name| name.starts_with("proxy/"), STOP_TIER + Duration::from_secs(1)).await;
        self.processes.stop(ends("/gateway"), STOP_TIER + Duration::from_secs(1)).await;
        self.processes
            .stop(
                |name| name.ends_with("/control") || name.ends_with("/agent") || name.ends_with("/identity"),
                STOP_TIER,
            )
            .await;
        self.processes.stop(ends("/audit"), STOP_TIER).await;
        self.processes.stop(|_| true, STOP_TIER).await;
        self.remove();
    }

    /// Ends all processes at once and without asking.
    pub(crate) async fn kill(&mut self) {
        self.processes.stop(|_| true, Duration::ZERO).await;
        self.remove();
    }

    /// What lies outside of the demo's directory.
    fn remove(&mut self) {
        self.foreign_data.take();
        self.relays.take();
        self.network.take();
    }
}

/// What a demo without namespaces has on loopback is there with them too.
fn relays(plan: &Plan) -> Result<Relays, Failure> {
    let mut relays = Relays::new();
    for (workload, space) in netns::spaces(plan) {
        let same = |address: std::net::SocketAddr| Relay { here: address, there: address.port() };
        let app = Relay { here: workload.app, there: workload.bank.port };
        relays.start(space, &[same(workload.outbound), same(workload.admin), app])?;
    }
    Ok(relays)
}

/// PostgreSQL accepts connections a moment before it serves them.
async fn create_database(store: &Postgres) -> Result<(), Failure> {
    let mut last = None;
    for _ in 0..100 {
        match store.create_database() {
            Ok(()) => return Ok(()),
            Err(failure) => last = Some(failure),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(last.unwrap_or_else(|| Failure::failed("PostgreSQL made no database").next("see its log")))
}

fn workload<'a>(plan: &'a Plan, name: &str) -> Result<&'a WorkloadPlan, Failure> {
    plan.workloads
        .iter()
        .find(|workload| workload.bank.name == name)
        .ok_or_else(|| Failure::failed(format!("the demo has no workload `{name}`")).next("report this as a bug"))
}

fn cluster_of<'a>(plan: &'a Plan, workload: &WorkloadPlan) -> Result<&'a ClusterPlan, Failure> {
    plan.clusters.get(workload.bank.cluster).ok_or_else(|| {
        Failure::failed(format!("the demo has no cluster `{}`", workload.bank.cluster)).next("report this as a bug")
    })
}

/// Identity server, then a join token, then the agent that uses it.
async fn start_identity(cluster: &ClusterPlan, processes: &mut Processes, programs: &Programs) -> Result<(), Failure> {
    let server = format!("{}/identity", cluster.name);
    let mut command = programs.program("identity");
    command.arg("server").arg("--config").arg(files::config_path(cluster, "identity"));
    processes.start(&server, command.into(), Signal::TERM)?;
    wait_for_component(cluster, "identity", &processes.log(&server)).await?;
    let token = join_token(cluster).await?;
    write_private(&files::join_token(cluster), token.as_bytes())?;
    let agent = format!("{}/agent", cluster.name);
    let mut command = programs.program("identity");
    command.arg("agent").arg("--config").arg(files::config_path(cluster, "agent"));
    processes.start(&agent, command.into(), Signal::TERM)?;
    wait_for_component(cluster, "agent", &processes.log(&agent)).await
}

/// Over the identity server's own socket, which only its user can open.
async fn join_token(cluster: &ClusterPlan) -> Result<String, Failure> {
    let next = "see the identity server's log";
    let path = cluster.operator_socket();
    let answer = signet_identity::operator::connect(&path)
        .await
        .unreachable("the identity server's operator socket does not answer", next)?
        .create_join_token(CreateJoinTokenRequest { ttl_seconds: JOIN_TOKEN_TTL_SECONDS })
        .await
        .failed("the identity server gave no join token", next)?;
    Ok(answer.into_inner().token)
}

fn start_component(
    cluster: &ClusterPlan,
    component: &str,
    processes: &mut Processes,
    programs: &Programs,
) -> Result<(), Failure> {
    let command = programs.component(component, &files::config_path(cluster, component));
    processes.start(&format!("{}/{component}", cluster.name), command.into(), Signal::TERM)
}

async fn wait_for_component(cluster: &ClusterPlan, component: &str, log: &Path) -> Result<(), Failure> {
    let name = format!("{}/{component}", cluster.name);
    let address = cluster.admin.get(component).copied();
    let address = address
        .ok_or_else(|| Failure::failed(format!("no admin listener for `{name}`")).next("report this as a bug"))?;
    step(&name, ready::admin(&name, address, log)).await
}

/// The components' programs, which lie beside `signet` itself.
struct Programs {
    dir: PathBuf,
    bank: PathBuf,
}

impl Programs {
    fn find() -> Result<Self, Failure> {
        let own = std::env::current_exe().failed("cannot tell where `signet` lies", "call it by its whole path")?;
        let dir = own.parent().map(Path::to_owned).unwrap_or_default();
        for name in ["identity", "audit", "control", "gateway", "proxy", "ui", "bank"] {
            let program = dir.join(format!("signet-{name}"));
            if !program.is_file() {
                return Err(Failure::failed(format!("the program `signet-{name}` is missing"))
                    .at(program.display())
                    .next("run `make build`, which makes all of them"));
            }
        }
        let bank = dir.join("signet-bank");
        Ok(Self { dir, bank })
    }

    fn path(&self, component: &str) -> PathBuf {
        self.dir.join(format!("signet-{component}"))
    }

    fn program(&self, component: &str) -> Command {
        Spawn::program(&self.path(component))
    }

    fn component(&self, component: &str, config: &Path) -> Command {
        let mut command = self.program(component);
        command.arg("--config").arg(config);
        command
    }
}
