//! What processes use, from /proc.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// Clock ticks per second of /proc's times; Linux fixes it at 100 for user space.
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_mib: f64,
}

impl Usage {
    /// The sum over these processes and their children (nginx works in one).
    pub(crate) fn of(pids: &[i32]) -> anyhow::Result<Self> {
        let mut usage = Self { cpu_seconds: 0.0, resident_mib: 0.0 };
        for pid in with_children(pids)? {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("a measured process is gone")?;
            // The name, in parentheses, may hold spaces.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks =
                |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
            usage.cpu_seconds += (ticks(11) + ticks(12)) / TICKS;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let resident = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
            usage.resident_mib += resident.unwrap_or_default() / 1024.0;
        }
        Ok(usage)
    }
}

fn with_children(pids: &[i32]) -> anyhow::Result<Vec<i32>> {
    let mut all = pids.to_vec();
    for pid in pids {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
    Ok(all)
}

/// A server in the foreground, ended when dropped.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(program: &str, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig=TERM", "--", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self(child))
    }

    /// As [`Server::start`], yielding the CPU to whatever else wants it.
    pub(crate) fn start_behind(program: &str, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let mut all = vec!["-n", "19", program];
        all.extend(arguments);
        Self::start("nice", &all, log)
    }

    pub(crate) fn pid(&self) -> anyhow::Result<i32> {
        Ok(i32::try_from(self.0.id())?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            let _ = crate::demo::signal(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
