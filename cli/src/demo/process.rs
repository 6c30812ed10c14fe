//! One child process of the demo, kept alive: started, watched, started again when it dies, and ended.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, ResultExt};

/// A component that dies is back well within the two seconds that the demo promises.
const RESTART_FIRST: Duration = Duration::from_millis(50);
const RESTART_LAST: Duration = Duration::from_millis(800);
/// A process that ran this long starts the next wait from the shortest again.
const STEADY: Duration = Duration::from_secs(5);

/// How to start a child; may be repeated.
pub(crate) struct Spawn {
    command: Command,
}

impl From<Command> for Spawn {
    fn from(command: Command) -> Self {
        Self { command }
    }
}

impl Spawn {
    /// One of our own programs, which the kernel ends when the demo itself is killed.
    pub(crate) fn program(program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig=TERM", "--"]).arg(program);
        command
    }
}

/// Runs a program of the machine to its end; `install` is the next step when it is not there.
pub(crate) fn run_to_end(mut command: Command, name: &str, install: &str) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output().failed(format!("cannot run `{name}`"), install)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::failed(format!("`{name}` failed: {}", said.trim())).next("mend what it says and start the demo again"))
}

/// Names and pids of the children as they are now.
pub(crate) type Pids = watch::Receiver<BTreeMap<String, u32>>;

/// All children of the demo.
pub(crate) struct Processes {
    logs: PathBuf,
    pids: watch::Sender<BTreeMap<String, u32>>,
    children: Vec<Child>,
    tasks: JoinSet<()>,
}

struct Child {
    name: String,
    stop: CancellationToken,
    stop_signal: Signal,
    ended: watch::Receiver<bool>,
    pid: Arc<Mutex<Option<Pid>>>,
}

impl Processes {
    pub(crate) fn new(logs: PathBuf) -> Self {
        Self { logs, pids: watch::Sender::new(BTreeMap::new()), children: Vec::new(), tasks: JoinSet::new() }
    }

    pub(crate) fn pids(&self) -> Pids {
        self.pids.subscribe()
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{}.log", name.replace('/', "-")))
    }

    /// Starts `spawn` under `name` and keeps it running until it is stopped.
    pub(crate) fn start(&mut self, name: &str, spawn: Spawn, stop_signal: Signal) -> Result<(), Failure> {
        let log_path = self.log(name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .failed(format!("cannot open the log `{}`", log_path.display()), "check the space and rights there")?;
        let (ended_sender, ended) = watch::channel(false);
        let stop = CancellationToken::new();
        let pid = Arc::new(Mutex::new(None));
        let keeper = Keeper {
            name: name.to_owned(),
            command: spawn.command,
            log,
            stop: stop.clone(),
            pid: Arc::clone(&pid),
            pids: self.pids.clone(),
        };
        self.tasks.spawn(async move {
            keeper.keep().await;
            ended_sender.send_replace(true);
        });
        self.children.push(Child { name: name.to_owned(), stop, stop_signal, ended, pid });
        Ok(())
    }

    /// Ends every child whose name `matches`, all at once; those that have not ended after `grace` are killed.
    pub(crate) async fn stop(&self, matches: impl Fn(&str) -> bool, grace: Duration) {
        let children: Vec<&Child> = self.children.iter().filter(|child| matches(&child.name)).collect();
        for child in &children {
            child.stop.cancel();
            child.signal(child.stop_signal);
        }
        let deadline = tokio::time::Instant::now() + grace;
        for child in &children {
            let mut ended = child.ended.clone();
            if tokio::time::timeout_at(deadline, ended.wait_for(|ended| *ended)).await.is_err() {
                child.signal(Signal::KILL);
                let _ = ended.wait_for(|ended| *ended).await;
            }
        }
    }
}

impl Child {
    /// The pid is only there while the child has not been waited for, so it cannot be somebody else's.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = *lock(&self.pid) {
            let _ = kill_process(pid, signal);
        }
    }
}

struct Keeper {
    name: String,
    command: Command,
    log: File,
    stop: CancellationToken,
    pid: Arc<Mutex<Option<Pid>>>,
    pids: watch::Sender<BTreeMap<String, u32>>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut wait = RESTART_FIRST;
        while !self.stop.is_cancelled() {
            let started = Instant::now();
            match self.run_once().await {
                Ok(status) if self.stop.is_cancelled() => {
                    tracing::debug!(process = self.name, %status, "ended");
                    return;
                }
                Ok(status) => eprintln!("  {} ended ({status}); starting it again", self.name),
                Err(error) => eprintln!("  {} cannot be started: {error}", self.name),
            }
            wait = if started.elapsed() > STEADY { RESTART_FIRST } else { (wait * 2).min(RESTART_LAST) };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn run_once(&mut self) -> std::io::Result<ExitStatus> {
        use std::os::unix::process::CommandExt;

        self.command.stdin(Stdio::null()).stdout(self.log.try_clone()?).stderr(self.log.try_clone()?);
        // A process group of its own: a terminal's Ctrl-C reaches the demo alone, which then ends its children in order.
        self.command.process_group(0);
        let child = self.command.spawn()?;
        let raw = child.id();
        let mut child = OwnedChild { child, pid: Arc::clone(&self.pid) };
        *lock(&self.pid) = i32::try_from(raw).ok().and_then(Pid::from_raw);
        self.pids.send_modify(|pids| {
            pids.insert(self.name.clone(), raw);
        });
        child.wait().await
    }
}

/// Waits for a child without a thread of its own: SIGCHLD wakes, `try_wait` asks.
struct OwnedChild {
    child: std::process::Child,
    pid: Arc<Mutex<Option<Pid>>>,
}

impl OwnedChild {
    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let mut deaths = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        loop {
            {
                // INVARIANT: the pid is taken back in the same breath in which the child is waited for.
                let mut pid = lock(&self.pid);
                if let Some(status) = self.child.try_wait()? {
                    *pid = None;
                    return Ok(status);
                }
            }
            // The timer covers a SIGCHLD that came before the handler was set.
            let _ = tokio::time::timeout(Duration::from_millis(250), deaths.recv()).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pid_of(pids: &mut Pids, other_than: Option<u32>) -> u32 {
        let found = pids.wait_for(|pids| pids.get("x").is_some_and(|pid| Some(*pid) != other_than));
        *tokio::time::timeout(Duration::from_secs(5), found)
            .await
            .expect("the process to be started")
            .unwrap()
            .get("x")
            .unwrap()
    }

    #[tokio::test]
    async fn starts_again_what_was_killed_and_ends_what_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(dir.path().to_owned());
        let mut pids = processes.pids();
        let mut command = Command::new("sleep");
        command.arg("1000");
        processes.start("x", command.into(), Signal::TERM).unwrap();
        let first = pid_of(&mut pids, None).await;
        kill_process(Pid::from_raw(first as i32).unwrap(), Signal::KILL).unwrap();
        let second = pid_of(&mut pids, Some(first)).await;
        processes.stop(|name| name == "x", Duration::from_secs(5)).await;
        assert!(rustix::process::test_kill_process(Pid::from_raw(second as i32).unwrap()).is_err());
    }

    #[tokio::test]
    async fn kills_what_ignores_the_request_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(dir.path().to_owned());
        let mut pids = processes.pids();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
        processes.start("x", command.into(), Signal::TERM).unwrap();
        let pid = pid_of(&mut pids, None).await;
        processes.stop(|_| true, Duration::from_millis(200)).await;
        assert!(rustix::process::test_kill_process(Pid::from_raw(pid as i32).unwrap()).is_err());
    }
}
