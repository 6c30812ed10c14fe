//! A demo with namespaces from start to end: its summary, one beside another, and what is left when it is killed.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;
use signet_tests::demo::{self, Demo};

use crate::OwnTest;
use crate::space::{must, name_of};

pub(crate) const TESTS: &[(&str, OwnTest)] =
    &[("a_timed_demo_in_namespaces_adds_up_beside_another_that_is_killed", beside_a_killed_one)];

fn left(id: &str) -> anyhow::Result<String> {
    let all = [must(&["ip", "netns", "list"])?, must(&["ip", "-br", "link"])?].concat();
    let mut found: Vec<&str> = all.lines().filter(|line| line.contains(id)).collect();
    for path in [format!("/run/signet-demo/{id}"), format!("/etc/netns/signet-{id}-east-web")] {
        if std::path::Path::new(&path).exists() {
            found.push("files");
        }
    }
    Ok(found.join(", "))
}

fn id_of(demo: &Demo) -> anyhow::Result<String> {
    let name = name_of(demo, "east/bank/web")?;
    Ok(name.trim_start_matches("signet-").split('-').next().unwrap_or_default().to_owned())
}

fn gone(id: &str, limit: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let left = left(id)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(started.elapsed() < limit, "still there: {left}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn beside_a_killed_one() -> anyhow::Result<()> {
    let killed = Demo::start(&["--netns", "--rate", "0"])?;
    let mut timed = Demo::start(&["--netns", "--rate", "40", "--seconds", "6"])?;
    let (first, second) = (id_of(&killed)?, id_of(&timed)?);
    ensure!(first != second && !left(&first)?.is_empty() && !left(&second)?.is_empty());
    demo::signal(i32::try_from(killed.pid())?, Signal::KILL)?;
    gone(&first, Duration::from_secs(20))?;
    let status = timed.wait(Duration::from_secs(60))?;
    let output = timed.output()?;
    ensure!(status.success() && output.contains("records in PostgreSQL"), "{status}: {output}");
    ensure!(left(&second)?.is_empty(), "still there: {}", left(&second)?);
    Ok(())
}
