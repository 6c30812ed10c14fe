//! A soak: the demo under half of the load that it can take, while SVIDs are renewed, policies change and endpoints come
//! and go, all every few seconds. `make soak` runs it for 15 minutes, and `make test` for one.
//!
//! What it shows: no allowed call fails, no denied call passes, memory stays flat, and PostgreSQL holds exactly the
//! decisions that the calls counted. Everything is seen from outside, as users see it.

mod churn;
mod counted;
mod load;
mod memory;

use std::fmt;
use std::time::{Duration, Instant};

use crate::demo::Demo;

use load::{Load, Pace};

/// Calls under way at once while the most that the demo takes is found out.
const MOST_AT_ONCE: usize = 32;
/// Calls under way at once at half of that.
const WORKERS: usize = 64;

/// What is run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub time: Duration,
    /// How long the most that the demo takes is looked for.
    pub finding: Duration,
    /// Calls per second; half of the most that was found when left out.
    pub rate: Option<u32>,
    /// Between two changes of the same kind.
    pub every: Duration,
    /// What a process may grow by between the middle of the soak and its end, bytes and share of what it had.
    pub growth: (u64, f64),
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub rate: u32,
    pub most: Option<f64>,
    pub calls: u64,
    pub commits: u32,
    pub moves: u32,
    pub renewals: u32,
    pub memory: Vec<memory::Grown>,
    /// What was not as it must be, and where; empty when all was.
    pub problems: Vec<String>,
}

/// Lets a started demo run as `plan` says. The demo should have no load of its own, and short-lived SVIDs.
///
/// # Errors
/// When the soak could not be done; what it found is in the report.
pub async fn run(demo: &Demo, plan: &Plan) -> anyhow::Result<Report> {
    let load = Load::new(demo)?;
    let most = match plan.rate {
        Some(_) => None,
        None => {
            let started = Instant::now();
            let calls = load.run(Pace::Most { workers: MOST_AT_ONCE, time: plan.finding }).await;
            Some(calls as f64 / started.elapsed().as_secs_f64())
        }
    };
    let rate = plan.rate.unwrap_or_else(|| most.map_or(1, |most| ((most / 2.0) as u32).max(1)));
    let (changes, memory, renewals, _) = tokio::try_join!(
        churn::run(demo, &load, plan.time, plan.every),
        memory::watch(demo, plan.time),
        churn::renewals(demo, plan.time),
        async {
            load.run(Pace::Steady { workers: WORKERS, rate, time: plan.time }).await;
            anyhow::Ok(())
        },
    )?;
    let mut problems = load.problems();
    problems.extend(changes.problems);
    if renewals == 0 {
        problems.push("no SVID was renewed; was the demo started with a short --svid-ttl?".to_owned());
    }
    problems.extend(memory.iter().filter_map(|grown| grown.problem(plan.growth)));
    problems.extend(counted::compare(demo, &load).await?);
    Ok(Report {
        rate,
        most,
        calls: load.calls(),
        commits: changes.commits,
        moves: changes.moves,
        renewals,
        memory,
        problems,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(most) = self.most {
            writeln!(f, "most calls per second that the demo took: {most:.0}")?;
        }
        writeln!(f, "{} calls at {} per second beside", self.calls, self.rate)?;
        writeln!(
            f,
            "{} signed policy commits, {} moves of endpoints, {} renewals of workloads' SVIDs",
            self.commits, self.moves, self.renewals
        )?;
        for grown in &self.memory {
            writeln!(f, "{grown}")?;
        }
        if self.problems.is_empty() {
            return writeln!(f, "no allowed call failed, no denied call passed, each decision has its record");
        }
        writeln!(f, "{} problems:", self.problems.len())?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))
    }
}
