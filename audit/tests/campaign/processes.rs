//! The processes of a run, and the threads that keep them alive and give them work.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::books::Books;
use crate::children::decision_id;
use crate::plan::{DECISIONS, PRODUCERS, Plan, SERVICES};
use crate::relay::Targets;

/// Between two decisions of a producer.
const PACE: Duration = Duration::from_micros(400);
/// Before a process that ended is started again.
const AGAIN: Duration = Duration::from_millis(30);
/// What may take this long before a run has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What the threads of a run share.
pub struct Run {
    pub plan: Plan,
    pub directory: PathBuf,
    pub dsn: String,
    pub relay: SocketAddr,
    pub targets: Targets,
    /// Where the services show their checkpoints.
    pub tlogs: Mutex<[Option<SocketAddr>; SERVICES]>,
    /// Decisions asked for so far, of all producers.
    pub asked: AtomicU64,
    /// No fault comes any more.
    pub calm: AtomicBool,
    pub stopping: AtomicBool,
    producers: [Mutex<Option<Child>>; PRODUCERS],
    services: [Mutex<Option<Child>>; SERVICES],
}

impl Run {
    pub fn new(plan: Plan, directory: &Path, dsn: &str, relay: SocketAddr) -> Self {
        Self {
            plan,
            directory: directory.to_owned(),
            dsn: dsn.to_owned(),
            relay,
            targets: Targets::default(),
            tlogs: Mutex::default(),
            asked: AtomicU64::new(0),
            calm: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            producers: Default::default(),
            services: Default::default(),
        }
    }

    /// What a process says on its standard error.
    pub fn log(&self, name: &str) -> PathBuf {
        // Beside the disk that may be full.
        std::env::temp_dir().join(format!("seed-{}-{name}.log", self.plan.seed))
    }

    fn child(&self, name: &str, arguments: &[&str]) -> std::io::Result<Child> {
        let log: File = OpenOptions::new().create(true).append(true).open(self.log(name))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("role").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()
    }

    pub fn kill_producer(&self, index: usize) {
        kill(&self.producers[index]);
    }

    pub fn kill_service(&self, index: usize) {
        kill(&self.services[index]);
    }

    /// Lets services end by themselves.
    pub fn stop_services(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for service in &self.services {
            if let Some(child) = service.lock().as_mut() {
                drop(child.stdin.take());
            }
        }
    }

    /// Keeps a service running until [`Self::stop_services`].
    pub fn supervise(&self, index: usize) {
        let (name, number) = (format!("service-{index}"), index.to_string());
        while !self.stopping.load(Ordering::SeqCst) {
            let directory = self.directory.to_string_lossy();
            let Ok(mut child) = self.child(&name, &["service", &number, &directory, &self.dsn]) else {
                std::thread::sleep(AGAIN);
                continue;
            };
            let mut out = BufReader::new(child.stdout.take().unwrap());
            *self.services[index].lock() = Some(child);
            let mut line = String::new();
            // Its addresses, then nothing until it ends.
            while matches!(out.read_line(&mut line), Ok(1..)) {
                let addresses: Vec<SocketAddr> = line.split_whitespace().map(|one| one.parse().unwrap()).collect();
                self.targets.lock()[index] = Some(addresses[0]);
                self.tlogs.lock()[index] = Some(addresses[1]);
                line.clear();
            }
            self.targets.lock()[index] = None;
            self.tlogs.lock()[index] = None;
            reap(&self.services[index]);
            std::thread::sleep(AGAIN);
        }
    }

    /// Asks a producer for all its decisions, starting it again as often as it ends, and then has it hand over everything.
    pub fn decide(&self, index: usize) -> Result<Books, String> {
        let mut books = Books::default();
        let (seed, mut number, started) = (self.plan.seed, 0, Instant::now());
        let durability = format!("{:?}", self.plan.durability[index]);
        let (name, index_text, seed_text) = (format!("producer-{index}"), index.to_string(), seed.to_string());
        let directory = self.directory.to_string_lossy();
        let relay = self.relay.to_string();
        loop {
            if started.elapsed() > PATIENCE {
                return Err(format!("producer {index} could not hand over its records within {PATIENCE:?}"));
            }
            let arguments = ["producer", &seed_text, &index_text, &durability, &directory, &relay];
            let Ok(mut child) = self.child(&name, &arguments) else {
                std::thread::sleep(AGAIN);
                continue;
            };
            let mut input = child.stdin.take().unwrap();
            let mut out = BufReader::new(child.stdout.take().unwrap());
            *self.producers[index].lock() = Some(child);
            let mut alive = true;
            while alive && number < DECISIONS {
                number += 1;
                let id = decision_id(seed, index, number);
                let mut answer = String::new();
                let asked = writeln!(input, "{number}").and_then(|()| out.read_line(&mut answer));
                match (asked, answer.trim_end()) {
                    (Ok(_), "kept") => books.kept.insert(id),
                    (Ok(_), "refused") => books.refused.insert(id),
                    _ => {
                        alive = false;
                        books.unanswered.insert(id)
                    }
                };
                self.asked.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(PACE);
            }
            while alive && !self.calm.load(Ordering::SeqCst) {
                std::thread::sleep(AGAIN);
                alive = !ended(&self.producers[index]);
            }
            drop(input);
            // It ends once everything is acknowledged, or because it was killed.
            let _ = out.read_line(&mut String::new());
            if reap(&self.producers[index]) && number == DECISIONS && alive {
                return Ok(books);
            }
            std::thread::sleep(AGAIN);
        }
    }
}

fn kill(child: &Mutex<Option<Child>>) {
    if let Some(child) = child.lock().as_mut() {
        let _ = child.kill();
    }
}

fn ended(child: &Mutex<Option<Child>>) -> bool {
    child.lock().as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
}

/// Waits for a process that is ending; whether it succeeded.
fn reap(child: &Mutex<Option<Child>>) -> bool {
    // Not held while it ends, so that it can still be killed.
    loop {
        match child.lock().as_mut().map(Child::try_wait) {
            Some(Ok(None)) => {}
            Some(Ok(Some(status))) => return status.success(),
            _ => return false,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
