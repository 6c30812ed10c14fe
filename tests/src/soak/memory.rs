//! What each process of the mesh holds in memory, over the time of a soak.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::demo::Demo;

const EVERY: Duration = Duration::from_secs(1);

/// Resident memory of one process, bytes.
#[derive(Debug, Clone)]
pub struct Grown {
    pub process: String,
    /// The most in the middle third of the soak, when caches are full.
    pub middle: u64,
    /// What it had at the end: the median of the last sixth.
    pub end: u64,
}

impl Grown {
    /// What is wrong with it, when it grew by more than `bytes` and by more than `share`.
    pub(super) fn problem(&self, (bytes, share): (u64, f64)) -> Option<String> {
        let grown = self.end.saturating_sub(self.middle);
        let too_much = grown > bytes && grown as f64 > self.middle as f64 * share;
        too_much.then(|| format!("memory of {} grew: {self}", self.process))
    }
}

impl fmt::Display for Grown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:<24} {:>7.1} MiB in the middle, {:>7.1} MiB at the end",
            self.process,
            mib(self.middle),
            mib(self.end)
        )
    }
}

/// Looks at all processes but PostgreSQL's, whose cache is as large as it was told, for `time`.
pub(super) async fn watch(demo: &Demo, time: Duration) -> anyhow::Result<Vec<Grown>> {
    let endpoints = demo.endpoints();
    let components = endpoints.pids.iter().filter(|(name, _)| !matches!(name.as_str(), "postgres" | "load"));
    let mut pids: BTreeMap<String, i32> = components.map(|(name, pid)| (name.clone(), *pid)).collect();
    pids.extend(endpoints.workloads.iter().map(|(name, workload)| (name.clone(), workload.pid)));
    let mut samples: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let until = Instant::now() + time;
    while Instant::now() < until {
        for (name, pid) in &pids {
            samples.entry(name).or_default().push(resident(*pid)?);
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(samples.into_iter().map(|(name, samples)| of(name, &samples)).collect())
}

fn of(name: &str, samples: &[u64]) -> Grown {
    let part =
        |from: usize, to: usize| samples.get(samples.len() * from / 6..samples.len() * to / 6).unwrap_or_default();
    let mut last = part(5, 6).to_vec();
    last.sort_unstable();
    Grown {
        process: name.to_owned(),
        middle: part(2, 4).iter().copied().max().unwrap_or_default(),
        end: last.get(last.len() / 2).copied().unwrap_or_default(),
    }
}

/// # Errors
/// When the process is gone: in a soak none may die.
fn resident(pid: i32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let text = std::fs::read_to_string(&path).map_err(|error| anyhow::anyhow!("{path}: {error}; did it die?"))?;
    let pages: u64 = text.split(' ').nth(1).unwrap_or_default().parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_and_caches_that_fill_early_are_not() {
        let mib = 1 << 20;
        let steady: Vec<u64> = (0..60).map(|n| if n < 10 { n * mib } else { 10 * mib }).collect();
        assert_eq!(of("a", &steady).problem((mib, 0.1)), None);
        let growing: Vec<u64> = (0..60).map(|n| n * mib).collect();
        assert!(of("a", &growing).problem((mib, 0.1)).is_some());
        assert_eq!(of("a", &growing).problem((100 * mib, 0.1)), None, "less than is allowed");
    }
}
