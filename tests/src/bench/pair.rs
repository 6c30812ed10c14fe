//! One production sidecar with all that it needs, for measurements and for anybody's own harness: identity server, agent,
//! control plane with a signed bundle of 1,000 policies, audit service on a PostgreSQL of its own, and the sidecar itself.
//!
//! The two roles of a pair have a parent directory in common, and in it one root of trust; otherwise they share nothing and
//! may run in different network namespaces.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::process::Server;
use crate::cli;
use crate::demo::program;

const DOMAIN: &str = "pair.bench";
const HOST: &str = "app.bench.svc.cluster.local";
const POLICIES: usize = 1_000;
/// Of the ports that components listen at.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 100;
const RANGES: u32 = 120;
/// Starting everything takes seconds; machines that measure something may be busy.
const START: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes plain requests and carries them to this sidecar.
    Client { peer: SocketAddr },
    /// Takes mTLS and carries requests to this app.
    Server { backend: SocketAddr },
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Client { .. } => "client",
            Self::Server { .. } => "server",
        }
    }
}

/// What a harness may want to know of a running role; `D/<role>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// The sidecar's process.
    pub pid: i32,
    /// The sidecar's admin listener, in the role's network namespace.
    pub admin: SocketAddr,
    /// `unix:PATH` of the Workload API that gives the role's SVIDs.
    pub workload_api: String,
}

/// A running role; everything ends when it is dropped.
pub struct Running {
    // The sidecar first, PostgreSQL last.
    servers: Vec<Server>,
    pub facts: Facts,
    redirect: Option<String>,
    _run: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(table) = &self.redirect {
            let _ = Command::new("nft").args(["delete", "table", "ip", table]).stderr(Stdio::null()).status();
        }
        for server in self.servers.drain(..) {
            drop(server);
        }
    }
}

struct Place {
    dir: PathBuf,
    /// Short paths for sockets, and a directory that PostgreSQL's own user can enter.
    run: PathBuf,
}

impl Place {
    fn config(&self, component: &str, value: &Value) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(format!("{component}.yaml"));
        std::fs::write(&path, serde_json::to_vec_pretty(value)?)?;
        Ok(path)
    }

    fn own(&self, component: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(component);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(path)
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.run.join("w").join(format!("{name}.sock")).display())
    }

    fn start(&self, name: &str, arguments: &[&str], config: &Path, log: &str) -> anyhow::Result<Server> {
        let program = program(name)?;
        let mut all = arguments.to_vec();
        let config = config.to_str().context("a strange directory")?;
        all.extend(["--config", config]);
        // In production these run on other hosts, so they may not take the CPU from what is measured.
        let log = self.dir.join(format!("{log}.log"));
        Server::start_behind(program.to_str().context("a strange directory")?, &all, &log)
    }

    fn sidecar(&self, program: &Path, config: &Path) -> anyhow::Result<Server> {
        let config = config.to_str().context("a strange directory")?;
        let program = program.to_str().context("a strange directory")?;
        Server::start(program, &["--config", config], &self.dir.join("sidecar.log"))
    }

    fn spool(&self, component: &str) -> anyhow::Result<Value> {
        Ok(json!({ "dir": self.own(component)?.join("spool"), "durability": "disk", "on_full": "deny" }))
    }
}

/// The sidecar as it is shipped: built with link-time optimisation (docs/decisions/0013-*).
///
/// # Errors
/// When it was not built.
pub fn shipped(name: &str) -> anyhow::Result<PathBuf> {
    let own = program("pair")?;
    let target = own.parent().and_then(Path::parent).context("the program lies in no target directory")?;
    let program = target.join("dist").join(name);
    ensure!(program.is_file(), "{} is missing: run `make bench-build` first", program.display());
    Ok(program)
}

