//! The demo as a process of its own, from the programs that the build made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

/// Starting takes some seconds on an idle machine; tests run on busy ones.
const START: Duration = Duration::from_secs(150);
/// DESIGN, section 8: SIGINT ends everything within 20 s.
pub const STOP: Duration = Duration::from_secs(20);

/// `endpoints.json`, as a script would read it: unknown fields are left alone, missing ones are an error.
#[derive(Debug, Clone, Deserialize)]
pub struct Endpoints {
    pub dashboard: String,
    pub dashboard_token: String,
    pub postgres: String,
    pub policy_repo: PathBuf,
    pub policy_signing_key: PathBuf,
    pub clusters: BTreeMap<String, Cluster>,
    pub workloads: BTreeMap<String, Workload>,
    pub pids: BTreeMap<String, i32>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Cluster {
    pub trust_domain: String,
    pub identity: String,
    pub bundle_endpoint: String,
    pub gateway: String,
    pub control: String,
    pub audit: String,
    pub tlog: String,
    pub log_origin: String,
    pub log_key: String,
    pub witness_key: String,
    pub agent_socket: PathBuf,
    #[serde(default)]
    pub admin: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Workload {
    pub spiffe_id: String,
    pub outbound: String,
    pub inbound: String,
    pub app: String,
    pub admin: String,
    pub workload_api: String,
    pub pid: i32,
    /// With `--netns`.
    #[serde(default)]
    pub netns: Option<String>,
}

/// A running demo; ended when dropped.
pub struct Demo {
    child: Child,
    dir: PathBuf,
    endpoints: Endpoints,
    temporary: tempfile::TempDir,
}

/// Where the build put the programs: beside the test's own directory.
///
/// # Errors
/// When they were not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.ancestors().find(|dir| dir.join("deps").is_dir()).context("the test lies in no target directory")?;
    let program = dir.join(name);
    ensure!(program.is_file(), "{} is missing: run `cargo build --workspace --bins` first", program.display());
    Ok(program)
}

impl Demo {
    /// Starts `signet demo` with these further arguments and waits until it says that all is ready.
    ///
    /// # Errors
    /// When it ends or stays silent; with what it wrote.
    pub fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(arguments, &[])
    }

    /// [`Demo::start`] with these variables in the environment of all that it starts.
    ///
    /// # Errors
    /// When it ends or stays silent; with what it wrote.
    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let temporary = tempfile::Builder::new().prefix("signet-test-").tempdir()?;
        let dir = temporary.path().join("demo");
        let output = temporary.path().join("output.txt");
        let log = std::fs::File::create(&output)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig=TERM", "--"])
            .arg(program("signet")?)
            .args(["demo", "--dir"])
            .arg(&dir)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start `signet demo`")?;
        let mut starting = Starting { child: Some(child) };
        let endpoints = starting.wait_for(&dir.join("endpoints.json"), &output)?;
        let child = starting.child.take().context("the demo's process is gone")?;
        Ok(Self { child, dir, endpoints, temporary })
    }

    /// What `endpoints.json` said when the demo was ready.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// What it says now: pids change when a component is started again.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn endpoints_now(&self) -> anyhow::Result<Endpoints> {
        read_endpoints(&self.dir.join("endpoints.json"))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn context_file(&self) -> PathBuf {
        self.dir.join("endpoints.json")
    }

    /// # Errors
    /// When the demo has no such workload.
    pub fn workload(&self, key: &str) -> anyhow::Result<&Workload> {
        self.endpoints.workloads.get(key).with_context(|| format!("no workload `{key}` in endpoints.json"))
    }

    /// # Errors
    /// When the demo has no such cluster.
    pub fn cluster(&self, name: &str) -> anyhow::Result<&Cluster> {
        self.endpoints.clusters.get(name).with_context(|| format!("no cluster `{name}` in endpoints.json"))
    }

    /// The pid of the demo itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Presses Ctrl-C and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn interrupt(&mut self) -> anyhow::Result<ExitStatus> {
        signal(i32::try_from(self.child.id())?, Signal::INT)?;
        self.wait(STOP)
    }

    /// Waits until the demo ends by itself.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(started.elapsed() < limit, "waited {} s for the demo to end", limit.as_secs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Leaves the demo's directory where it is when the demo has ended, and says where.
    pub fn keep(&mut self) -> &Path {
        self.temporary.disable_cleanup(true);
        self.dir.as_path()
    }

    /// What the demo wrote so far, both streams.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.dir.with_file_name("output.txt"))?)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let ended = matches!(self.child.try_wait(), Ok(Some(_))) || self.interrupt().is_ok();
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Ends a demo that never became ready.
struct Starting {
    child: Option<Child>,
}

impl Starting {
    fn wait_for(&mut self, endpoints: &Path, output: &Path) -> anyhow::Result<Endpoints> {
        let started = Instant::now();
        loop {
            if endpoints.exists() {
                return read_endpoints(endpoints);
            }
            let said = || std::fs::read_to_string(output).unwrap_or_default();
            if let Some(child) = self.child.as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("the demo ended with {status} before it was ready:\n{}", said());
            }
            if started.elapsed() > START {
                bail!("waited {} s for the demo:\n{}", START.as_secs(), said());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            let _ = i32::try_from(child.id()).map(|pid| signal(pid, Signal::TERM));
            let _ = child.wait();
        }
    }
}

fn read_endpoints(path: &Path) -> anyhow::Result<Endpoints> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not as documented", path.display()))
}

/// Sends a signal to one process that the demo named.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid).context("no process has the pid 0")?;
    kill_process(pid, signal).with_context(|| format!("cannot signal the process {pid:?}"))
}

/// Whether a process with this pid exists.
pub fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}