/// Starts `role` on `listen` with its files in `dir`, and returns when the sidecar serves. `sidecar` is its program.
///
/// # Errors
/// With the component that did not start and where its log is.
pub async fn start(role: Role, listen: SocketAddr, dir: &Path, sidecar: &Path) -> anyhow::Result<Running> {
    let program = sidecar;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let dir = dir.canonicalize()?;
    let run = tempfile::Builder::new().prefix("signet-pair-").tempdir()?;
    std::fs::set_permissions(run.path(), std::fs::Permissions::from_mode(0o755))?;
    let place = Place { dir, run: run.path().to_owned() };
    std::fs::create_dir_all(place.run.join("w"))?;

    let mut servers = Vec::new();
    let database = postgres(&place, &mut servers)?;
    let identity = free()?;
    identity_server(&place, role, identity, &mut servers).await?;
    agent(&place, identity, &mut servers).await?;

    let (audit, control) = (free()?, free()?);
    let (audit_admin, control_admin, proxy_admin) = (free()?, free()?, free()?);
    let state = place.own("audit")?;
    let config = place.config(
        "audit",
        &json!({
            "trust_domain": DOMAIN, "workload_api": place.socket("audit"), "listen": audit, "tlog": { "listen": free()? },
            "admin": audit_admin, "database_url": database, "log_key_file": state.join("log.key"), "state_dir": state,
        }),
    )?;
    servers.push(place.start("signet-audit", &[], &config, "audit")?);
    manifests(&place, role, listen)?;
    let (repository, signers) = policies(&place)?;
    let state = place.own("control")?;
    let config = place.config(
        "control",
        &json!({
            "trust_domain": DOMAIN, "workload_api": place.socket("control"), "listen": control, "identity": identity,
            "audit": audit, "manifests": place.dir.join("manifests"),
            "policy": { "repository": repository, "branch": "main", "trusted_signers": signers, "state": state.join("policy.state") },
            "admin": control_admin, "state_dir": state, "spool": place.spool("control")?,
        }),
    )?;
    servers.push(place.start("signet-control", &[], &config, "control")?);
    ready("audit", audit_admin, &place).await?;
    ready("control", control_admin, &place).await?;

    let mut sidecar = json!({
        "workload_api": place.socket("sidecar"), "control": control, "audit": audit, "admin": proxy_admin,
        "state_dir": place.own("sidecar")?, "spool": place.spool("sidecar")?, "workers": 1, "outbound": free()?,
    });
    let mut redirect = None;
    let more = match role {
        Role::Server { backend } => ("inbound", json!([{ "listen": listen, "app": backend }])),
        Role::Client { .. } => {
            // An explicit listener binds loopback and nothing else; what is to be reached from elsewhere is led there.
            let local = if listen.ip().is_loopback() { listen } else { free()? };
            if local != listen {
                redirect = Some(lead(listen, local)?);
            }
            ("upstreams", json!([{ "listen": local, "host": HOST, "port": 80 }]))
        }
    };
    sidecar.as_object_mut().context("an object")?.insert(more.0.to_owned(), more.1);
    let config = place.config("sidecar", &sidecar)?;
    let server = place.sidecar(program, &config)?;
    let facts = Facts { pid: server.pid()?, admin: proxy_admin, workload_api: place.socket("sidecar") };
    servers.push(server);
    servers.reverse();
    let running = Running { servers, facts, redirect, _run: run };
    ready("sidecar", proxy_admin, &place).await?;
    let write = |kind: &str, text: String| std::fs::write(place.dir.join(format!("{}.{kind}", role.name())), text);
    write("json", serde_json::to_string_pretty(&running.facts)?)?;
    // Last: who waits for it may read the other.
    write("pid", format!("{}\n", running.facts.pid))?;
    Ok(running)
}

/// A port that nobody listens at, below those that the kernel gives to clients: one of theirs may be taken again between
/// here and the component that gets it. Each process looks in a range of its own.
fn free() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = u16::try_from(std::process::id() % RANGES)?;
    for _ in 0..PORTS {
        let port = FIRST_PORT + range * PORTS + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from {FIRST_PORT} on is free; end what listens there")
}

/// Waits for `/readyz` of a component's admin listener.
async fn ready(name: &str, admin: SocketAddr, place: &Place) -> anyhow::Result<()> {
    let end = Instant::now() + START;
    loop {
        if let Ok(answer) = crate::calls::get(&admin.to_string(), "/readyz", &[]).await
            && answer.status == 200
        {
            return Ok(());
        }
        let log = place.dir.join(format!("{name}.log"));
        ensure!(Instant::now() < end, "{name} did not become ready; see {}", log.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn identity_server(
    place: &Place,
    role: Role,
    listen: SocketAddr,
    servers: &mut Vec<Server>,
) -> anyhow::Result<()> {
    let data = place.own("identity")?;
    let parent = place.dir.parent().context("the directory has no parent")?.join("root");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
    // The role that comes first makes the root; the other waits for it and takes it over.
    let lock = std::fs::File::create(parent.join("lock"))?;
    lock.lock()?;
    let files = ["root-key.pem", "root.pem"];
    let known = parent.join("root.pem").exists();
    if known {
        for file in files {
            std::fs::copy(parent.join(file), data.join(file))?;
        }
    }
    let mut entries: Vec<Value> = ["control", "audit"]
        .map(|name| json!({ "id": name, "spiffe_id": format!("spiffe://{DOMAIN}/signet/{name}"), "selectors": [format!("unix:socket:{name}")], "hint": "component" }))
        .to_vec();
    let role = role.name();
    for kind in ["sa", "proxy"] {
        entries.push(json!({ "id": format!("sidecar-{kind}"), "spiffe_id": format!("spiffe://{DOMAIN}/ns/bench/{kind}/{role}"), "selectors": ["unix:socket:sidecar"], "hint": kind }));
    }
    let entries = place.config("entries", &json!({ "entries": entries }))?;
    let admin = free()?;
    let bundle = free()?;
    let config = place.config(
        "identity",
        &json!({
            "trust_domain": DOMAIN, "data_dir": data, "listen": listen, "bundle_endpoint": { "listen": bundle },
            "admin": admin, "operator_socket": place.run.join("operator.sock"), "entries": entries,
        }),
    )?;
    servers.push(place.start("signet-identity", &["server"], &config, "identity")?);
    ready("identity", admin, place).await?;
    if !known {
        for file in files {
            std::fs::copy(data.join(file), parent.join(file))?;
        }
    }
    Ok(())
}

async fn agent(place: &Place, server: SocketAddr, servers: &mut Vec<Server>) -> anyhow::Result<()> {
    let token = signet_identity::operator::connect(&place.run.join("operator.sock"))
        .await?
        .create_join_token(signet_api::identity::CreateJoinTokenRequest { ttl_seconds: 600 })
        .await
        .context("the identity server gave no join token")?
        .into_inner()
        .token;
    let token_file = place.dir.join("join-token");
    std::fs::write(&token_file, token)?;
    std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600))?;
    let admin = free()?;
    let config = place.config(
        "agent",
        &json!({
            "trust_domain": DOMAIN, "server": server, "bootstrap_bundle": place.dir.join("identity/bundle.pem"),
            "join_token_file": token_file, "data_dir": place.own("agent")?, "socket": place.run.join("agent.sock"),
            "workload_socket_dir": place.run.join("w"), "admin": admin,
        }),
    )?;
    servers.push(place.start("signet-identity", &["agent"], &config, "agent")?);
    ready("agent", admin, place).await
}

/// The one service, as each role knows it.
fn manifests(place: &Place, role: Role, listen: SocketAddr) -> anyhow::Result<()> {
    let endpoint = match role {
        Role::Client { peer } => peer,
        Role::Server { .. } => listen,
    };
    let dir = place.dir.join("manifests");
    std::fs::create_dir_all(&dir)?;
    let family = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "app", "namespace": "bench", "annotations": { "signet.dev/service-accounts": "server" } },
        "spec": { "ports": [{ "name": "http", "port": 80, "appProtocol": "http" }] },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "app-1", "namespace": "bench", "labels": { "kubernetes.io/service-name": "app" } },
        "addressType": family, "ports": [{ "name": "http", "port": endpoint.port() }],
        "endpoints": [{ "addresses": [endpoint.ip()], "conditions": { "ready": true } }],
    });
    std::fs::write(dir.join("app.yaml"), format!("{service}\n---\n{slice}\n"))?;
    Ok(())
}

/// A repository with one signed commit of 1,000 policies, one of which permits the measured call.
fn policies(place: &Place) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (repository, key) = (place.dir.join("policy"), place.dir.join("policy-key"));
    std::fs::create_dir_all(repository.join("policies"))?;
    std::fs::write(repository.join("signet.yaml"), "version: 1\n")?;
    let mut text = String::new();
    for n in 0..POLICIES {
        let (caller, service) = match n {
            0 => ("client".to_owned(), "app".to_owned()),
            n => (format!("caller-{}", n % 97), format!("service-{n}")),
        };
        text.push_str(&format!(
            "@id(\"bench-{n}\")\n@owner(\"bench\")\npermit (\n  principal == Mesh::Workload::\"spiffe://{DOMAIN}/ns/bench/sa/{caller}\",\n  \
             action in [Mesh::Action::\"read\", Mesh::Action::\"write\"],\n  resource in Mesh::Service::\"{DOMAIN}/bench/{service}\"\n);\n\n"
        ));
    }
    std::fs::write(repository.join("policies/bench.cedar"), text)?;
    let done = |command: Command| -> anyhow::Result<()> {
        let said = format!("{command:?}");
        let output = cli::run(command)?;
        ensure!(output.code == 0, "{said}: {}", output.stderr);
        Ok(())
    };
    let mut keygen = Command::new("ssh-keygen");
    let _ = std::fs::remove_file(&key);
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "bench@bench.example", "-f"]).arg(&key);
    done(keygen)?;
    let public = std::fs::read_to_string(key.with_extension("pub"))?;
    let signers = place.dir.join("trusted_signers");
    std::fs::write(&signers, format!("bench@bench.example namespaces=\"git\" {}\n", public.trim()))?;
    let signing = format!("user.signingkey={}", key.display());
    for arguments in [
        &["init", "--quiet", "--initial-branch=main", "--template="][..],
        &["add", "--all"],
        &["commit", "--quiet", "-S", "-m", "A bundle for measurements"],
    ] {
        let mut git = Command::new("git");
        git.arg("-C").arg(&repository);
        for setting in ["user.name=Bench", "user.email=bench@bench.example", "gpg.format=ssh", &signing] {
            git.args(["-c", setting]);
        }
        git.args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        done(git)?;
    }
    Ok((repository, signers))
}

/// A PostgreSQL of its own, as user `postgres` where we are root; gives the DSN.
fn postgres(place: &Place, servers: &mut Vec<Server>) -> anyhow::Result<String> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL's server is missing: apt-get install postgresql")?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    let bin = versions.pop().context("PostgreSQL's server is missing: apt-get install postgresql")?;
    let (data, listen) = (place.run.join("postgres"), free()?);
    std::fs::create_dir_all(&data)?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
    let mut as_user = Vec::new();
    if rustix::process::geteuid().is_root() {
        let users = std::fs::read_to_string("/etc/passwd")?;
        let line = users.lines().find(|line| line.starts_with("postgres:")).context("there is no user `postgres`")?;
        let mut ids = line.split(':').skip(2).map(str::parse::<u32>);
        let (Some(Ok(uid)), Some(Ok(gid))) = (ids.next(), ids.next()) else { bail!("/etc/passwd is not readable") };
        chown(&data, Some(uid), Some(gid))?;
        as_user = vec![format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
    }
    let data_text = data.to_str().context("a strange directory")?.to_owned();
    let mut initdb = Command::new("setpriv");
    initdb.args(&as_user).arg("--").arg(bin.join("initdb")).current_dir("/");
    // Reachable from this namespace's loopback alone, for the length of a measurement.
    initdb.args([
        "-D",
        &data_text,
        "--username",
        "signet",
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
        "--locale",
        "C.UTF-8",
        "--no-sync",
    ]);
    let output = cli::run(initdb)?;
    ensure!(output.code == 0, "initdb: {}", output.stderr);
    let server = bin.join("postgres");
    let settings = [
        format!("port={}", listen.port()),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={data_text}"),
    ];
    let mut arguments: Vec<&str> = as_user.iter().map(String::as_str).collect();
    arguments.extend(["--", server.to_str().context("a strange directory")?, "-D", &data_text]);
    for setting in &settings {
        arguments.extend(["-c", setting.as_str()]);
    }
    servers.push(Server::start_behind("setpriv", &arguments, &place.dir.join("postgres.log"))?);
    let end = Instant::now() + START;
    loop {
        let mut psql = Command::new(bin.join("psql"));
        psql.args([
            "-X",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            &listen.port().to_string(),
            "-U",
            "signet",
            "-d",
            "postgres",
            "-c",
            "CREATE DATABASE signet",
        ]);
        let output = cli::run(psql)?;
        if output.code == 0 {
            return Ok(format!("postgres://signet@{listen}/signet"));
        }
        ensure!(Instant::now() < end, "PostgreSQL did not start: {}", output.stderr);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Leads what comes for `from` to the loopback address `to`, in this network namespace; gives the table's name.
fn lead(from: SocketAddr, to: SocketAddr) -> anyhow::Result<String> {
    ensure!(from.is_ipv4(), "--listen takes an IPv4 address, or any loopback one");
    let table = format!("signet_pair_{}", from.port());
    let rule = format!("ip daddr {} tcp dport {} dnat to {to}", from.ip(), from.port());
    let text = format!(
        "table ip {table} {{\n chain before {{ type nat hook prerouting priority dstnat; {rule}; }}\n \
         chain own {{ type nat hook output priority -100; {rule}; }}\n}}\n"
    );
    std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")
        .context("a --listen that is not on loopback needs root, to lead its connections there")?;
    let mut nft = Command::new("nft");
    nft.arg(&text);
    let output = cli::run(nft)?;
    ensure!(output.code == 0, "nft: {}", output.stderr);
    Ok(table)
}
